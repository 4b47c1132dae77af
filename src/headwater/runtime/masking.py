"""Documents without the fields that nobody is to see."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from headwater.codec import decode_json, encode_json

MARK = "(hidden)"
"""Stands in the place of a hidden value."""


def masked(document: Any, fields: Collection[str]) -> Any:
    """A JSON document with the mark for each member of these names, however deep."""
    if isinstance(document, list):
        return [masked(item, fields) for item in document]
    if not isinstance(document, dict):
        return document
    return {name: MARK if name in fields else masked(value, fields) for name, value in document.items()}


def searchable(body: bytes | None, hide: Collection[str]) -> str:
    """The text of a document that a search may look at."""
    if body is None:
        return ""
    return (encode_json(masked(decode_json(body), hide)) if hide else body).decode()
