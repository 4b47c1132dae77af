"""What is asked of a request's body before the app sees it: its encoding undone, its JSON strict."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from headwater.errors import TooLarge
from headwater.http.decompression import inflate
from headwater.http.limits import Limits
from headwater.http.strict_json import check_json, check_json_lines

JSON_LINES = frozenset({"application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"})
Headers = Mapping[bytes, bytes]


@lru_cache(maxsize=64)
def kind_of(content_type: bytes) -> str:
    """ "json", "lines" (NDJSON) or "" for anything else."""
    media = content_type.decode("latin-1").partition(";")[0].strip().lower()  # as those read it who parse the body
    if media == "application/json" or media.endswith("+json"):
        return "json"
    return "lines" if media in JSON_LINES else ""


def is_encoded(headers: Headers) -> bool:
    return headers.get(b"content-encoding", b"identity").strip().lower() != b"identity"


def needs_memory(headers: Headers) -> bool:
    """Whether the whole body must be held to be checked."""
    return bool(kind_of(headers.get(b"content-type", b""))) or is_encoded(headers)


def examine(body: bytes, headers: Headers, limits: Limits, most_json: int) -> bytes:
    """The body, inflated, or the reason why it is refused (`InvalidJson`, `TooLarge`, `UnsupportedMedia`)."""
    if is_encoded(headers):
        body = inflate(body, headers[b"content-encoding"], limits)
    kind = kind_of(headers.get(b"content-type", b""))
    if kind and body:
        if len(body) > most_json:
            raise too_large_to_check(most_json)
        if kind == "json":
            check_json(body, limits)
        else:
            check_json_lines(body, limits)
    return body


def too_large_to_check(most: int) -> TooLarge:
    return TooLarge(
        f"JSON and compressed bodies have at most {most} bytes",
        operation="request",
        hint="send less at once, or upload the data as a file with a content type of its own",
    )
