"""API keys: their form, their checksum, and what is kept of them."""

from __future__ import annotations

import string

import pytest

from headwater.clock import SystemClock
from headwater.errors import Unauthenticated
from headwater.http.issuers import KeySpec
from headwater.http.keys import ALPHABET, Key, KeyRing, digest_of, environment_part, make_id, make_key, read_key

ID = "abc123def456"


class OneKey:
    """The rows of a store with this key."""

    def __init__(self, key: Key | None = None) -> None:
        self.key = key
        self.reads = 0

    async def get(self, id: str) -> Key | None:
        self.reads += 1
        return self.key if self.key is not None and self.key.id == id else None


def ring(row: Key | None = None, environment: str = "live", **declared: KeySpec) -> KeyRing:
    return KeyRing(OneKey(row), declared, environment, SystemClock())


def test_a_key_names_its_environment_and_id() -> None:
    key = make_key("live", ID)
    assert key.startswith(f"hw_live_{ID}_")
    assert len(key) == len(f"hw_live_{ID}_") + 32 + 6
    assert set(key.rpartition("_")[2]) <= set(ALPHABET)
    assert read_key(key) == ("live", ID)


def test_keys_and_ids_are_random() -> None:
    assert len({make_key("live", ID) for _ in range(200)}) == 200
    assert len({make_id() for _ in range(200)}) == 200
    assert read_key(make_key("live", make_id())) is not None


@pytest.mark.parametrize(
    ("name", "part"),
    [("live", "live"), ("Pre-Prod_2", "preprod2"), ("", "default"), ("生产", "default"), ("x" * 40, "x" * 32)],
)
def test_an_environments_name_in_a_key(name: str, part: str) -> None:
    assert environment_part(name) == part
    assert read_key(make_key(name, ID)) == (part, ID)


def test_each_single_changed_character_is_seen_without_the_store() -> None:
    key = make_key("live", ID)
    for place, present in enumerate(key):
        for other in string.ascii_letters + string.digits + "_-\x00 é":
            if other != present:
                assert read_key(key[:place] + other + key[place + 1 :]) is None, (place, other)


@pytest.mark.parametrize("size", [1, 5, 37])
def test_a_longer_or_shorter_key_is_none(size: int) -> None:
    key = make_key("live", ID)
    assert read_key(key + "a" * size) is None
    assert read_key(key[:-size]) is None
    assert read_key(f"{key}\n") is None
    assert read_key("") is None


def test_swapped_characters_are_seen() -> None:
    key = make_key("live", ID)
    swapped = [key[:n] + key[n + 1] + key[n] + key[n + 2 :] for n in range(len(key) - 1) if key[n] != key[n + 1]]
    assert [text for text in swapped if read_key(text) is not None] == []


async def test_what_is_kept_is_no_key_and_opens_nothing() -> None:
    key = make_key("live", ID)
    row = Key(id=ID, name="ann", digest=digest_of(key))
    assert key not in repr(row)
    assert key.rpartition("_")[2][:32] not in repr(row)
    assert await ring(row).verify(key) == row
    for text in (row.digest, f"hw_live_{ID}_{row.digest}"):
        with pytest.raises(Unauthenticated):
            await ring(row).verify(text)


async def test_made_up_keys_do_not_reach_the_store() -> None:
    rows = OneKey()
    keys = KeyRing(rows, {}, "live", SystemClock())
    for text in (make_key("live", ID)[:-1] + "!", make_key("other", ID), "x" * 1_000_000):
        with pytest.raises(Unauthenticated):
            await keys.verify(text)
    assert rows.reads == 0
    with pytest.raises(Unauthenticated):
        await keys.verify(make_key("live", ID))
    assert rows.reads == 1


async def test_a_key_is_good_in_its_own_environment_only() -> None:
    """Whoever knows a key of one environment can calculate the checksum of the same key under another's name."""
    from headwater.http.keys import _checksum

    key = make_key("test", ID)
    body = key[:-6].replace("hw_test_", "hw_live_")
    forged = body + _checksum(body)
    assert read_key(forged) == ("live", ID)
    row = Key(id=ID, name="ann", digest=digest_of(key))
    for keys in (ring(row), ring(ann=KeySpec(id=ID, digest=digest_of(key)))):
        for text in (key, forged):
            with pytest.raises(Unauthenticated):
                await keys.verify(text)
    assert (await ring(row, "test").verify(key)).id == ID


def test_a_rotated_key_matches_before_its_overlap_ends() -> None:
    first, second = make_key("live", ID), make_key("live", ID)
    row = Key(id=ID, name="ann", digest=digest_of(second), previous=digest_of(first), previous_until_ms=1000)
    assert row.matches(digest_of(second), 5000)
    assert row.matches(digest_of(first), 999)
    assert not row.matches(digest_of(first), 1000)
    assert not Key(id=ID, name="ann", digest=digest_of(second)).matches(digest_of(""), 0)


def test_an_expired_or_revoked_key_is_not_valid() -> None:
    assert Key(id=ID, name="ann", digest="").valid(10**15)
    assert Key(id=ID, name="ann", digest="", expires_ms=1000).valid(999)
    assert not Key(id=ID, name="ann", digest="", expires_ms=1000).valid(1000)
    assert not Key(id=ID, name="ann", digest="", revoked_ms=1).valid(0)
