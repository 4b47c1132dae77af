"""The public keys of an issuer, fetched from its JWKS URL (RFC 7517) and kept.

Keys are fetched when they are first needed and again every ten minutes, aside, while requests come; after a pause of
twenty the next request waits for it. A key that the set no longer has is refused from then on. An unknown key id
fetches anew, at most once a minute, whoever sends how many: so a rotated key is known at once, and nobody can turn
this server against the issuer. While the issuer cannot be reached the last set holds, for a day at most.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import jwt
import msgspec
import structlog
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.exceptions import PyJWTError

from headwater.clock import Clock
from headwater.errors import Unavailable
from headwater.http.issuers import FAMILIES

REFRESH_S, PAUSE_S, RETRY_S, STALE_S = 600.0, 1200.0, 60.0, 86_400.0
MIN_RSA_BITS = 2048
MAX_BYTES = 1024 * 1024
TIMEOUT_S = 5.0
KEY_TYPES = {"RS": "RSA", "ES": "EC", "Ed": "OKP"}
Fetch = Callable[[str], Awaitable[bytes]]
log = structlog.get_logger("headwater.access")


class PublicKey(msgspec.Struct, frozen=True):
    """A key of the set, and the algorithms that it verifies."""

    key: Any
    algorithms: tuple[str, ...]


class KeySet:
    """The keys of one URL, for one family of algorithms."""

    def __init__(self, url: str, family: str, clock: Clock, fetch: Fetch | None = None) -> None:
        self._url = url
        self._family = family
        self._clock = clock
        self._fetch = fetch or fetch_bytes
        self._keys: dict[str | int, PublicKey] = {}
        self._fetched_s: float | None = None
        self._tried_s: float | None = None
        self._fetching: asyncio.Task[None] | None = None

    async def key(self, kid: str | None, algorithm: str) -> Any:
        """The key of this id, or the only one when the token names none; None when none verifies the algorithm.

        Raises `Unavailable` when the set could never be fetched, or not for a day.
        """
        unknown = kid is not None and kid not in self._keys
        waits = unknown or self._since(self._tried_s) > PAUSE_S or self._since(self._fetched_s) > STALE_S
        if waits or self._since(self._fetched_s) > REFRESH_S:
            self._begin_fetch()
        if waits and self._fetching is not None:
            await asyncio.shield(self._fetching)
        if self._since(self._fetched_s) > STALE_S:
            raise self._unavailable()
        if kid is None:
            found = next(iter(self._keys.values())) if len(self._keys) == 1 else None
        else:
            found = self._keys.get(kid)
        return found.key if found is not None and algorithm in found.algorithms else None

    def _since(self, moment_s: float | None) -> float:
        return float("inf") if moment_s is None else self._clock.monotonic() - moment_s

    def _begin_fetch(self) -> None:
        """In a task of its own: a request that is cut off must not cut off the fetch that others wait for."""
        if self._fetching is None and self._since(self._tried_s) >= RETRY_S:
            self._tried_s = self._clock.monotonic()
            self._fetching = asyncio.create_task(self._renew(), name="fetch the keys of an issuer")
            self._fetching.add_done_callback(self._ended)

    def _ended(self, _: asyncio.Task[None]) -> None:
        self._fetching = None

    async def _renew(self) -> None:
        try:
            self._keys = read_keys(await self._fetch(self._url), self._family)
            self._fetched_s = self._clock.monotonic()
        except Exception as error:
            log.warning("the keys of an issuer could not be fetched", url=self._url, error=repr(error))

    def _unavailable(self) -> Unavailable:
        error = Unavailable("the keys of the token's issuer cannot be fetched now", operation="authenticate")
        error.retry_after_s = max(1.0, RETRY_S - self._since(self._tried_s))
        return error

    async def close(self) -> None:
        if self._fetching is not None:
            self._fetching.cancel()


def read_keys(document: bytes, family: str) -> dict[str | int, PublicKey]:
    """The signing keys of a JWKS document that fit the family, by id (by place without one).

    Others are passed over: symmetric keys, keys for encryption, weak and broken ones.
    """
    found: dict[str | int, PublicKey] = {}
    for place, entry in enumerate(msgspec.json.decode(document, type=_Set).keys):
        signs = entry.get("use", "sig") == "sig" and entry.get("kty") == KEY_TYPES[family]
        public = _read_key(entry, family) if signs else None
        if public is not None:
            kid = entry.get("kid")
            found[kid if isinstance(kid, str) else place] = public
    return found


def _read_key(entry: dict[str, Any], family: str) -> PublicKey | None:
    """A key that names its algorithm verifies that one only; an elliptic curve has one of its own."""
    try:
        named = entry.get("alg", _CURVES.get(entry.get("crv", "")) if family == "ES" else None)
        algorithms = FAMILIES[family] if named is None else tuple(name for name in FAMILIES[family] if name == named)
        key = jwt.PyJWK(entry, algorithms[0]).key if algorithms else None
    except (PyJWTError, ValueError, TypeError):
        return None
    weak = isinstance(key, RSAPublicKey) and key.key_size < MIN_RSA_BITS
    return None if weak or key is None else PublicKey(key, algorithms)


_CURVES = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}


class _Set(msgspec.Struct):
    keys: list[dict[str, Any]]


async def fetch_bytes(url: str) -> bytes:
    """GET without redirects, at most 1 MiB in five seconds."""
    import httpx

    async with asyncio.timeout(TIMEOUT_S), httpx.AsyncClient() as client, client.stream("GET", url) as response:
        response.raise_for_status()
        if response.status_code != 200:
            raise ValueError(f"it answered {response.status_code}")
        body = bytearray()
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > MAX_BYTES:
                raise ValueError(f"it has more than {MAX_BYTES} bytes")
        return bytes(body)
