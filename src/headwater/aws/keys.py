"""Keys and index entries as DynamoDB's string attributes, which it orders by their bytes.

The order is the model's: integers before strings, strings by code point. A string is kept as it is, so that people and
other programs can read it, but for one that is empty or begins with a control character up to `_ESCAPE`.
"""

from __future__ import annotations

from headwater.events import KeyPart

MOST_SORT = 1024
"""DynamoDB's limit for a sort key, in bytes."""
_INTEGER, _ESCAPE = "\x01", "\x02"
_MIDDLE = 1 << 63
_END = "\0\0"


def pack_part(part: KeyPart) -> str:
    """A sort part, or a part of an index entry; never empty."""
    if isinstance(part, int):
        return f"{_INTEGER}{part:019d}" if part >= 0 else f"{_INTEGER}-{part + _MIDDLE:019d}"
    return part if part[:1] > _ESCAPE else _ESCAPE + part


def unpack_part(packed: str) -> KeyPart:
    if packed[:2] == f"{_INTEGER}-":
        return int(packed[2:]) - _MIDDLE
    if packed[:1] == _INTEGER:
        return int(packed[1:])
    return packed.removeprefix(_ESCAPE)


def pack_place(sort: KeyPart, pk: str, sk: KeyPart) -> str:
    """Where a record stands in a partition of an index: by the entry's sort part, then by the record's key.

    Cut where DynamoDB can keep no more: the order of records whose places are alike up to there is not told.
    """
    return _fitting(_END.join(_escaped(part) for part in (pack_part(sort), pk, pack_part(sk))))


def place_from(sort: KeyPart) -> str:
    """Not above the places of entries with this sort part, above all before them."""
    return _fitting(_escaped(pack_part(sort)) + _END)


def place_to(sort: KeyPart) -> str:
    """Not below the places of entries with this sort part, below all after them."""
    return _fitting(_escaped(pack_part(sort)) + "\0\1")


def place_prefix(prefix: str) -> str:
    """What the places of entries whose sort part begins so begin with."""
    return _fitting(_escaped(pack_part(prefix)))


def _escaped(text: str) -> str:
    return text.replace("\0", "\0\1")


def _fitting(text: str) -> str:
    return text if len(text) * 4 <= MOST_SORT else text.encode()[:MOST_SORT].decode(errors="ignore")
