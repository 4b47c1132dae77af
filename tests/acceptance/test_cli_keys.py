"""`headwater key` and `headwater token`, with a server and without one."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import httpx
import jwt
import pytest

from tests.acceptance.cli_processes import Serving, cli

APP = """
from typing import Annotated

from headwater import App, Caller, require

app = App("desk")


@app.http.get("/me")
async def me(caller: Annotated[Caller, require()]) -> dict:
    return {"subject": caller.subject, "roles": sorted(caller.roles), "tenant": caller.tenant}


@app.http.get("/read")
async def read(caller: Annotated[Caller, require("data.read")]) -> str:
    return caller.subject
"""
SETTINGS = """
[default]
apps = ["desk"]
port = 0
drain = "5s"

[default.issuers.local]
development = true
roles = ["roles", "Role"]

[default.plans.free]
quota = 3
period = "day"
"""
KEY = re.compile(r"hw_default_[a-z0-9]{12}_[0-9A-Za-z]{38}")


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    (tmp_path / "desk.py").write_text(APP, "utf-8")
    (tmp_path / "headwater.toml").write_text(SETTINGS, "utf-8")
    return tmp_path


def get(server: Serving, path: str, **headers: str) -> httpx.Response:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.get(f"{server.url}/desk{path}", headers=sent)


def made_store(folder: Path) -> None:
    """A store as a server leaves it."""
    with Serving(folder) as server:
        assert server.url
        assert server.stop() == 0


def test_a_key_lives_with_the_server(desk: Path) -> None:
    with Serving(desk) as server:
        assert server.url
        key = cli(desk, "key", "create", "ann", "--plan", "free", "--role", "data.read", "--role", "x").ok().out.strip()
        assert KEY.fullmatch(key)
        id = key.split("_")[2]
        assert get(server, "/me", x_api_key=key).json() == {"subject": "ann", "roles": ["data.read", "x"], "tenant": ""}
        assert get(server, "/read", x_api_key=key).json() == "ann"
        (used,) = cli(desk, "key", "usage", "--json").ok().json["usage"]
        assert (used["who"], used["plan"], used["count"]) == (f"key:{id}", "free", 2)
        assert [line.split() for line in cli(desk, "key", "ls").ok().out.splitlines()] == [
            ["id", "name", "plan", "roles", "state", "expires"],
            [id, "ann", "free", "data.read", "x", "valid"],
        ]

        rotated = cli(desk, "key", "rotate", id, "--overlap", "1h").ok().out.strip()
        assert KEY.fullmatch(rotated)
        assert rotated != key
        assert " rotating" in cli(desk, "key", "ls").ok().out
        assert get(server, "/me", x_api_key=rotated).status_code == 200
        refused = get(server, "/me", x_api_key=key)
        assert (refused.status_code, refused.json()["error"]) == (429, "Throttled")

        assert cli(desk, "key", "revoke", id).ok().out == f"revoked {id} (ann)\n"
        assert [get(server, "/me", x_api_key=one).status_code for one in (key, rotated)] == [401, 401]
        assert " revoked" in cli(desk, "key", "ls").ok().out
        again = cli(desk, "key", "rotate", id).failed(1)
        assert "the key is revoked" in again.err
        assert server.stop() == 0
        log = server.stderr
    for secret in (key.rpartition("_")[2], rotated.rpartition("_")[2]):
        assert secret not in log
        for path in (desk / ".headwater").rglob("*"):
            assert not path.is_file() or secret.encode() not in path.read_bytes(), path
    assert b"ann" in (desk / ".headwater" / "store.db").read_bytes()


def test_usage_outlives_a_server(desk: Path) -> None:
    with Serving(desk) as server:
        assert server.url
        key = cli(desk, "key", "create", "ann", "--plan", "free").ok().out.strip()
        assert get(server, "/me", x_api_key=key).status_code == 200
        assert server.stop() == 0
    (alone,) = cli(desk, "key", "usage", key.split("_")[2], "--json").ok().json["usage"]
    assert alone["count"] == 1
    with Serving(desk) as server:
        assert [get(server, "/me", x_api_key=key).status_code for _ in range(3)] == [200, 200, 429]
        shown = cli(desk, "key", "usage", "--plan", "free").ok().out.splitlines()
        assert shown[0].split() == ["who", "plan", "period", "requests"]
        assert shown[1].split()[::3] == [f"key:{key.split('_')[2]}", "3"]
        assert cli(desk, "key", "usage", "--plan", "other").ok().out == "usage: none\n"


def test_keys_without_a_server(desk: Path) -> None:
    made_store(desk)
    created = cli(desk, "key", "create", "bob", "--tenant", "acme", "--expires", "90d", "--json").ok().json
    assert KEY.fullmatch(created["key"])
    assert (created["name"], created["tenant"], created["valid"]) == ("bob", "acme", True)
    (listed,) = cli(desk, "key", "ls", "--json").ok().json["keys"]
    assert listed == {name: value for name, value in created.items() if name not in ("key", "digest")}
    doomed = cli(desk, "key", "create", "eve", "--json").ok().json
    assert cli(desk, "key", "revoke", doomed["id"], "--json").ok().json["valid"] is False
    with Serving(desk) as server:
        assert get(server, "/me", x_api_key=created["key"]).json()["tenant"] == "acme"
        assert get(server, "/me", x_api_key=doomed["key"]).status_code == 401


def test_a_declared_key_is_kept_nowhere_but_in_the_settings(desk: Path) -> None:
    printed = cli(desk, "key", "create", 'a "b" c', "--plan", "free", "--role", "data.read", "--declare").ok().out
    assert not (desk / ".headwater").exists()
    (key,) = KEY.findall(printed)
    declared = "\n".join(line for line in printed.splitlines() if not line.startswith("#"))
    assert key not in declared
    assert set(tomllib.loads(declared)["default"]["keys"]) == {'a "b" c'}
    with (desk / "headwater.toml").open("a") as settings:
        settings.write(declared)
    with Serving(desk) as server:
        assert get(server, "/read", x_api_key=key).json() == 'a "b" c'
        assert " declared" in cli(desk, "key", "ls").ok().out
        id = key.split("_")[2]
        assert "those of headwater.toml are changed there" in cli(desk, "key", "revoke", id).failed(4).err


def test_errors_of_keys(desk: Path) -> None:
    assert "there is no store" in cli(desk, "key", "ls").failed(4).err
    assert "there is no store" in cli(desk, "key", "create", "ann").failed(4).err
    with Serving(desk) as server:
        assert server.url
        assert cli(desk, "key", "ls").ok().out == "keys: none\n"
        unknown = cli(desk, "key", "create", "ann", "--plan", "gold").failed(1)
        assert "there is no usage plan 'gold'" in unknown.err
        assert "free" in unknown.err
        assert "role" in cli(desk, "key", "create", "ann", "--role", "two words").failed(1).err
        assert "duration" in cli(desk, "key", "create", "ann", "--expires", "soon").failed(1).err
        for command in ("rotate", "revoke"):
            assert "no API key of this id" in cli(desk, "key", command, "nothing").failed(4).err
    assert cli(desk, "key", "create").code == 2
    assert cli(desk, "key", "nothing").code == 2


def test_a_token_is_accepted_by_the_server(desk: Path) -> None:
    before = cli(desk, "token", "ann", "--role", "data.read").ok().out.strip()
    with Serving(desk) as server:
        assert get(server, "/read", authorization=f"Bearer {before}").json() == "ann"
        for arguments in (("--claims", '{"Role": ["data.read"]}'), ("--claims", '{"roles": "data.read x"}')):
            token = cli(desk, "token", "bob", *arguments).ok().out.strip()
            assert get(server, "/read", authorization=f"Bearer {token}").json() == "bob"
        plain = cli(desk, "token", "eve").ok().out.strip()
        assert get(server, "/me", authorization=f"Bearer {plain}").json()["subject"] == "eve"
        assert get(server, "/read", authorization=f"Bearer {plain}").status_code == 403
        key = desk / ".headwater" / "development.key"
        assert key.stat().st_mode & 0o777 == 0o600
        assert server.stop() == 0
        assert key.read_text() not in server.stderr


def test_what_a_token_says(desk: Path) -> None:
    token = cli(desk, "token", "ann", "--valid", "90s", "--claims", "-", stdin='{"Role": "x", "n": 1}').ok().out.strip()
    told = jwt.decode(token, options={"verify_signature": False})
    assert told.pop("exp") - told.pop("iat") == 90
    assert told == {"sub": "ann", "iss": "headwater-development", "aud": "headwater", "Role": "x", "n": 1}
    assert "there is no store" in cli(desk, "key", "create", "ann").failed(4).err


def test_a_token_follows_the_issuers_claims(desk: Path) -> None:
    changed = SETTINGS.replace('roles = ["roles", "Role"]', 'roles = "access.roles"\nsubject = "user.id"')
    (desk / "headwater.toml").write_text(changed, "utf-8")
    token = cli(desk, "token", "ann", "--role", "data.read", "--claims", '{"access": {"level": 1}}').ok().out.strip()
    told = jwt.decode(token, options={"verify_signature": False})
    assert (told["user"], told["access"]) == ({"id": "ann"}, {"level": 1, "roles": ["data.read"]})
    with Serving(desk) as server:
        assert get(server, "/read", authorization=f"Bearer {token}").json() == "ann"
    assert "access is no object" in cli(desk, "token", "ann", "--role", "x", "--claims", '{"access": 1}').failed(2).err


def test_errors_of_tokens(desk: Path) -> None:
    with (desk / "headwater.toml").open("a") as settings:
        settings.write("\n[live]\n")
    refused = cli(desk, "token", "ann", "--env", "live").failed(2)
    assert "the environment 'live' has no development issuer" in refused.err
    assert "development = true" in refused.err
    assert "--claims" in cli(desk, "token", "ann", "--claims", "[1]").failed(2).err
    assert "duration" in cli(desk, "token", "ann", "--valid", "soon").failed(1).err
    assert cli(desk, "token").code == 2
