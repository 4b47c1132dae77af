"""Secrets are planted as canaries, used in good and in failing requests, and looked for wherever something is kept.

Two files are made to hold a secret: the key of the development issuer and the key that seals webhooks' secrets.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import jwt
import pytest

from headwater.config import admin_socket
from headwater.engines import make_engine
from headwater.http.tokens import development_secret
from headwater.runtime.seal import Seal
from tests.acceptance.cli_processes import Serving, cli
from tests.acceptance.test_cli_webhooks import Endpoint
from tests.browser.console_pages import find_pages
from tests.patience import PATIENCE_S

STORED = "a row that is stored 5f0c2b7e"
"""What must be found: the same search finds what is there."""
EVERYTHING = "SELECT k.*, w.*, e.* FROM events e LEFT JOIN headwater_keys k ON 1 LEFT JOIN headwater_webhooks w ON 1"
"""A statement that shows all that SQL can see of keys and webhooks."""
HOLDERS = {"development.key", "secret.key"}
SETTINGS = """
[default]
apps = ["vault"]
port = 0
drain = "5s"

[default.issuers.local]
development = true

[default.issuers.partner]
issuer = "partner"
audience = "vault"
secret = "env:PARTNER_SECRET"

[default.plans.subscriber]
rate = 1000

[default.plans.visitor]
rate = 1000

[default.webhooks]
allow = ["127.0.0.0/8"]
http = true

[default.smtp]
host = "127.0.0.1"
port = 9
security = "none"
sender = "vault@example.org"
username = "vault"
password = "env:SMTP_PASSWORD"

[default.console]
address = "127.0.0.1:0"
tokens = { "env:CONSOLE_TOKEN" = "operator" }
"""


def random_text() -> str:
    return "canary" + secrets.token_hex(16)


def hook_secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


@dataclass
class Canaries:
    """What must be nowhere, by what it is."""

    vendor_token: str = field(default_factory=random_text)
    partner_secret: str = field(default_factory=lambda: random_text() + random_text())
    declared_hook: str = field(default_factory=hook_secret)
    given_hook: str = field(default_factory=hook_secret)
    smtp_password: str = field(default_factory=random_text)
    console_token: str = field(default_factory=random_text)
    basic: str = field(default_factory=random_text)
    refused: str = field(default_factory=random_text)
    found: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, secret: str) -> None:
        self.found[name] = secret

    def forms(self) -> Iterator[tuple[str, bytes]]:
        """Each secret as text, and as the encodings that could hide it."""
        texts = {name: value for name, value in vars(self).items() if isinstance(value, str)} | self.found
        for name, text in texts.items():
            raw = text.removeprefix("whsec_")
            yield name, raw.encode()
            yield f"{name}, percent-encoded", quote(raw, safe="").encode()
            yield f"{name}, in hexadecimal", raw.encode().hex().encode()
            for shift in range(3):
                encoded = base64.b64encode(b"\0" * shift + raw.encode())
                yield f"{name}, in base64 {shift}", encoded[4 * (shift > 0) : -4]
            if text.startswith("whsec_"):
                yield f"{name}, its bytes", base64.b64decode(raw)


class Vault:
    """A running server, the clients that use it, and all that came out of it."""

    def __init__(self, folder: Path, log: str) -> None:
        self.folder = folder
        self.canaries = Canaries()
        self.shown: dict[str, bytes] = {}
        (folder / "vault.py").write_text((Path(__file__).parent / "vault_app.py").read_text("utf-8"), "utf-8")
        (folder / "headwater.toml").write_text(SETTINGS, "utf-8")
        self.endpoint = Endpoint()
        self.environment = {
            "HEADWATER_LOG": log,
            "HEADWATER_LOG_LEVEL": "debug",
            "PARTNER_SECRET": self.canaries.partner_secret,
            "SMTP_PASSWORD": self.canaries.smtp_password,
            "CONSOLE_TOKEN": self.canaries.console_token,
            "VAULT_VENDOR_TOKEN": self.canaries.vendor_token,
            "VAULT_HOOK_URL": self.endpoint.url("/declared"),
            "VAULT_HOOK_SECRET": self.canaries.declared_hook,
        }

    def command(self, *arguments: str) -> str:
        """A command whose output is looked through."""
        ended = cli(self.folder, *arguments, **self.environment).ok()
        self.shown[" ".join(arguments)] = (ended.out + ended.err).encode()
        return ended.out

    def make(self, *arguments: str) -> str:
        """A command that shows a secret, this once."""
        return cli(self.folder, *arguments, **self.environment).ok().out.strip()

    def look(self, name: str, answer: httpx.Response) -> httpx.Response:
        self.shown[name] = str(answer.headers).encode() + answer.content
        return answer

    def leaks(self) -> list[str]:
        """Where a canary is."""
        forms = list(self.canaries.forms())
        return [f"{name} in {place}" for place, text in self.places() for name, form in forms if form in text]

    def places(self) -> Iterator[tuple[str, bytes]]:
        yield from self.shown.items()
        for path in sorted((self.folder / ".headwater").rglob("*")):
            if path.is_file() and path.name not in HOLDERS:
                yield path.name, path.read_bytes()
        for path in self.folder.glob("std*"):
            yield path.name, path.read_bytes()


@pytest.fixture(params=["", "json"], ids=["text", "json"])
def vault(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Vault]:
    made = Vault(tmp_path, request.param)
    yield made
    made.endpoint.close()


def test_no_secret_is_in_logs_errors_files_traces_or_admin_answers(vault: Vault) -> None:
    with Serving(vault.folder, **vault.environment) as server:
        url = server.url
        credentials = make_credentials(vault)
        with httpx.Client(base_url=f"{url}/vault", timeout=PATIENCE_S) as http:
            use_all(vault, http, credentials)
            misuse_all(vault, http, credentials)
        assert httpx.post(f"{url}/headwater/keys", headers=credentials["token"], json={}).status_code == 404
        vault.endpoint.wait_for(6)
        server.wait_for("it failed")
        look_at_everything(vault)
        look_at_the_console(vault, server.wait_for(r"console +(http://\S+)")[-1])
        server.process.terminate()
        assert server.process.wait(PATIENCE_S) == 0
    places = dict(vault.places())
    assert [place for place, text in places.items() if STORED.encode() in text and place.startswith("store.db")]
    assert STORED.encode() in places["admin table-query"]
    assert any(b"RuntimeError" in text for place, text in places.items() if place.startswith("stderr"))
    assert vault.leaks() == []


def make_credentials(vault: Vault) -> dict[str, dict[str, str]]:
    """Headers with each kind of credential; their secret parts are canaries from here on."""
    minted = vault.make("token", "ann", "--role", "notes")
    now = jwt.decode(minted, options={"verify_signature": False})["iat"]
    claims = {"iss": "partner", "aud": "vault", "sub": "bob", "exp": now + 3600, "roles": ["notes"]}
    partner = jwt.encode(claims, vault.canaries.partner_secret, "HS256")
    key = vault.make("key", "create", "acme", "--plan", "subscriber")
    rotated = vault.make("key", "rotate", re.findall("_([a-z0-9]{12})_", key)[0])
    made = vault.make("topic", "subscribe", "vault/news", vault.endpoint.url("/made"))
    (secret,) = re.findall("whsec_\\S+", made)
    (vault.folder / "given").write_text(vault.canaries.given_hook)
    vault.make("topic", "subscribe", "vault/news", vault.endpoint.url("/given"), "--secret-file", "given")
    development = (vault.folder / ".headwater/development.key").read_text()
    for name, canary in {
        "a token": minted.rpartition(".")[2],
        "a partner's token": partner.rpartition(".")[2],
        "a key": key[-38:],
        "a rotated key": rotated[-38:],
        "a made secret": secret,
        "the development secret": development,
        "the sealing key": (vault.folder / ".headwater/secret.key").read_text().strip(),
    }.items():
        assert len(canary) >= 32
        vault.canaries.add(name, canary)
    return {
        "token": {"Authorization": f"Bearer {minted}"},
        "partner": {"Authorization": f"Bearer {partner}"},
        "key": {"X-Api-Key": key},
        "rotated": {"X-Api-Key": rotated},
    }


def use_all(vault: Vault, http: httpx.Client, credentials: dict[str, dict[str, str]]) -> None:
    """Every credential does what it is for, with and without an idempotency key."""
    statuses = {}
    for name, headers in credentials.items():
        once = {**headers, "Idempotency-Key": f"once-{name}"}
        for sent in (headers, once, once):
            statuses[name, "jobs"] = vault.look(f"jobs by {name}", http.post("/jobs", json={"n": 1}, headers=sent))
        answer = http.post("/crash", headers=once, content=vault.canaries.refused)
        statuses[name, "crash"] = vault.look(f"crash by {name}", answer)
    for name in ("token", "partner"):
        answer = http.post("/notes", headers=credentials[name], json={"text": STORED})
        statuses[name, "notes"] = vault.look(f"notes by {name}", answer)
    for name in ("key", "rotated"):
        statuses[name, "announce"] = vault.look(
            f"announce by {name}", http.post("/announce", headers=credentials[name], json={"n": 2})
        )
    wanted = {"jobs": 202, "crash": 500, "notes": 201, "announce": 200}
    assert {place: answer.status_code for place, answer in statuses.items()} == {
        place: wanted[place[1]] for place in statuses
    }


def misuse_all(vault: Vault, http: httpx.Client, credentials: dict[str, dict[str, str]]) -> None:
    """Every credential in the wrong place and damaged, and bodies that are refused."""
    canaries, token, key = vault.canaries, credentials["token"], credentials["key"]
    damaged = {"Authorization": token["Authorization"][:-1] + "~"}
    for name, headers in {
        "none": {},
        "basic": {"Authorization": f"Basic {canaries.basic}"},
        "no token": {"Authorization": f"Bearer {canaries.basic}"},
        "no key": {"X-Api-Key": canaries.basic},
        "damaged": damaged,
        "both": {**token, **key},
        "no role": key,
        "in a cookie": {"Cookie": f"session={canaries.basic}"},
    }.items():
        for once in ({}, {"Idempotency-Key": f"{name}, once"}):
            answer = http.post("/notes", headers={**headers, **once}, json={"text": canaries.refused})
            assert vault.look(f"notes with {name}", answer).status_code in (401, 403), answer.text
            answer = http.post("/open", headers={**headers, **once}, content=canaries.refused)
            assert vault.look(f"open with {name}", answer).status_code == 200, answer.text
    for name, arguments in refused_bodies(canaries.refused).items():
        headers = {**token, **arguments.pop("headers", {})}
        answer = http.request(arguments.pop("verb", "POST"), headers=headers, **arguments)
        assert 400 <= vault.look(name, answer).status_code < 500, (name, answer.text)


def refused_bodies(canary: str) -> dict[str, dict[str, Any]]:
    json_type = {"Content-Type": "application/json"}
    return {
        "a wrong type": {"url": "/notes", "json": {"text": [canary]}},
        "too long": {"url": "/notes", "json": {"text": canary * 10}},
        "another owner": {"url": "/notes", "json": {"text": canary, "user_id": canary}},
        "no number": {"url": "/jobs", "json": {"n": canary}},
        "one of a batch": {"url": "/jobs", "json": [{"n": 1}, {"n": canary}]},
        "half a document": {"url": "/jobs", "content": f'{{"n": "{canary}', "headers": json_type},
        "bytes": {"url": "/jobs", "content": f'"{canary}\xff"'.encode("latin-1"), "headers": json_type},
        "a type of its own": {"url": "/jobs", "content": canary, "headers": {"Content-Type": f"text/{canary[:6]}"}},
        "inflated": {"url": "/jobs", "content": canary, "headers": {"Content-Encoding": "gzip", **json_type}},
        "FastAPI's check": {"url": "/announce", "json": {"n": canary}},
        "a patch": {"verb": "PATCH", "url": "/notes/a", "json": {"text": canary}},
        "a limit": {"verb": "GET", "url": "/notes", "params": {"limit": canary}},
        "a cursor": {"verb": "GET", "url": "/notes", "params": {"cursor": canary}},
        "a version": {"verb": "PUT", "url": "/notes/a", "json": {"text": "x"}, "headers": {"If-Match": canary}},
        "an idempotency key": {"url": "/jobs", "json": {"n": canary}, "headers": {"Idempotency-Key": "refused"}},
        "a token in the query": {"verb": "GET", "url": "/notes", "params": {"access_token": canary}},
    }


def look_at_everything(vault: Vault) -> None:
    """All read operations of the admin API, and the commands that show what happened."""
    store = f"sqlite:{vault.folder / '.headwater'}"
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(admin_socket(store))), base_url="http://admin") as admin:

        def ask(operation: str, **parameters: Any) -> Any:
            answer = admin.post(f"/v1/{operation}", json=parameters)
            assert vault.look(f"admin {operation}", answer).status_code == 200, answer.text
            return answer.json()

        events = ask("tail", limit=1000)["events"]
        (row, *_) = [event for event in events if event["source"] == "vault/notes"]
        (letter, *_) = [letter for letter in ask("dead-letters")["dead_letters"] if letter["queue"] == "vault/jobs"]
        resources = {"queue": "vault/jobs", "table": "vault/notes", "resource": "vault/jobs"}
        known = {**resources, "key": row["key"], "limit": 1000}
        (mail, *_) = ask("mails")["mails"]
        ids = {
            "mail-show": mail["id"],
            "dead-letter": letter["id"],
            "event": letter["event"]["id"],
            "trace": letter["event"]["trace"],
            "trace-test": row["trace"],
            "why": letter["event"]["id"],
        }
        for operation in admin.get("/v1").json()["operations"]:
            name, parameters = operation["operation"], operation["parameters"]
            if operation["writes"]:
                continue
            told = {**known, "id": ids.get(name, ""), "statement": EVERYTHING}
            if name == "erasure":  # nobody was forgotten here
                assert vault.look("admin erasure", admin.post("/v1/erasure", json={"id": "x"})).status_code == 404
                continue
            if name.startswith("bucket-") or name in ("alarm-show", "op-list", "op-show", "schedule-next"):
                # the vault has no bucket, operation, schedule or such alarm: what refuses must tell nothing either
                asked = {"bucket": "vault/files", "key": "a", "method": "GET", "kind": "vault/orders", "subject": "a"}
                asked |= {"schedule": "vault/nightly", "name": "none", "resource": "vault/notes"}
                named = {p["name"]: asked[p["name"]] for p in parameters if p["required"]}
                assert vault.look(f"admin {name}", admin.post(f"/v1/{name}", json=named)).status_code == 404
                continue
            ask(name, **{p["name"]: told[p["name"]] for p in parameters if p["required"]})
        for table in ("headwater/keys", "headwater/usage", "headwater/webhooks", "vault/notes"):
            vault.shown[f"admin table {table}"] = json.dumps(ask("table-query", table=table)).encode()
        assert ask("table-query", table="vault/notes")["items"]
    for command in (
        ("trace", ids["trace"]),
        ("dlq", "ls"),
        ("dlq", "show", str(letter["id"])),
        ("key", "ls"),
        ("mail", "ls"),
    ):
        assert vault.command(*command)
    vault.command("topic", "subscriptions")


def look_at_the_console(vault: Vault, address: str) -> None:
    """Every page that an operator can reach by links, and what a wrong token is answered."""
    with httpx.Client(base_url=address, timeout=PATIENCE_S) as http:
        wrong = http.post("/sign-in", data={"token": vault.canaries.basic})
        assert vault.look("console sign-in", wrong).status_code == 401
        assert http.post("/sign-in", data={"token": vault.canaries.console_token}).status_code == 303
        pages = find_pages(http, 20)
        assert {"/keys", "/letters/{id}", "/tables/{app}/{name}/row", "/traces/{id}", "/mail/{id}", "/audit"} <= set(
            pages
        )
        for page in (page for found in pages.values() for page in found):
            vault.look(f"console {page}", http.get(page))


def test_settings_that_are_refused_are_not_shown(tmp_path: Path) -> None:
    vault = Vault(tmp_path, "")
    vault.endpoint.close()
    vault.environment["VAULT_VENDOR_TOKEN"] = vault.canaries.vendor_token[:14]
    ended = cli(tmp_path, "run", **vault.environment).failed(1)
    assert "vendor_token" in ended.err
    assert vault.canaries.vendor_token[:14] not in ended.out + ended.err


async def test_only_its_user_reads_the_store_and_the_keys(tmp_path: Path) -> None:
    engine = make_engine(f"sqlite:{tmp_path / 'store'}")
    await engine.open()
    try:
        development_secret(tmp_path / "keys" / "development.key")
        Seal(tmp_path / "sealed" / "secret.key").seal("x", "y")
        modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
        assert modes == {"store": 0o700, "keys": 0o700, "sealed": 0o700}
        for holder in ("keys/development.key", "sealed/secret.key"):
            assert (tmp_path / holder).stat().st_mode & 0o777 == 0o600
    finally:
        await engine.close()
