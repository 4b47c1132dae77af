"""Tokens made by hand, byte by byte: those of the tests' issuers, and those that no library would make."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Annotated, Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import RSAAlgorithm

from headwater import App, Caller, require
from headwater.http.access import Access, AccessRules
from headwater.http.issuers import Issuer
from headwater.testing import Harness

NOW_S = 1_767_225_600
"""When a harness starts: 2026-01-01T00:00:00Z."""
SECRET = b"the secret of the issuer with a secret"
KEY = rsa.generate_private_key(65537, 2048)
STRANGER = rsa.generate_private_key(65537, 2048)
PEM = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
DER = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
Sign = Callable[[bytes], bytes]
Json = dict[str, Any]


def jwk(key: rsa.RSAPrivateKey, kid: str | None = "main", **more: Any) -> Json:
    """The public key as a JWK; members that are None are left out."""
    entry = {**RSAAlgorithm.to_jwk(key.public_key(), as_dict=True), "use": "sig", "kid": kid, **more}
    return {name: value for name, value in entry.items() if value is not None and name != "key_ops"}


def key_set(*entries: Any) -> bytes:
    return json.dumps({"keys": entries}).encode()


def hs(secret: bytes, digest: str = "sha256") -> Sign:
    return lambda signed: hmac.digest(secret, signed, digest)


def rs(key: rsa.RSAPrivateKey) -> Sign:
    return lambda signed: key.sign(signed, padding.PKCS1v15(), hashes.SHA256())


def ps(key: rsa.RSAPrivateKey) -> Sign:
    salted = padding.PSS(padding.MGF1(hashes.SHA256()), hashlib.sha256().digest_size)
    return lambda signed: key.sign(signed, salted, hashes.SHA256())


def segment(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode()


def claims(iss: str, /, **more: Any) -> Json:
    """Good claims of an issuer; those that are given as None are left out."""
    good = {"iss": iss, "aud": "api", "sub": "ann", "exp": NOW_S + 3600, **more}
    return {name: value for name, value in good.items() if value is not None}


def token(header: Json | bytes, payload: Json | bytes, sign: Sign) -> str:
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, payload)]
    signed = ".".join(segment(part) for part in parts)
    return f"{signed}.{segment(sign(signed.encode()))}"


def of_secret(*, header: Json | None = None, text: bytes | None = None, **more: Any) -> str:
    """A token of the issuer with a secret."""
    return token({"alg": "HS256", **(header or {})}, text or claims("secret", **more), hs(SECRET))


def of_jwks(*, header: Json | None = None, key: rsa.RSAPrivateKey = KEY, **more: Any) -> str:
    """A token of the issuer with a key set."""
    return token({"alg": "RS256", "kid": "main", **(header or {})}, claims("jwks", **more), rs(key))


def of_key(*, header: Json | None = None, key: rsa.RSAPrivateKey = KEY, **more: Any) -> str:
    """A token of the issuer with one public key."""
    return token({"alg": "RS256", **(header or {})}, claims("key", **more), rs(key))


ISSUERS = {
    "secret": Issuer(issuer="secret", audience="api", secret=SECRET.decode()),
    "key": Issuer(issuer="key", audience="api", key=PEM.decode()),
    "jwks": Issuer(issuer="jwks", audience="api", jwks="https://jwks.test/keys"),
}


class KeyServer:
    """Answers fetches of key sets, and remembers their addresses."""

    def __init__(self, *entries: Any) -> None:
        self.answer = key_set(*entries)
        self.fetched: list[str] = []

    async def fetch(self, url: str) -> bytes:
        self.fetched.append(url)
        return self.answer


def trust(h: Harness, issuers: dict[str, Issuer], server: KeyServer | None = None) -> None:
    """Let the harness's server accept these issuers; key sets are fetched over the network without `server`."""
    h.supervisor.access = Access(
        AccessRules(environment="test", issuers=issuers),
        h.clock,
        keys=h.supervisor.system,
        usage=h.supervisor.system,
        fetch=server.fetch if server else None,
    )


def make_app() -> App[None]:
    """An app whose endpoint tells who calls; headwater's errors are its only way to fail."""
    app: App[None] = App("desk")

    @app.http.get("/me")
    async def me(caller: Annotated[Caller, require()]) -> Json:
        return {
            "subject": caller.subject,
            "roles": sorted(caller.roles),
            "tenant": caller.tenant,
            "method": caller.method,
        }

    return app
