"""Conditional requests (RFC 9110 §13): entity tags are the versions of rows. Pure."""

from __future__ import annotations

from headwater.errors import ConditionFailed


def etag(version: str) -> bytes:
    return b'"' + version.encode() + b'"'


def matches(header: str, version: str, *, weak: bool) -> bool:
    """Whether a list of entity tags has the version; "*" has all. A weak tag counts in weak comparison only."""
    if header.strip() == "*":
        return True
    for listed in header.split(","):
        tag = listed.strip()
        if tag.startswith("W/"):
            if not weak:
                continue
            tag = tag[2:]
        if tag.strip('"') == version:
            return True
    return False


def check_conditions(if_match: str | None, if_none_match: str | None, version: str | None) -> None:
    """Raise `ConditionFailed` when the present version (None: there is no row) is not the one that a write demands."""
    if if_match is not None and (version is None or not matches(if_match, version, weak=False)):
        raise ConditionFailed("If-Match: the row has another version", operation="request", hint="read it again")
    if if_none_match is not None and version is not None and matches(if_none_match, version, weak=True):
        raise ConditionFailed("If-None-Match: there is such a row", operation="request")
