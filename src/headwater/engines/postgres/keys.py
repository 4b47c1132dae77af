"""Parts of keys as bytes that sort as the model orders them: none, then integers, then strings by code point."""

from __future__ import annotations

from headwater.events import Key, KeyPart

_MIDDLE = 1 << 63
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


def after_prefix(packed: bytes) -> bytes:
    """The least bytes that sort after all those with the prefix, which is not empty and has no byte of 255."""
    return packed[:-1] + bytes((packed[-1] + 1,))
