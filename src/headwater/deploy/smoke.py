"""Whether what was deployed works: a few questions over HTTP, and an event on its way through the relay."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence

import httpx
import msgspec

from headwater.alarms import STATES
from headwater.codec import encode_json
from headwater.engine import Engine
from headwater.engines import make_engine
from headwater.events import Key
from headwater.ids import new_id
from headwater.unit import Write, new_commit

TIMEOUT_S = 30.0
"""Longer than an API Gateway waits; a first request starts the function."""
PATIENCE_S, POLL_S = 60.0, 0.5
PROBE = "smoke-test"
"""The name in the row of `headwater/alarm-states`; nothing is routed from there."""


class Check(msgspec.Struct, frozen=True):
    """One answer; `problem` is "" when it is right."""

    name: str
    seconds: float
    problem: str = ""


def check_api(url: str, apps: Sequence[str] = ()) -> Iterator[Check]:
    """Ask whether it lives and is ready, and each app (by default those that it lists) for its OpenAPI document."""
    base = url.rstrip("/")
    with httpx.Client(timeout=TIMEOUT_S, follow_redirects=True) as client:
        yield _ask(client, f"{base}/live", "status", "live")
        yield _ask(client, f"{base}/ready", "status", "ready")
        for app in apps or _listed(client, base):
            yield _ask(client, f"{base}/{app}/openapi.json", "openapi", "3.")


def _ask(client: httpx.Client, url: str, field: str, wanted: str) -> Check:
    began, name = time.monotonic(), f"GET {httpx.URL(url).path}"
    try:
        answer = client.get(url)
        found = answer.json().get(field, "") if answer.status_code == httpx.codes.OK else ""
        told = f"it answered {answer.status_code}: {answer.text[:200]}"
        problem = "" if str(found).startswith(wanted) else told
    except (httpx.HTTPError, ValueError, AttributeError) as error:
        problem = f"{type(error).__name__}: {error}"
    return Check(name, time.monotonic() - began, problem)


def _listed(client: httpx.Client, base: str) -> list[str]:
    try:
        found = client.get(f"{base}/").json()
        return sorted(str(app) for app in found.get("apps", ()))
    except (httpx.HTTPError, ValueError, AttributeError):
        return []


def check_relay(stack: str, patience_s: float = PATIENCE_S) -> Check:
    """Write a row, see its change arrive in the history, which only the relay writes, and take the row away again."""
    began = time.monotonic()
    try:
        problem = "" if asyncio.run(_pass_event(stack, patience_s)) else f"no event within {patience_s:g} s"
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
    return Check("relay", time.monotonic() - began, problem)


async def _pass_event(stack: str, patience_s: float) -> bool:
    engine = make_engine(f"aws:{stack}")
    await engine.open()
    try:
        key: Key = (PROBE, new_id())
        row = {"name": PROBE, "resource": key[1], "state": "ok", "since_ms": 0}
        await _write(engine, key, encode_json(row))
        try:
            for _ in range(int(patience_s / POLL_S)):
                if await engine.history(STATES, key, 1):
                    return True
                await asyncio.sleep(POLL_S)
            return False
        finally:
            await _write(engine, key, None)
    finally:
        await engine.close()


async def _write(engine: Engine, key: Key, body: bytes | None) -> None:
    commit = new_commit(cause=PROBE)
    commit.writes.append(Write(STATES, key, f"{commit.id}-0", body))
    await engine.commit(commit)
