"""JSON that means the same to every reader.

Parsers differ in what they make of a key that comes twice, of NaN, of numbers with thousands of digits, of lone
surrogates and of deep nesting; a check by one and a use by another then do not see the same document (RFC 8259 §4, §6,
§8.2, §9). Such bodies are refused before anyone reads them.

Syntax, UTF-8, surrogates and the range of numbers are msgspec's to judge. Keys are counted: in the text (the colons
outside of strings) and in what was decoded, where a second one of the same name is missing.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from headwater.errors import InvalidValue
from headwater.http.limits import Limits

_decode = msgspec.json.Decoder().decode
_STRING = rb'"[^"\\]*(?:\\.[^"\\]*)*"'
_OFFSET = re.compile(r" \(byte (\d+)\)$")
_LONE_SURROGATE = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])")
_NOT_FINITE = re.compile(rb"-?(?:NaN|Infinity)")
_LEVELS = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STRING_OR_NUMBER = re.compile(_STRING + rb"|([-+.eE0-9]+)", re.DOTALL)
_RUNS = bytes(48 if byte in b"-+.eE0123456789" else 32 for byte in range(256))
"""Whatever a number may consist of becomes "0": a long number is a long run of them."""


class InvalidJson(InvalidValue):
    """A body that is no JSON, or none that every reader understands alike; `errors` has the place."""

    def __init__(self, what: str, kind: str, *, line: int = 0, offset: int | None = None) -> None:
        place = [f"line {line}"] * bool(line) + [f"byte {offset}"] * (offset is not None)
        where = f" ({', '.join(place)})" if place else ""
        super().__init__(f"the body is no valid JSON: {what}{where}", operation="request")
        loc = ["body", *[line] * bool(line), *[offset] * (offset is not None)]
        self.errors = [{"type": kind, "loc": loc, "msg": what}]


def check_json(body: bytes, limits: Limits, *, line: int = 0) -> Any:
    """The decoded document; raises `InvalidJson` naming what is wrong and the byte (and the given line) where."""
    try:
        document = _decode(body)
    except RecursionError:
        raise _too_deep(body, limits, line) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _malformed(body, error, line) from error
    if body.count(b"{") + body.count(b"[") > limits.json_depth and _depth_beyond(body, limits.json_depth):
        raise _too_deep(body, limits, line)
    colons = body.count(b":")
    if colons and colons != (keys := _count_keys(document)) and _outside_strings(body).count(b":") != keys:
        what, offset = _twice(body)
        raise InvalidJson(f"the key {what} comes twice in an object", "json_duplicate_key", line=line, offset=offset)
    if len(body) > limits.number_digits and (at := _long_number(body, limits.number_digits)) is not None:
        what = f"a number has more than {limits.number_digits} digits"
        raise InvalidJson(what, "json_number", line=line, offset=at)
    return document


def check_json_lines(body: bytes, limits: Limits) -> list[Any]:
    """The documents of a body with one on each line (NDJSON); empty lines are skipped."""
    lines = enumerate(body.split(b"\n"), 1)
    return [check_json(text, limits, line=number) for number, text in lines if text.strip()]


def _count_keys(document: Any) -> int:
    keys = 0
    waiting = [document]
    while waiting:
        value = waiting.pop()
        if type(value) is dict:
            keys += len(value)
            value = value.values()
        elif type(value) is not list:
            continue
        waiting += [item for item in value if type(item) is dict or type(item) is list]
    return keys


def _outside_strings(text: bytes) -> bytes:
    """What is left of valid JSON without its strings: a backslash stands in strings only."""
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    return b"".join(text.split(b'"')[::2])


def _depth_beyond(text: bytes, depth: int) -> bool:
    """Whether brackets are nested deeper: each pass takes the innermost pairs away."""
    brackets = _outside_strings(text).translate(_LEVELS, _NO_BRACKETS)
    for _ in range(depth):
        brackets = brackets.replace(b"[]", b"")
        if not brackets:
            return False
    return True


def _long_number(body: bytes, digits: int) -> int | None:
    """Where a number with too many digits begins."""
    if b"0" * (digits + 1) not in body.translate(_RUNS):
        return None
    for found in _STRING_OR_NUMBER.finditer(body):
        if (number := found[1]) and len(number.translate(None, b"-+.eE")) > digits:
            return found.start()
    return None


def _too_deep(body: bytes, limits: Limits, line: int) -> InvalidJson:
    return InvalidJson(f"it is nested deeper than {limits.json_depth} levels", "json_depth", line=line)


def _malformed(body: bytes, error: Exception, line: int) -> InvalidJson:
    try:
        body.decode()
    except UnicodeDecodeError as broken:
        return InvalidJson("it is not UTF-8", "json_encoding", line=line, offset=broken.start)
    told = str(error).removeprefix("JSON is malformed: ")
    found = _OFFSET.search(told)
    offset = int(found[1]) if found else None
    if lone := _LONE_SURROGATE.search(body):
        return InvalidJson("half of a surrogate pair", "json_surrogate", line=line, offset=lone.start())
    if offset is not None and (other := _NOT_FINITE.search(body, max(0, offset - 1), offset + 9)):
        return InvalidJson(f"{other[0].decode()} is no number", "json_number", line=line, offset=other.start())
    if isinstance(error, msgspec.ValidationError):
        return InvalidJson("a number is out of range", "json_number", line=line)
    if told == "Input data was truncated":
        return InvalidJson("it ends too early", "json_invalid", line=line, offset=len(body))
    return InvalidJson(_OFFSET.sub("", told), "json_invalid", line=line, offset=offset)


def _twice(body: bytes) -> tuple[str, int | None]:
    """The first key that comes twice in an object, and where: the slow way, for the answer only."""
    scopes: list[set[str] | None] = []
    for token in re.finditer(rb"(" + _STRING + rb")(\s*:)?|[{}\[\]]", body, re.DOTALL):
        if token[0] in (b"{", b"["):
            scopes.append(set() if token[0] == b"{" else None)
        elif token[0] in (b"}", b"]"):
            scopes.pop()
        elif token[2] and (seen := scopes[-1]) is not None:
            key = msgspec.json.decode(token[1], type=str)
            if key in seen:
                return repr(key if len(key) <= 64 else f"{key[:63]}…"), token.start()
            seen.add(key)
    return "", None
