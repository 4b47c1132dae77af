"""Requests and answers of API Gateway, in both versions of its payload."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.errors import InvalidRequest
from headwater.functions.gateway import MAX_ANSWER, is_too_large, read_request, write_answer


def http_event(path: str = "/my/path", stage: str = "$default", **more: Any) -> dict[str, Any]:
    """The example of AWS's documentation of version 2.0."""
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": "parameter1=value1&parameter1=value2&parameter2=value",
        "cookies": ["cookie1=a", "cookie2=b"],
        "headers": {"Header1": "value1", "header2": "value1,value2", "host": "id.execute-api.us-east-1.amazonaws.com"},
        "queryStringParameters": {"parameter1": "value1,value2", "parameter2": "value"},
        "requestContext": {
            "accountId": "123456789012",
            "apiId": "api-id",
            "domainName": "id.execute-api.us-east-1.amazonaws.com",
            "http": {
                "method": "POST",
                "path": path,
                "protocol": "HTTP/1.1",
                "sourceIp": "192.0.2.1",
                "userAgent": "agent",
            },
            "requestId": "id",
            "routeKey": "$default",
            "stage": stage,
            "time": "12/Mar/2020:19:03:58 +0000",
            "timeEpoch": 1583348638390,
        },
        "body": "Hello from Lambda",
        "isBase64Encoded": False,
        **more,
    }


def rest_event(path: str = "/my/path", **more: Any) -> dict[str, Any]:
    """A request of a REST API, version 1.0."""
    return {
        "resource": "/{proxy+}",
        "path": path,
        "httpMethod": "GET",
        "headers": {"Header2": "value2"},
        "multiValueHeaders": {"Header1": ["value1"], "Header2": ["value1", "value2"]},
        "queryStringParameters": {"a": "2"},
        "multiValueQueryStringParameters": {"a": ["1", "2"], "b": ["x y&z"]},
        "requestContext": {
            "path": f"/prod{path}",
            "stage": "prod",
            "identity": {"sourceIp": "192.0.2.1"},
        },
        "body": None,
        "isBase64Encoded": False,
        **more,
    }


def test_a_request_of_an_http_api() -> None:
    scope, body, rest = read_request(http_event())
    assert (scope["method"], scope["path"], scope["root_path"]) == ("POST", "/my/path", "")
    assert scope["query_string"] == b"parameter1=value1&parameter1=value2&parameter2=value"
    assert scope["client"] == ("192.0.2.1", 0)
    assert (b"header1", b"value1") in scope["headers"]
    assert (b"cookie", b"cookie1=a; cookie2=b") in scope["headers"]
    assert scope["scheme"] == "https"
    assert (body, rest) == (b"Hello from Lambda", False)


@pytest.mark.parametrize(
    ("stage", "path", "root"),
    [
        ("$default", "/prod/x", ""),
        ("prod", "/prod/x", "/prod"),
        ("prod", "/prod", "/prod"),
        ("prod", "/production/x", ""),
        ("prod", "/x", ""),
    ],
)
def test_a_stage_in_the_path_is_the_root_path(stage: str, path: str, root: str) -> None:
    scope = read_request(http_event(path, stage)).scope
    assert (scope["path"], scope["root_path"]) == (path, root)


def test_paths_of_http_apis_are_decoded_but_for_the_percent_sign() -> None:
    scope = read_request(http_event("/a b/100%25/ü%252F")).scope
    assert scope["path"] == "/a b/100%/ü%2F"
    assert scope["raw_path"] == b"/a%20b/100%25/%C3%BC%252F"


def test_a_body_in_base64() -> None:
    event = http_event(body=base64.b64encode(b"\xff\x00").decode(), isBase64Encoded=True)
    assert read_request(event).body == b"\xff\x00"


def test_a_request_of_a_rest_api() -> None:
    scope, body, rest = read_request(rest_event("/my%20path"))
    assert (scope["path"], scope["raw_path"]) == ("/prod/my path", b"/prod/my%20path")
    assert scope["root_path"] == "/prod"
    assert scope["query_string"] == b"a=1&a=2&b=x+y%26z"
    assert scope["headers"] == [(b"header1", b"value1"), (b"header2", b"value1"), (b"header2", b"value2")]
    assert (scope["client"], body, rest) == (("192.0.2.1", 0), b"", True)


@pytest.mark.parametrize(
    "event", [None, {}, {"version": "2.0"}, http_event(body="!", isBase64Encoded=True), {"Records": []}]
)
def test_what_is_no_request_is_refused(event: Any) -> None:
    with pytest.raises(InvalidRequest):
        read_request(event)


HEADERS = [
    (b"Content-Type", b"text/plain"),
    (b"set-cookie", b"a=1"),
    (b"Set-Cookie", b"b=2"),
    (b"vary", b"a"),
    (b"vary", b"b"),
]


def test_an_answer_to_an_http_api() -> None:
    assert write_answer(201, HEADERS, "é".encode(), rest=False) == {
        "statusCode": 201,
        "headers": {"content-type": "text/plain", "vary": "a, b"},
        "cookies": ["a=1", "b=2"],
        "body": "é",
        "isBase64Encoded": False,
    }


def test_an_answer_to_a_rest_api() -> None:
    answer = write_answer(200, HEADERS, b"", rest=True)
    assert answer["multiValueHeaders"]["set-cookie"] == ["a=1", "b=2"]
    assert "headers" not in answer


@given(st.binary(max_size=200))
def test_any_body_comes_out_as_it_was(body: bytes) -> None:
    answer = json.loads(json.dumps(write_answer(200, [], body, rest=False)))
    text = answer["body"]
    assert (base64.b64decode(text) if answer["isBase64Encoded"] else text.encode()) == body


@pytest.mark.parametrize(
    ("body", "refused"),
    [
        (b"x" * (MAX_ANSWER - 2000), False),
        (b"x" * MAX_ANSWER, True),
        (b'"' * (MAX_ANSWER // 2), True),
        (b"\xff" * (MAX_ANSWER * 3 // 4), True),
        (b"\xff" * (MAX_ANSWER * 3 // 4 - 2000), False),
    ],
)
def test_what_is_too_large_for_lambda(body: bytes, refused: bool) -> None:
    assert is_too_large(write_answer(200, [], body, rest=False)) is refused
