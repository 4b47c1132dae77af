"""Keys of issuers, fetched over real HTTP: caching, rotation, floods, and issuers that fail."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm

from headwater.errors import Unauthenticated, Unavailable
from headwater.http import jwks
from headwater.http.issuers import Issuer
from headwater.http.tokens import TokenVerifier
from headwater.pytest_plugin import StartHarness
from headwater.testing import VirtualClock
from tests.http.signing import (
    KEY,
    NOW_S,
    STRANGER,
    claims,
    hs,
    jwk,
    key_set,
    make_app,
    of_jwks,
    rs,
    segment,
    token,
    trust,
)
from tests.runtime.samples import until

OLD, NEW = KEY, STRANGER
DAY_S = 86_400


class KeySetServer:
    """A real server on a loopback address; each connection gets `answer`, or nothing while it hangs."""

    def __init__(self) -> None:
        self.url = ""
        self.fetches = 0
        self.paths: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.serve(jwk(OLD))

    def serve(self, *entries: Any) -> None:
        self.respond(key_set(*entries))

    def respond(self, body: bytes, status: str = "200 OK", *headers: str) -> None:
        head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers, "", ""]
        self.answer = "\r\n".join(head).encode() + body

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        self.fetches += 1
        self.paths.append(request.split()[1].decode())
        await self.gate.wait()
        writer.write(self.answer)
        writer.close()


@asynccontextmanager
async def serving() -> AsyncIterator[KeySetServer]:
    source = KeySetServer()
    server = await asyncio.start_server(source.handle, "127.0.0.1", 0)
    source.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/keys"
    try:
        yield source
    finally:
        source.gate.set()
        server.close()


def issuer(source: KeySetServer, *algorithms: str) -> dict[str, Issuer]:
    return {"jwks": Issuer(issuer="jwks", audience="api", jwks=source.url, algorithms=algorithms)}


def lasting(kid: str = "main", key: rsa.RSAPrivateKey = OLD, **more: Any) -> str:
    return of_jwks(header={"kid": kid}, key=key, exp=NOW_S + 30 * DAY_S, **more)


async def accepts(verifier: TokenVerifier, token: str) -> bool:
    try:
        return (await verifier.verify(token)).subject != ""
    except Unauthenticated:
        return False


async def test_keys_are_fetched_once_and_kept() -> None:
    async with serving() as source:
        verifier = TokenVerifier(issuer(source), VirtualClock(), {})
        tokens = [lasting(sub=f"user-{n}") for n in range(50)]
        assert all(await asyncio.gather(*(accepts(verifier, token) for token in tokens)))
        assert (source.fetches, source.paths) == (1, ["/keys"])


async def test_rotation_with_overlap() -> None:
    async with serving() as source:
        clock = VirtualClock()
        verifier = TokenVerifier(issuer(source), clock, {})
        old, new = lasting("old", OLD), lasting("new", NEW)
        source.serve(jwk(OLD, "old"))
        assert await accepts(verifier, old)
        clock.move_to(61)
        source.serve(jwk(OLD, "old"), jwk(NEW, "new"))
        assert await accepts(verifier, new)
        assert await accepts(verifier, old)
        source.serve(jwk(NEW, "new"))
        clock.move_to(500)
        assert await accepts(verifier, old)
        clock.move_to(662)
        assert await accepts(verifier, lasting("old", OLD, sub="the one that begins the refresh"))
        await until(lambda: source.fetches == 3)
        await until(lambda: "fetch the keys of an issuer" not in {task.get_name() for task in asyncio.all_tasks()})
        assert not await accepts(verifier, lasting("old", OLD, sub="somebody"))
        clock.move_to(723)
        assert not await accepts(verifier, old)
        assert await accepts(verifier, new)


async def test_after_a_pause_a_removed_key_is_refused_at_once() -> None:
    async with serving() as source:
        clock = VirtualClock()
        verifier = TokenVerifier(issuer(source), clock, {})
        source.serve(jwk(OLD, "old"))
        assert await accepts(verifier, lasting("old"))
        source.serve(jwk(NEW, "new"))
        clock.move_to(1201)
        assert not await accepts(verifier, lasting("old"))


async def test_a_flood_of_unknown_keys_makes_one_fetch_a_minute() -> None:
    async with serving() as source:
        clock = VirtualClock()
        verifier = TokenVerifier(issuer(source), clock, {})
        assert await accepts(verifier, lasting())
        clock.move_to(60)
        for n in range(100):
            clock.move_to(60 + n * 0.59)
            flood = (accepts(verifier, lasting(f"kid-{n}-{m}", sub=f"{m}")) for m in range(10))
            assert not any(await asyncio.gather(*flood))
        assert source.fetches == 2
        assert await accepts(verifier, lasting(sub="a good one goes on"))
        clock.move_to(121)
        assert not await accepts(verifier, lasting("kid"))
        assert source.fetches == 3


async def test_who_is_cut_off_does_not_cut_off_the_others() -> None:
    async with serving() as source:
        source.gate.clear()
        verifier = TokenVerifier(issuer(source), VirtualClock(), {})
        first = asyncio.create_task(verifier.verify(lasting(sub="first")))
        await until(lambda: source.fetches == 1)
        second = asyncio.create_task(verifier.verify(lasting(sub="second")))
        await asyncio.sleep(0)
        first.cancel()
        source.gate.set()
        assert (await second).subject == "second"
        assert source.fetches == 1


BROKEN: dict[str, tuple[bytes, str, *tuple[str, ...]]] = {
    "an error": (b"no", "500 Internal Server Error"),
    "not found": (b"no", "404 Not Found"),
    "no content": (b"", "204 No Content"),
    "a redirect": (key_set(jwk(OLD)), "302 Found", "Location: /elsewhere"),
    "no JSON": (b"<html>", "200 OK"),
    "a list": (b"[]", "200 OK"),
    "no keys": (b"{}", "200 OK"),
    "keys that are no list": (b'{"keys": {}}', "200 OK"),
    "entries that are no objects": (b'{"keys": ["a"]}', "200 OK"),
    "too much": (json.dumps({"keys": [jwk(OLD)], "more": "x" * jwks.MAX_BYTES}).encode(), "200 OK"),
    "an empty body": (b"", "200 OK"),
}


@pytest.mark.parametrize("how", BROKEN)
async def test_what_is_no_key_set_is_not_used_and_the_last_one_holds(how: str) -> None:
    async with serving() as source:
        clock = VirtualClock()
        verifier = TokenVerifier(issuer(source), clock, {})
        body, status, *headers = BROKEN[how]
        source.respond(body, status, *headers)
        with pytest.raises(Unavailable):
            await verifier.verify(lasting())
        source.serve(jwk(OLD))
        clock.move_to(60)
        assert await accepts(verifier, lasting())
        source.respond(body, status, *headers)
        clock.move_to(120)
        assert not await accepts(verifier, lasting("unknown"))
        assert await accepts(verifier, lasting(sub="another"))
        assert source.paths == ["/keys"] * 3


async def test_keys_are_not_used_beyond_a_day_without_their_issuer() -> None:
    async with serving() as source:
        clock = VirtualClock()
        verifier = TokenVerifier(issuer(source), clock, {})
        assert await accepts(verifier, lasting())
        source.respond(b"", "500 Internal Server Error")
        for hour in range(1, 25):
            clock.move_to(hour * 3600 - 1)
            assert await accepts(verifier, lasting())
        clock.move_to(DAY_S + 60)
        with pytest.raises(Unavailable):
            await verifier.verify(lasting())


async def test_an_issuer_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "TIMEOUT_S", 0.1)
    async with serving() as source:
        source.gate.clear()
        with pytest.raises(Unavailable):
            await TokenVerifier(issuer(source), VirtualClock(), {}).verify(lasting())


async def test_without_keys_the_answer_is_503_and_tells_when(harness: StartHarness) -> None:
    app = make_app()
    async with serving() as source:
        h = await harness(app)
        trust(h, issuer(source))
        source.respond(b"", "500 Internal Server Error")
        client = h.client(app, headers={"Authorization": f"Bearer {lasting()}"})
        answer = await client.get("/me")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "60")
        assert answer.json()["retryable"] is True
        source.serve(jwk(OLD))
        h.clock.move_to(20.5)
        answer = await client.get("/me")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "40")
        h.clock.move_to(60)
        assert (await client.get("/me")).status_code == 200


WEAK = rsa.generate_private_key(65537, 1024)
OF_ENTRIES: dict[str, tuple[list[Any], dict[str, str | None], bool]] = {
    "a key for signatures": ([jwk(OLD)], {}, True),
    "no use": ([jwk(OLD, use=None)], {}, True),
    "no alg": ([jwk(OLD, alg=None)], {}, True),
    "another alg of the family": ([jwk(OLD, alg="RS512")], {}, False),
    "an alg of another family": ([jwk(OLD, alg="HS256")], {}, False),
    "alg none": ([jwk(OLD, alg="none")], {}, False),
    "a key for encryption": ([jwk(OLD, use="enc")], {}, False),
    "a symmetric key": ([{"kty": "oct", "k": "c2VjcmV0", "kid": "main"}], {}, False),
    "a weak key": ([jwk(WEAK)], {}, False),
    "broken entries beside it": ([{}, {"kty": "RSA"}, {"kty": 5}, jwk(OLD, n="", kid="b"), jwk(OLD)], {}, True),
    "one key, a token without kid": ([jwk(OLD)], {"kid": None}, True),
    "one key without kid, a token without": ([jwk(OLD, None)], {"kid": None}, True),
    "one key without kid, a token with": ([jwk(OLD, None)], {"kid": "main"}, False),
    "two keys without kid, a token without": ([jwk(NEW, None), jwk(OLD, None)], {"kid": None}, False),
    "two keys, a token without kid": ([jwk(NEW, "new"), jwk(OLD)], {"kid": None}, False),
    "two keys, and one for encryption, a token without kid": ([jwk(NEW, use="enc"), jwk(OLD)], {"kid": None}, True),
    "a kid that is a number": ([jwk(OLD, kid=None) | {"kid": 5}], {"kid": "5"}, False),
    "no keys": ([], {}, False),
}


@pytest.mark.parametrize("case", OF_ENTRIES)
async def test_keys_of_a_set(case: str) -> None:
    entries, told, accepted = OF_ENTRIES[case]
    header = {"alg": "RS256", "kid": "main", **told}
    signed = token(
        {name: value for name, value in header.items() if value is not None},
        claims("jwks"),
        rs(WEAK if case == "a weak key" else OLD),
    )
    async with serving() as source:
        source.serve(*entries)
        assert await accepts(TokenVerifier(issuer(source), VirtualClock(), {}), signed) is accepted


async def test_a_symmetric_key_of_a_set_signs_nothing() -> None:
    secret = b"a secret that stands in a public set"
    async with serving() as source:
        source.serve({"kty": "oct", "k": segment(secret), "kid": "main", "alg": "HS256", "use": "sig"}, jwk(OLD, "rsa"))
        verifier = TokenVerifier(issuer(source), VirtualClock(), {})
        for alg in ("HS256", "RS256"):
            assert not await accepts(verifier, token({"alg": alg, "kid": "main"}, claims("jwks"), hs(secret)))
        assert await accepts(verifier, lasting("rsa"))


CURVE_256, CURVE_384 = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP384R1())
EDWARDS = ed25519.Ed25519PrivateKey.generate()


@pytest.mark.parametrize(
    ("key", "algorithm", "others"),
    [
        (OLD, "RS512", ("RS256", "PS512")),
        (OLD, "PS256", ("RS256", "PS512")),
        (CURVE_256, "ES256", ()),
        (CURVE_384, "ES384", ()),
        (EDWARDS, "EdDSA", ()),
    ],
)
async def test_families_of_algorithms(key: Any, algorithm: str, others: tuple[str, ...]) -> None:
    """A key that names no algorithm verifies those that are accepted, and no other."""
    maker = ECAlgorithm if algorithm[0] == "E" and algorithm != "EdDSA" else OKPAlgorithm
    entry = jwk(key, alg=None) if key is OLD else {**maker.to_jwk(key.public_key(), as_dict=True), "kid": "main"}
    async with serving() as source:
        source.serve(entry)
        verifier = TokenVerifier(issuer(source, algorithm), VirtualClock(), {})
        assert await accepts(verifier, jwt.encode(claims("jwks"), key, algorithm, headers={"kid": "main"}))
        for other in others:
            assert not await accepts(verifier, jwt.encode(claims("jwks"), key, other, headers={"kid": "main"}))
