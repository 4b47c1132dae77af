"""Bulk loads as items of the store table.

loads#TABLE     scope#SCOPE   the load that a scope was last flipped to
                merging       a flipped load whose rows are not all in place, and what its changes are caused by
                load#ID       a load on its way; given#ID: one that was given up
staged#ID       NNNNNNNN      a row that differs, in the order in which the load brought it
member#TABLE#SCOPE  KEY       the digest of what the scope's last load wrote for a key
owner#TABLE#PARTITION  SORT   the scope that a key belongs to
"""

from __future__ import annotations

from typing import Any

import msgspec

from headwater.aws.items import PK, SK, Item, unpack_binary
from headwater.aws.keys import pack_part
from headwater.aws.stored import CONTENT, key
from headwater.events import Key
from headwater.unit import Origin

SCOPE, MERGING, LOAD, GIVEN_UP = "scope#", "merging", "load#", "given#"
LOADED = "hw_load"
TOUCHED = "hw_touched"


class Row(msgspec.Struct, frozen=True):
    """A row that a load changes. `base` is the version of the record it was compared with, None when there was none.

    Without a body the record goes, at `expires_ms` if that is set. Without a digest it leaves its scope.
    """

    key: Key
    base: str | None
    version: str
    body: bytes | None
    expires_ms: int | None
    digest: bytes | None
    is_new: bool = False


class Merging(msgspec.Struct, frozen=True):
    load: int
    scope: str
    origin: Origin


_encode = msgspec.msgpack.Encoder().encode
_decode_row = msgspec.msgpack.Decoder(Row).decode
_decode_merging = msgspec.msgpack.Decoder(Merging).decode


def loads_key(table: str, name: str) -> Item:
    return key(f"loads#{table}", name)


def loads_partition(table: str) -> str:
    return f"loads#{table}"


def staged_partition(load: int) -> str:
    return f"staged#{load}"


def staged_item(load: int, n: int, row: Row) -> Item:
    return {**key(staged_partition(load), f"{n:08d}"), CONTENT: {"B": _encode(row)}}


def read_row(item: Item) -> Row:
    return _decode_row(unpack_binary(item[CONTENT]))


def merging_item(table: str, merging: Merging) -> Item:
    return {**loads_key(table, MERGING), CONTENT: {"B": _encode(merging)}, LOADED: {"N": str(merging.load)}}


def read_merging(item: Item) -> Merging:
    return _decode_merging(unpack_binary(item[CONTENT]))


def member_partition(table: str, scope: str) -> str:
    return f"member#{table}#{scope}"


def member_item(table: str, scope: str, of: Key, digest: bytes) -> Item:
    name = f"{pack_part(of[0])}\0{pack_part(of[1])}"
    return {**key(member_partition(table, scope), name), CONTENT: {"B": _encode((of, digest))}}


def read_member(item: Item) -> tuple[Key, bytes]:
    found: Any = msgspec.msgpack.decode(unpack_binary(item[CONTENT]), type=tuple[Key, bytes])
    return found[0], found[1]


def owner_key(table: str, of: Key) -> Item:
    return key(f"owner#{table}#{of[0]}", pack_part(of[1]))


def owner_item(table: str, of: Key, scope: str) -> Item:
    return {**owner_key(table, of), "hw_scope": {"S": scope}}


def key_of_item(item: Item) -> tuple[str, str]:
    return item[PK]["S"], item[SK]["S"]
