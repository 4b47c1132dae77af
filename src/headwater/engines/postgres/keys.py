"""Parts of keys as bytes that sort as the model orders them: none, then integers, then strings by code point.

Other texts of users (subjects, groups, claims, errors) stay texts: `pack_text`, and `unpack_text` where they come back.
"""

from __future__ import annotations

import re

from headwater.events import Key, KeyPart

_MIDDLE = 1 << 63
_PLAIN = {"\1\1": "\1", "\1\2": "\0"}
_PACKED = re.compile("\1[\1\2]")
Packed = tuple[bytes, bytes]


def pack_part(part: KeyPart) -> bytes:
    """A sort part, or a part of an index entry."""
    if isinstance(part, int):
        return b"i" + (part + _MIDDLE).to_bytes(8, "big")
    return b"s" + part.encode() if part else b""


def unpack_part(packed: bytes) -> KeyPart:
    if packed[:1] == b"i":
        return int.from_bytes(packed[1:], "big") - _MIDDLE
    return packed[1:].decode()


def pack_key(key: Key) -> Packed:
    return key[0].encode(), pack_part(key[1])


def unpack_key(pk: bytes, sk: bytes) -> Key:
    return pk.decode(), unpack_part(sk)


def pack_text(text: str) -> str:
    """A text as PostgreSQL can keep it, which knows no NUL. Equal texts stay equal, others different."""
    return text.replace("\1", "\1\1").replace("\0", "\1\2") if "\0" in text or "\1" in text else text


def unpack_text(packed: str) -> str:
    return _PACKED.sub(lambda found: _PLAIN[found[0]], packed) if "\1" in packed else packed


def after_prefix(packed: bytes) -> bytes:
    """The least bytes that sort after all those with the prefix, which is not empty and has no byte of 255."""
    return packed[:-1] + bytes((packed[-1] + 1,))
