"""Requests that schemathesis generates from an OpenAPI document, the same in each run, and what is asked of answers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, TypeAlias, cast

import httpx
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import checks
from schemathesis.specs.openapi import checks as openapi_checks

Case: TypeAlias = schemathesis.Case[Any]
CREDENTIALS = ("authorization", "x-api-key")
MODES = [schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE]
CHECKS: list[Any] = [
    checks.not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_schema_conformance,
    openapi_checks.response_headers_conformance,
]


def operations_of(document: dict[str, Any]) -> list[Any]:
    schema = schemathesis.openapi.from_dict(document)
    return [cast("Any", found).ok() for found in schema.get_all_operations()]


def each_case(operation: Any, mode: schemathesis.GenerationMode, most: int, ask: Callable[[Case], None]) -> int:
    """Ask with that many generated cases of an operation at the most; how many there were."""
    asked = 0

    @settings(
        max_examples=most, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(operation.as_strategy(generation_mode=mode))
    def check(case: Case) -> None:
        nonlocal asked
        ask(case)
        asked += 1

    with contextlib.suppress(Unsatisfiable):  # nothing to send that is wrong
        check()
        assert asked
    return asked


async def send(client: httpx.AsyncClient, case: Case) -> httpx.Response:
    """Send the case as it would go over the network, with the client's credentials instead of generated ones."""
    arguments = case.as_transport_kwargs(base_url="http://app")
    names = ("method", "url", "headers", "files", "data", "json", "params", "cookies")
    prepared = requests.Request(**{name: arguments[name] for name in names if name in arguments}).prepare()
    kept = [(name, value) for name, value in prepared.headers.items() if name.lower() not in CREDENTIALS]
    headers = [(name.encode("latin-1"), _encoded(value, "latin-1")) for name, value in kept]
    content = _encoded(prepared.body or b"", "utf-8")
    return await client.send(
        client.build_request(str(prepared.method), str(prepared.url), headers=headers, content=content)
    )


def _encoded(value: Any, encoding: str) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode(encoding)
