"""API keys: `hw_<environment>_<id>_<random><checksum>`.

A key is shown once, when it is made; what is kept is a SHA-256 digest of the whole of it (190 bits of it are random: no
slow hash is needed against guessing), so a key is good in its own environment and under its own id only. The checksum
tells a mistyped or made-up key from a real one without a look at the store, and lets scanners for leaked secrets be
sure. Keys live in the table `headwater/keys`, or are declared in `headwater.toml`, by digest too.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import zlib
from collections.abc import Mapping
from typing import Protocol

import msgspec

from headwater.clock import Clock
from headwater.errors import Unauthenticated
from headwater.events import Caller
from headwater.http.credentials import refused
from headwater.http.issuers import KeySpec

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
RANDOM, CHECKSUM = 32, 6
CACHE_S = 0.5
"""A key's row is read again after this time: so a revoked key is refused everywhere within a second."""
_FORM = re.compile(rf"hw_([a-z0-9]{{1,32}})_([a-z0-9]{{12}})_[0-9A-Za-z]{{{RANDOM}}}([0-9A-Za-z]{{{CHECKSUM}}})")


class Key(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A key as it is kept. `digest` is that of its text; `previous` is valid until `previous_until_ms`."""

    id: str
    name: str
    digest: str
    environment: str = ""
    plan: str = ""
    roles: tuple[str, ...] = ()
    tenant: str = ""
    previous: str = ""
    previous_until_ms: int = 0
    created_ms: int = 0
    expires_ms: int = 0
    revoked_ms: int = 0

    def valid(self, now_ms: int) -> bool:
        return not self.revoked_ms and not (self.expires_ms and self.expires_ms <= now_ms)

    def matches(self, digest: str, now_ms: int) -> bool:
        """Compares in constant time, with both digests in any case."""
        present = hmac.compare_digest(self.digest, digest)
        before = hmac.compare_digest(self.previous or _NOTHING, digest)
        return present or (before and now_ms < self.previous_until_ms)

    @property
    def caller(self) -> Caller:
        return Caller(self.name, frozenset(self.roles), self.tenant, "key")


class Rows(Protocol):
    """Where keys are kept."""

    async def get(self, id: str) -> Key | None: ...


def environment_part(environment: str) -> str:
    """An environment's name as it stands in a key."""
    return re.sub(r"[^a-z0-9]", "", environment.lower())[:32] or "default"


def make_id() -> str:
    return "".join(secrets.choice(ALPHABET[:10] + ALPHABET[36:]) for _ in range(12))


def digest_of(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


_NOTHING = digest_of("")


def make_key(environment: str, id: str) -> str:
    """A new key of this id. To be shown once, and kept as its digest."""
    secret = "".join(secrets.choice(ALPHABET) for _ in range(RANDOM))
    body = f"hw_{environment_part(environment)}_{id}_{secret}"
    return body + _checksum(body)


def _checksum(body: str) -> str:
    number, text = zlib.crc32(body.encode()), ""
    for _ in range(CHECKSUM):
        number, digit = divmod(number, len(ALPHABET))
        text = ALPHABET[digit] + text
    return text


def read_key(text: str) -> tuple[str, str] | None:
    """(environment, id) of a well-formed key; None when it is none."""
    found = _FORM.fullmatch(text)
    if found is None or not hmac.compare_digest(_checksum(text[:-CHECKSUM]), found[3]):
        return None
    return found[1], found[2]


class KeyRing:
    """Finds out whose key a request brings."""

    def __init__(self, rows: Rows, declared: Mapping[str, KeySpec], environment: str, clock: Clock) -> None:
        self._rows = rows
        self._clock = clock
        self._environment = environment_part(environment)
        self._declared = {
            spec.id: Key(
                id=spec.id, name=name, digest=spec.digest, plan=spec.plan, roles=spec.roles, tenant=spec.tenant
            )
            for name, spec in declared.items()
        }
        self._cached: dict[str, tuple[Key, float]] = {}

    @property
    def declared(self) -> list[Key]:
        return list(self._declared.values())

    async def verify(self, text: str) -> Key:
        """The key that was sent; raises `Unauthenticated`, the same for every reason."""
        parsed = read_key(text)
        if parsed is None or parsed[0] != self._environment:
            raise _invalid()
        key, now_ms = await self._find(parsed[1]), self._clock.wall_ms()
        digest = digest_of(text)
        if key is None:
            hmac.compare_digest(_NOTHING, digest)
            raise _invalid()
        if not key.matches(digest, now_ms) or not key.valid(now_ms):
            raise _invalid()
        return key

    async def _find(self, id: str) -> Key | None:
        if (declared := self._declared.get(id)) is not None:
            return declared
        now_s = self._clock.monotonic()
        cached = self._cached.get(id)
        if cached is not None and now_s < cached[1]:
            return cached[0]
        key = await self._rows.get(id)
        if key is None:
            self._cached.pop(id, None)
        else:
            self._cached[id] = key, now_s + CACHE_S
        return key

    def forget(self, id: str) -> None:
        """The key has changed: look at its row next time."""
        self._cached.pop(id, None)


def _invalid() -> Unauthenticated:
    return refused("the API key is not valid")
