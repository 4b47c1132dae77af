"""Bodies before the application sees them: strict JSON, compressed data, sizes."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from functools import partial
from typing import Any

import pytest
from fastapi import Request
from hypothesis import given
from hypothesis import strategies as st

from headwater import App
from headwater.http.limits import Limits
from headwater.http.strict_json import InvalidJson, check_json, check_json_lines
from headwater.http.unit_layer import BUFFER
from headwater.pytest_plugin import StartHarness

LIMITS = Limits()
JSON = {"content-type": "application/json"}
packed = partial(gzip.compress, mtime=0)


@pytest.mark.parametrize(
    ("body", "said", "place"),
    [
        (b'{"a": 1, "a": 2}', "'a' comes twice", 9),
        (b'{"a": 1, "\\u0061": 2}', "'a' comes twice", 9),
        (b'[{"x": {"a:": 1}}, {"a:": 1, "b": [{"c": 1, "c": 2}]}]', "'c' comes twice", 44),
        (b'{"a\\"": 1, "a\\"": 2}', "comes twice", 11),
        (b'{"n": NaN}', "NaN is no number", 6),
        (b"[-Infinity]", "-Infinity is no number", 1),
        (b"[1e400]", "out of range", None),
        (b"1" * 101, "more than 100 digits", 0),
        (b"[1, -0." + b"0" * 99 + b"1]", "more than 100 digits", 4),
        (b"1" * 5000, "out of range", None),
        (b'["\\ud800"]', "half of a surrogate pair", 2),
        (b'["\\udc00"]', "surrogate", None),
        (b'["\xff"]', "not UTF-8", 2),
        (b'["\xed\xa0\x80"]', "not UTF-8", 2),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8", 0),
        (b"\xef\xbb\xbf{}", "invalid character", 0),
        (b"[" * 65 + b"]" * 65, "deeper than 64", None),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "deeper than 64", None),
        (b"[" * 100_000, "deeper than 64", None),
        (b'{"a"', "ends too early", 4),
        (b"{} {}", "trailing characters", 4),
        (b"[1,]", "trailing comma", 3),
        (b'["a\nb"]', "invalid character", 3),
        (b"[01]", "invalid number", 2),
        (b"{'a': 1}", "keys must be strings", 1),
    ],
)
def test_what_parsers_disagree_on_is_refused(body: bytes, said: str, place: int | None) -> None:
    with pytest.raises(InvalidJson) as caught:
        check_json(body, LIMITS)
    assert said in caught.value.message
    if place is not None:
        assert caught.value.errors[0]["loc"] == ["body", place]


@pytest.mark.parametrize(
    "body",
    [
        b"1" * 100,
        b'["' + b"1" * 500 + b'", 1]',
        b"[" * 64 + b"]" * 64,
        b'["[[{{", ' * 60 + b"1" + b"]" * 60,
        b'[{"a": 1}, {"a": 1}]',
        b'{"a": {"a": "a:a", "b": "\\\\"}, "b": "\\":"}',
        '{"ä": "\\ud83d\\ude00 €"}'.encode(),
        b" null ",
    ],
)
def test_what_all_read_alike_is_taken(body: bytes) -> None:
    assert check_json(body, LIMITS) == json.loads(body)


documents = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('ab":\\{[', max_size=3), inner, max_size=4),
    max_leaves=12,
)


@given(documents, st.booleans())
def test_every_document_is_taken_and_one_with_a_key_twice_is_not(document: Any, ascii_only: bool) -> None:
    text = json.dumps(document, ensure_ascii=ascii_only)
    assert check_json(text.encode(), LIMITS) == json.loads(text)
    with pytest.raises(InvalidJson, match="comes twice"):
        check_json(f'{{"k": {text}, "l": 1, "k": {text}}}'.encode(), LIMITS)


def test_lines_are_checked_one_by_one() -> None:
    assert check_json_lines(b'{"a": 1}\n\r\n[2]\n', LIMITS) == [{"a": 1}, [2]]
    for body, place in ((b'{"a": 1}\n{"a": 1, "a": 2}\n', [2, 9]), (b"{} {}", [1, 4]), (b"[1,\n2]", [1, 3])):
        with pytest.raises(InvalidJson) as caught:
            check_json_lines(body, LIMITS)
        assert caught.value.errors[0]["loc"] == ["body", *place]
        assert f"line {place[0]}" in caught.value.message


@pytest.fixture
async def client(harness: StartHarness) -> Any:
    app = App("echo")
    calls: list[int] = []

    @app.http.post("/raw")
    async def raw(request: Request) -> dict[str, Any]:
        body = await request.body()
        calls.append(len(body))
        declared = request.headers.get("content-length"), request.headers.get("content-encoding")
        return {"size": len(body), "declared": declared, "start": body[:10].decode("latin-1")}

    h = await harness(app)
    client = h.client(app)
    client.calls = lambda: len(calls)  # type: ignore[attr-defined]
    return client


@pytest.mark.parametrize(
    "content_type", ["application/json", "Application/JSON; charset=utf-8", "application/merge-patch+json"]
)
async def test_invalid_json_never_reaches_the_application(client: Any, content_type: str) -> None:
    answer = await client.post("/raw", content=b'{"a": 1, "a": 2}', headers={"content-type": content_type})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["errors"] == [
        {"type": "json_duplicate_key", "loc": ["body", 9], "msg": "the key 'a' comes twice in an object"}
    ]
    assert answer.json()["request_id"] == answer.headers["headwater-trace"]
    assert client.calls() == 0
    assert (await client.post("/raw", content=b'{"a": 1}', headers={"content-type": content_type})).status_code == 200


async def test_lines_of_json_are_checked_and_other_types_are_not(client: Any) -> None:
    lines = {"content-type": "application/x-ndjson"}
    assert (await client.post("/raw", content=b'{}\n{"a": NaN}', headers=lines)).json()["errors"][0]["loc"] == [
        "body",
        2,
        6,
    ]
    assert (await client.post("/raw", content=b"{}\n{}\n", headers=lines)).status_code == 200
    assert (await client.post("/raw", content=b'{"a": NaN}', headers={"content-type": "text/plain"})).status_code == 200
    assert (await client.post("/raw", content=b"", headers=JSON)).status_code == 200


async def test_json_beyond_the_buffer_is_413_and_other_bodies_are_not(client: Any) -> None:
    body = json.dumps("x" * BUFFER).encode()
    for content in (body, chunks(body)):
        answer = await client.post("/raw", content=content, headers=JSON)
        assert answer.status_code == 413
        assert "at most" in answer.json()["detail"]
    small = packed(json.dumps(os.urandom(BUFFER * 2 // 3).hex()).encode())
    assert len(small) < BUFFER
    answer = await client.post("/raw", content=small, headers={**JSON, "content-encoding": "gzip"})
    assert answer.status_code == 413
    assert client.calls() == 0
    assert (await client.post("/raw", content=body)).json()["size"] == len(body)


async def chunks(body: bytes) -> Any:
    for at in range(0, len(body), 65536):
        yield body[at : at + 65536]


@pytest.mark.parametrize(
    ("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("GZip", gzip.compress)]
)
async def test_compressed_bodies_are_inflated(client: Any, encoding: str, compress: Any) -> None:
    headers = {**JSON, "content-encoding": encoding}
    answer = await client.post("/raw", content=compress(b'{"a": "' + b"x" * 10_000 + b'"}'), headers=headers)
    assert answer.json() == {"size": 10_009, "declared": ["10009", None], "start": '{"a": "xxx'}
    answer = await client.post("/raw", content=compress(b'{"a": 1, "a": 2}'), headers=headers)
    assert answer.status_code == 422


async def test_a_bomb_is_413_before_it_fills_memory(client: Any) -> None:
    ratio = gzip.compress(bytes(10_000_000))
    assert len(ratio) * 1000 > 9_000_000
    size = gzip.compress(bytes(10_000_000) + bytes(range(256)) * 40_000)
    for bomb in (ratio, size + b""):
        answer = await client.post("/raw", content=bomb, headers={"content-encoding": "gzip"})
        assert answer.status_code == 413
        assert "inflates to more than" in answer.json()["detail"]
    assert client.calls() == 0


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        ("br", b"x", 415),
        ("gzip, gzip", packed(packed(b"x")), 415),
        ("zstd", b"x", 415),
        ("gzip", b"no gzip", 422),
        ("gzip", packed(b"x" * 1000)[:-9], 422),
        ("gzip", packed(b"x") + b"more", 422),
        ("gzip", packed(b"x") + packed(b"y"), 422),
        ("gzip", b"", 422),
        ("deflate", b"\x78\x9c", 422),
    ],
)
async def test_other_encodings_and_damaged_data_are_refused(
    client: Any, encoding: str, body: bytes, status: int
) -> None:
    answer = await client.post("/raw", content=body, headers={"content-encoding": encoding})
    assert answer.status_code == status
    assert client.calls() == 0
