"""What a page shows of an object's bytes: an image by its address, the beginning of a text or of a CSV table.

HTML and SVG are texts here: nothing of what strangers have uploaded is ever a document of the console.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Sequence
from typing import Literal, NamedTuple

from headwater.console.transfers import IMAGES

READ = 64 * 1024
_ROWS, _COLUMNS = 50, 30
_LONGEST = 200
_TEXTS = ("json", "xml", "javascript", "yaml", "toml", "x-ndjson", "svg+xml", "x-sh", "sql")
_ENDINGS = (".txt", ".md", ".csv", ".tsv", ".json", ".jsonl", ".log", ".xml", ".html", ".svg", ".yaml", ".yml", ".toml")


class Preview(NamedTuple):
    """`cut` tells that the object goes on. `rows` are those of a CSV file, the names of its columns first."""

    kind: Literal["image", "csv", "text", "none"]
    text: str = ""
    rows: Sequence[Sequence[str]] = ()
    cut: bool = False


def kind_of(content_type: str, key: str) -> Literal["image", "csv", "text", "none"]:
    """How an object is shown, by its content type; by the end of its key where the type says nothing."""
    kind, name = content_type.partition(";")[0].strip().lower(), key.lower()
    says_nothing = kind in ("", "application/octet-stream")
    if kind in IMAGES:
        return "image"
    if kind in ("text/csv", "text/tab-separated-values") or (says_nothing and name.endswith((".csv", ".tsv"))):
        return "csv"
    is_text = kind.startswith("text/") or kind.endswith(tuple(f"{sep}{text}" for sep in "/+" for text in _TEXTS))
    return "text" if is_text or (says_nothing and name.endswith(_ENDINGS)) else "none"


def preview_of(content_type: str, key: str, data: bytes, *, cut: bool) -> Preview:
    """The preview by the first bytes; `cut` tells that there are more."""
    kind = kind_of(content_type, key)
    if kind in ("image", "none"):
        return Preview(kind)
    text = codecs.getincrementaldecoder("utf-8-sig")("replace").decode(data, final=not cut)
    if "\0" in text:
        return Preview("none")
    if kind == "csv":
        return _table_of(text, cut=cut)
    return Preview("text", text, cut=cut)


def _table_of(text: str, *, cut: bool) -> Preview:
    whole = text[: text.rfind("\n") + 1] if cut and "\n" in text else text
    try:
        dialect: type[csv.Dialect] = csv.Sniffer().sniff(whole[:4096], ",;\t|")
    except csv.Error:
        dialect = csv.excel
    rows: list[list[str]] = []
    try:
        for row in csv.reader(io.StringIO(whole, newline=""), dialect):
            if len(rows) == _ROWS:
                return Preview("csv", rows=rows, cut=True)
            rows.append([cell[:_LONGEST] for cell in row[:_COLUMNS]])
    except csv.Error:
        return Preview("text", text, cut=cut)
    return Preview("csv", rows=rows, cut=cut) if rows else Preview("text", text, cut=cut)
