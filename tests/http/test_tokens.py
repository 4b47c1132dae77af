"""Attacks on bearer tokens: each row is answered 401, whatever it does to the code that reads it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from headwater.errors import DeclarationError, Unauthenticated
from headwater.http.issuers import Issuer
from headwater.http.tokens import MAX_SUBJECT, MAX_TOKEN, TokenVerifier
from headwater.pytest_plugin import StartHarness
from headwater.testing import VirtualClock
from tests.http.signing import (
    DER,
    ISSUERS,
    KEY,
    NOW_S,
    PEM,
    SECRET,
    STRANGER,
    Json,
    KeyServer,
    claims,
    hs,
    jwk,
    make_app,
    of_jwks,
    of_key,
    of_secret,
    ps,
    rs,
    segment,
    token,
    trust,
)

JWK_TEXT = json.dumps(jwk(KEY)).encode()
SQL = "x' UNION SELECT 'secret' --"
ATTACKS: dict[str, str] = {}


def unsigned(alg: Any, *, header: Json | None = None, signature: str = "") -> str:
    signed = token({"alg": alg, **(header or {})}, claims("secret"), lambda _: b"").rpartition(".")[0]
    return f"{signed}.{signature}"


def with_number(claim: str, text: str) -> str:
    """The claim as this JSON text."""
    payload = json.dumps(claims("secret", **{claim: 12345.5})).replace("12345.5", text)
    return of_secret(text=payload.encode())


for alg in ("none", "None", "NONE", "nOnE", "none ", "", None, 0, [], ["HS256"], {"HS256": 1}, True):
    ATTACKS[f"alg {alg!r}, no signature"] = unsigned(alg)
    ATTACKS[f"alg {alg!r}, signed as HS256"] = token({"alg": alg}, claims("secret"), hs(SECRET))
    ATTACKS[f"alg {alg!r}, of an issuer with a public key"] = unsigned(alg).replace(
        segment(json.dumps(claims("secret")).encode()), segment(json.dumps(claims("key")).encode())
    )
ATTACKS["no alg"] = token({}, claims("secret"), hs(SECRET))
ATTACKS["two algs, the last none"] = token(b'{"alg":"HS256","alg":"none"}', claims("secret"), lambda _: b"")
ATTACKS["HS256 without a signature"] = unsigned("HS256")

for iss in ("key", "jwks"):
    for what, secret in {
        "the PEM": PEM,
        "the PEM without its last newline": PEM.rstrip(),
        "the DER": DER,
        "the JWK": JWK_TEXT,
        "an empty secret": b"",
    }.items():
        for alg, digest in (("HS256", "sha256"), ("HS384", "sha384"), ("HS512", "sha512")):
            ATTACKS[f"{alg} signed with {what}, issuer with {iss}"] = token(
                {"alg": alg, "kid": "main"}, claims(iss), hs(secret, digest)
            )
ATTACKS["HS256 with an empty secret"] = token({"alg": "HS256"}, claims("secret"), hs(b""))
ATTACKS["RS256 of an issuer with a secret"] = token({"alg": "RS256"}, claims("secret"), rs(KEY))
ATTACKS["PS256, not accepted of the issuer"] = token({"alg": "PS256"}, claims("key"), ps(KEY))
ATTACKS["RS256 said, PS256 signed"] = token({"alg": "RS256"}, claims("key"), ps(KEY))
ATTACKS["a stranger's key"] = of_key(key=STRANGER)
ATTACKS["a stranger's key under a known kid"] = of_jwks(key=STRANGER)
ATTACKS["the key of one issuer, the name of another"] = token({"alg": "HS256"}, claims("key"), hs(SECRET))

OF_A_STRANGER: Json = {
    "jku": "https://evil.test/keys",
    "x5u": "https://evil.test/cert",
    "jwk": jwk(STRANGER),
    "x5c": ["MIIB"],
    "x5t": "AAAA",
}
for name, value in OF_A_STRANGER.items():
    ATTACKS[f"{name} of a stranger, known kid"] = of_jwks(key=STRANGER, header={name: value})
    ATTACKS[f"{name} of a stranger, own kid"] = of_jwks(key=STRANGER, header={name: value, "kid": "stranger"})
    ATTACKS[f"{name} of a stranger, issuer with key"] = of_key(key=STRANGER, header={name: value})
for crit in (["exp"], ["b64"], [], "exp", None):
    ATTACKS[f"crit {crit!r}"] = of_secret(header={"crit": crit})
ATTACKS["b64 false"] = of_secret(header={"b64": False})
ATTACKS["b64 false and crit"] = of_secret(header={"b64": False, "crit": ["b64"]})
ATTACKS["b64 true and crit"] = of_secret(header={"b64": True, "crit": ["b64"]})

KIDS: dict[str, Any] = {
    "path": "../../../../dev/null",
    "file URL": "file:///dev/null",
    "SQL": SQL,
    "shell": "$(id)",
    "NUL": "main\0",
    "empty": "",
    "other case": "MAIN",
    "place in the set": "0",
    "number": 0,
    "null": None,
    "list": ["main"],
    "object": {"main": 1},
    "300 characters": "k" * 300,
    "1 MB": "k" * 2**20,
    "lone surrogate": "\ud800",
}
for name, value in KIDS.items():
    ATTACKS[f"kid: {name}"] = of_jwks(header={"kid": value})
for name, value in {"number": 7, "null": None, "1 MB": "k" * 2**20, "300 characters": "k" * 300}.items():
    ATTACKS[f"kid: {name}, issuer with a secret"] = of_secret(header={"kid": value})

NUMBERS = {
    "text": '"1999999999"',
    "true": "true",
    "false": "false",
    "null": "null",
    "list": "[1999999999]",
    "object": "{}",
    "NaN": "NaN",
    "1e400": "1e400",
    "-1e400": "-1e400",
    "Infinity": "Infinity",
    "1e308": "1e308",
    "10**400": "1" + "0" * 400,
    "-10**400": "-1" + "0" * 400,
    "5,000 digits": "9" * 5000,
    "year 6000": "127200000000",
}
for name, text in NUMBERS.items():
    ATTACKS[f"exp: {name}"] = with_number("exp", text)
    ATTACKS[f"nbf: {name}"] = with_number("nbf", text)
del ATTACKS["nbf: -1e400"], ATTACKS["nbf: -10**400"]
ATTACKS["exp: negative"] = of_secret(exp=-1)
ATTACKS["expired"] = of_secret(exp=NOW_S - 30)
ATTACKS["expired long ago"] = of_secret(exp=0)
ATTACKS["not valid yet"] = of_secret(nbf=NOW_S + 31)
for claim in ("exp", "iss", "aud", "sub"):
    ATTACKS[f"no {claim}"] = of_secret(**{claim: None})
for aud in ("other", "API", "api ", "", ["other"], [], ["ap", "i"], 5, {"api": 1}, [["api"]], [None], True):
    ATTACKS[f"aud {aud!r}"] = of_secret(aud=aud)
for named in ("evil", "Secret", "secret ", "", ["secret"], {"secret": 1}, 5, True):
    ATTACKS[f"iss {named!r}"] = of_secret(iss=named)
SUBJECTS: dict[str, Any] = {
    "empty": "",
    "number": 7,
    "true": True,
    "list": ["ann"],
    "object": {"ann": 1},
    "lone surrogate": "\ud800",
    "too long": "a" * (MAX_SUBJECT + 1),
    "too long in bytes": "é" * (MAX_SUBJECT // 2 + 1),
}
for name, value in SUBJECTS.items():
    ATTACKS[f"sub: {name}"] = of_secret(sub=value)

for name, payload in {
    "list": b"[]",
    "text": b'"ann"',
    "number": b"1",
    "null": b"null",
    "no JSON": b"ann",
    "empty": b" ",
    "no UTF-8": b"\xff\xfe",
    "nested": b"[" * 9000 + b"]" * 9000,
    "nested in an object": b'{"iss":' * 1000 + b"1" + b"}" * 1000,
}.items():
    ATTACKS[f"claims: {name}"] = of_secret(text=payload)
for name, payload in {"list": b"[]", "text": b'"HS256"', "null": b"null", "no JSON": b"{", "bytes": b"\xff"}.items():
    ATTACKS[f"header: {name}"] = token(payload, claims("secret"), hs(SECRET))
GOOD = of_secret()
FORMS: dict[str, str] = {
    "one segment": GOOD.partition(".")[0],
    "two segments": GOOD.rpartition(".")[0],
    "four segments": f"{GOOD}.{GOOD.rpartition('.')[2]}",
    "five segments": f"{GOOD}.e30.e30",
    "dots": "..",
    "empty segments": f".{GOOD.partition('.')[2]}",
    "a leading dot": f".{GOOD}",
    "padding": GOOD + "==",
    "a space in it": GOOD.replace(".", ". ", 1),
    "beyond ASCII": "é" + GOOD,
    "the wrong alphabet": GOOD.replace(".", "+/", 1),
    "too long": of_secret(padding="x" * MAX_TOKEN),
    "two tokens": f"{GOOD}, {GOOD}",
}
ATTACKS.update({f"form: {name}": text for name, text in FORMS.items()})


@pytest.mark.parametrize("attack", ATTACKS)
async def test_attack_is_refused(attack: str) -> None:
    server = KeyServer(jwk(KEY))
    verifier = TokenVerifier(ISSUERS, VirtualClock(), {}, server.fetch)
    for _ in range(2):
        with pytest.raises(Unauthenticated) as caught:
            await verifier.verify(ATTACKS[attack])
        assert ATTACKS[attack][:20] not in str(caught.value)
    assert server.fetched in ([], ["https://jwks.test/keys"])


async def test_attacks_are_answered_401(harness: StartHarness) -> None:
    app = make_app()
    h = await harness(app)
    trust(h, ISSUERS, KeyServer(jwk(KEY)))
    for attack, text in ATTACKS.items():
        answer = await h.client(app).get("/me", headers=[(b"authorization", f"Bearer {text}".encode())])
        assert (answer.status_code, answer.json().get("error")) == (401, "Unauthenticated"), (attack, answer.text)
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert text[:40] not in answer.text


@pytest.mark.parametrize("make", [of_secret, of_key, of_jwks])
async def test_good_tokens_are_accepted(harness: StartHarness, make: Callable[..., str]) -> None:
    app = make_app()
    h = await harness(app)
    server = KeyServer(jwk(KEY))
    trust(h, ISSUERS, server)
    for text in (
        make(),
        make(aud=["other", "api"]),
        make(exp=NOW_S + 0.5, nbf=NOW_S),
        make(sub="a" * MAX_SUBJECT),
        make(header={**OF_A_STRANGER, "typ": "JWT"}),
        make(nbf=-(10**10)),
    ):
        answer = await h.client(app).get("/me", headers={"Authorization": f"bearer  {text} "})
        assert answer.status_code == 200, answer.text
    assert set(server.fetched) <= {"https://jwks.test/keys"}


async def test_the_kid_means_nothing_where_there_is_one_key(harness: StartHarness) -> None:
    app = make_app()
    h = await harness(app)
    trust(h, ISSUERS)
    for make in (of_key, of_secret):
        for kid in ("../../../../dev/null", SQL, "NUL\0", ""):
            sent = {"Authorization": f"Bearer {make(header={'kid': kid})}"}
            assert (await h.client(app).get("/me", headers=sent)).status_code == 200


@pytest.mark.parametrize("make", [of_secret, of_key, of_jwks])
async def test_each_changed_byte_is_refused(make: Callable[..., str]) -> None:
    verifier = TokenVerifier(ISSUERS, VirtualClock(), {}, KeyServer(jwk(KEY)).fetch)
    text = make(roles=["reader"])
    assert (await verifier.verify(text)).subject == "ann"
    places = [n for n in range(len(text)) if n % 7 == 0 or n > len(text) - 30 or text[n] == "."]
    for place in places:
        for other in {chr(ord(text[place]) ^ 1), chr(ord(text[place]) ^ 32), "A", "_", ".", "!", ""} - {text[place]}:
            changed = text[:place] + other + text[place + 1 :]
            with pytest.raises(Unauthenticated):
                await verifier.verify(changed)
    assert (await verifier.verify(text)).subject == "ann"


@pytest.mark.parametrize(
    ("leeway", "exp", "nbf", "valid"),
    [
        ("30s", -29.9, 0, True),
        ("30s", -30, 0, False),
        ("30s", 60, 30, True),
        ("30s", 60, 30.1, False),
        ("0s", 0.1, 0, True),
        ("0s", 0, 0, False),
        ("0s", 60, 0.1, False),
    ],
)
async def test_leeway_holds_at_both_edges(leeway: str, exp: float, nbf: float, valid: bool) -> None:
    issuer = Issuer(issuer="secret", audience="api", secret=SECRET.decode(), leeway=leeway)
    verifier = TokenVerifier({"secret": issuer}, VirtualClock(), {})
    text = of_secret(exp=NOW_S + exp, nbf=NOW_S + nbf)
    if valid:
        assert (await verifier.verify(text)).subject == "ann"
    else:
        with pytest.raises(Unauthenticated):
            await verifier.verify(text)


async def test_a_remembered_token_ends_with_its_leeway() -> None:
    clock = VirtualClock()
    verifier = TokenVerifier(ISSUERS, clock, {})
    text = of_secret(exp=NOW_S + 10)
    for moment in (0, 9, 39.9):
        clock.move_to(moment)
        assert (await verifier.verify(text)).subject == "ann"
    clock.move_to(40)
    with pytest.raises(Unauthenticated, match="expired"):
        await verifier.verify(text)


@pytest.mark.parametrize(
    ("setting", "told", "roles"),
    [
        ("roles", {"roles": ["a", "b"]}, ["a", "b"]),
        ("roles", {"roles": "a b  c"}, ["a", "b", "c"]),
        ("roles", {"roles": ["a", 1, None, ["b"], {"c": 1}]}, ["a"]),
        ("roles", {"roles": {"a": 1}}, []),
        ("roles", {"roles": 5}, []),
        ("roles", {"Role": ["a"]}, []),
        ("Role", {"Role": "data.read"}, ["data.read"]),
        ("scope", {"scope": "data.read data.write"}, ["data.read", "data.write"]),
        ("realm_access.roles", {"realm_access": {"roles": ["a"]}}, ["a"]),
        ("realm_access.roles", {"realm_access": ["roles"]}, []),
        ("https://x.test/roles", {"https://x.test/roles": ["a"]}, ["a"]),
        (["roles", "Role", "scope"], {"roles": ["a"], "Role": "b", "scope": "c a"}, ["a", "b", "c"]),
    ],
)
async def test_roles_are_read_from_the_declared_claims(
    harness: StartHarness, setting: Any, told: Json, roles: list[str]
) -> None:
    app = make_app()
    h = await harness(app)
    named = tuple(setting) if isinstance(setting, list) else setting
    trust(h, {"secret": Issuer(issuer="secret", audience="api", secret=SECRET.decode(), roles=named)})
    answer = await h.client(app).get("/me", headers={"Authorization": f"Bearer {of_secret(**told)}"})
    assert answer.json() == {"subject": "ann", "roles": roles, "tenant": "", "method": "token"}


@pytest.mark.parametrize(
    ("told", "subject", "tenant"),
    [
        ({"user": {"id": "u1"}, "org": "o1"}, "u1", "o1"),
        ({"user": {"id": "u1"}, "org": 5}, "u1", ""),
        ({"user": {"id": "u1"}, "org": "o" * (MAX_SUBJECT + 1)}, "u1", ""),
        ({"org": "o1"}, None, ""),
    ],
)
async def test_subject_and_tenant_may_be_other_claims(told: Json, subject: str | None, tenant: str) -> None:
    issuer = Issuer(issuer="secret", audience="api", secret=SECRET.decode(), subject="user.id", tenant="org")
    verifier = TokenVerifier({"secret": issuer}, VirtualClock(), {})
    if subject is None:
        with pytest.raises(Unauthenticated):
            await verifier.verify(of_secret(**told))
        return
    caller = await verifier.verify(of_secret(sub=None, **told))
    assert (caller.subject, caller.tenant) == (subject, tenant)


async def test_credentials_are_sent_once_and_in_a_header(harness: StartHarness) -> None:
    app = make_app()
    h = await harness(app)
    trust(h, ISSUERS)
    good = f"Bearer {GOOD}"
    refused: list[Any] = [
        [],
        [("Authorization", good), ("Authorization", good)],
        [("Authorization", good), ("Authorization", "Basic eDp5")],
        [("Authorization", good), ("X-Api-Key", "k")],
        [("X-Api-Key", "k"), ("X-Api-Key", "k")],
        [("Authorization", "")],
        [("Authorization", "Bearer")],
        [("Authorization", "Bearer ")],
        [("Authorization", GOOD)],
        [("Authorization", f"Basic {GOOD}")],
        [("Authorization", f"Token {GOOD}")],
        [("Proxy-Authorization", good)],
        [("Cookie", f"token={GOOD}; Authorization={GOOD}")],
        [("X-Api-Key", GOOD)],
    ]
    for headers in refused:
        answer = await h.client(app).get(f"/me?token={GOOD}&access_token={GOOD}", headers=headers)
        assert answer.status_code == 401, headers
    assert (await h.client(app).get("/me?token=x", headers={"Authorization": good})).status_code == 200


def test_two_issuers_of_one_name_are_refused() -> None:
    issuer = Issuer(issuer="secret", audience="api", secret=SECRET.decode())
    with pytest.raises(DeclarationError, match="two issuers have the name 'secret'"):
        TokenVerifier({"a": issuer, "b": issuer}, VirtualClock(), {})
