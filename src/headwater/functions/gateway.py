"""Requests of API Gateway as ASGI requests, and answers as API Gateway takes them. Pure.

HTTP APIs send payloads of version 2.0: `rawPath` is decoded but for "%25", headers that come twice are joined by
commas, cookies are a list. REST APIs send version 1.0: the path as it was sent, the query decoded. A stage that is part
of the URL is the ASGI root path.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urlencode

from headwater.errors import InvalidRequest

MAX_ANSWER = 6 * 1024 * 1024
"""What a function can give back, as JSON (Lambda quotas)."""
_SPARE = 1024
Headers = list[tuple[bytes, bytes]]


class Request(NamedTuple):
    scope: dict[str, Any]
    body: bytes
    rest: bool
    """Whether it came by a REST API, which takes the answer's headers in another form."""


def read_request(event: Any) -> Request:
    """Raises `InvalidRequest` for what is no request of API Gateway."""
    try:
        rest = event.get("version", "1.0") == "1.0"
        scope = _rest_scope(event) if rest else _http_scope(event)
        return Request(scope, _body(event), rest)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InvalidRequest(f"this is no event of API Gateway: {error!r}", operation="decode") from error


def _http_scope(event: Mapping[str, Any]) -> dict[str, Any]:
    asked = event["requestContext"]
    path = event["rawPath"].replace("%25", "%")
    prefix = f"/{asked.get('stage', '')}"
    root = prefix if path == prefix or path.startswith(f"{prefix}/") else ""
    headers = [(name, value) for name, value in (event.get("headers") or {}).items()]
    if cookies := event.get("cookies"):
        headers = [(name, value) for name, value in headers if name.lower() != "cookie"]
        headers.append(("cookie", "; ".join(cookies)))
    http = asked["http"]
    return _scope(
        http["method"],
        (path, quote(path), root, event.get("rawQueryString", "")),
        headers,
        http["sourceIp"],
    )


def _rest_scope(event: Mapping[str, Any]) -> dict[str, Any]:
    asked = event["requestContext"]
    raw = event["path"]
    whole = asked.get("path", raw)
    root = whole.removesuffix(raw) if whole.endswith(raw) else ""
    many = event.get("multiValueHeaders")
    headers = (
        [(name, value) for name, values in many.items() for value in values]
        if many
        else list((event.get("headers") or {}).items())
    )
    query = event.get("multiValueQueryStringParameters") or event.get("queryStringParameters") or {}
    address = asked.get("identity", {}).get("sourceIp", "")
    url = (root + unquote(raw), root + raw, root, urlencode(query, doseq=True))
    return _scope(event["httpMethod"], url, headers, address)


def _scope(
    method: str, url: tuple[str, str, str, str], headers: Iterable[tuple[str, str]], address: str
) -> dict[str, Any]:
    """`url` is (path, path as sent, root path, query)."""
    path, raw_path, root, query = url
    raw = [(name.lower().encode("latin-1"), _encoded(value)) for name, value in headers]
    named = dict(raw)
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": named.get(b"x-forwarded-proto", b"https").decode("latin-1"),
        "path": path,
        "raw_path": raw_path.encode("latin-1", "replace"),
        "root_path": root,
        "query_string": query.encode("latin-1", "replace"),
        "headers": raw,
        "client": (address, 0),
        "server": (named.get(b"host", b"").decode("latin-1").partition(":")[0], 443),
    }


def _encoded(value: str) -> bytes:
    try:
        return value.encode("latin-1")
    except UnicodeEncodeError:
        return value.encode()


def _body(event: Mapping[str, Any]) -> bytes:
    body = event.get("body") or ""
    return base64.b64decode(body, validate=True) if event.get("isBase64Encoded") else body.encode()


def write_answer(status: int, headers: Headers, body: bytes, *, rest: bool) -> dict[str, Any]:
    """What the function gives back: the body as text where it is some, else in base64."""
    named: dict[str, list[str]] = {}
    for name, value in headers:
        named.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    text, is_binary = _written(body)
    answer: dict[str, Any] = {"statusCode": status, "body": text, "isBase64Encoded": is_binary}
    if rest:
        return {**answer, "multiValueHeaders": named}
    if cookies := named.pop("set-cookie", []):
        answer["cookies"] = cookies
    return {**answer, "headers": {name: ", ".join(values) for name, values in named.items()}}


def _written(body: bytes) -> tuple[str, bool]:
    try:
        return body.decode(), False
    except UnicodeDecodeError:
        return base64.b64encode(body).decode(), True


def is_too_large(answer: Mapping[str, Any]) -> bool:
    """Whether Lambda would refuse the answer."""
    body: str = answer["body"]
    longest = len(body) * 6  # a character is at most six in JSON
    return longest > MAX_ANSWER - _SPARE and len(json.dumps(answer)) > MAX_ANSWER - _SPARE
