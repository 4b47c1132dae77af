"""Columns of texts as columns of canonical JSON text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal

import polars as pl

from headwater.codec import encode_json
from headwater.datasets.models import Field, Limits
from headwater.errors import InvalidValue

LINE = "#line"
_ESCAPED = r'["\\\x00-\x1f]'
_SPECIAL = [chr(n) for n in range(32)] + ['"', "\\"]
_INT = r"^(?:0|-?[1-9][0-9]{0,17})$"
_FLOAT_OF_INT = r"^(?:0|-?[1-9][0-9]{0,13})$"
_DECIMAL = r"^(?:0|-?0\.[0-9]{1,6}|-?[1-9][0-9]{0,20}(?:\.[0-9]{1,6})?)$"
_DATE = r"^(?:[1-9][0-9]{3}|0[0-9]{2}[1-9])-[0-9]{2}-[0-9]{2}$"
_INSTANT = r"^[1-9][0-9]{3}-[0-9]{2}-[0-9]{2}T[0-2][0-9]:[0-5][0-9]:[0-5][0-9]Z$"
_FLOAT = (
    r"^-?(?:[1-9][0-9]{0,4}\.[0-9]{0,8}[1-9]|0\.0{0,3}[1-9]|0\.0{0,3}[1-9][0-9]{0,8}[1-9]|(?:0|[1-9][0-9]{0,13})\.0)$"
)
"""At most 14 significant digits: a double's shortest form has the very digits that were read."""
_ANY_FLOAT = r"^-?(?:0|[1-9][0-9]{0,39})(?:\.[0-9]{1,40})?(?:[eE][+-]?[0-9]{1,3})?$"


def texts_to_json(frame: pl.DataFrame, fields: Sequence[Field]) -> tuple[pl.DataFrame, dict[str, Mapping[str, str]]]:
    """Columns of texts, named by attribute, as JSON text: null where a text does not fit; and the reasons by text.

    A null text is None, which a field that is not Optional refuses.
    """
    escaped = frame.select(pl.col(f.attribute).str.contains(_ESCAPED).any() for f in fields if f.kind is str)
    has_special = {name: bool(escaped[name][0]) for name in escaped.columns}
    fast = frame.select(_sure(f, has_special.get(f.attribute, False)).alias(f.attribute) for f in fields)
    reasons: dict[str, Mapping[str, str]] = {}
    columns = [frame[LINE]]
    for field in fields:
        column, refused = _ask(field, frame[field.attribute], fast[field.attribute], field.read_text)
        columns.append(column)
        reasons[field.attribute] = refused
    return pl.DataFrame(columns), reasons


def recast(column: pl.Series, field: Field) -> tuple[pl.Series, Mapping[str, str]]:
    """JSON text as the JSON text of another field."""
    return _ask(field, column, pl.Series(column.name, [None] * len(column), dtype=pl.String), field.read_json)


def object_of(cells: Mapping[str, pl.Expr]) -> pl.Expr:
    """An object's JSON text from that of its members."""
    parts: list[pl.Expr] = []
    for name in sorted(cells):
        opening = "," if parts else "{"
        parts += [pl.lit(opening + encode_json(name).decode() + ":"), cells[name]]
    return pl.concat_str([*parts, pl.lit("}")]) if parts else pl.lit("{}")


def reason_of(reasons: Mapping[str, str], text: str | None) -> str:
    return "is empty" if text is None else reasons.get(text, "does not fit")


def _ask(
    field: Field, texts: pl.Series, sure: pl.Series, read: Callable[[str], str]
) -> tuple[pl.Series, Mapping[str, str]]:
    """Complete the column `sure`, where it is null, with what the model's library says of each distinct text."""
    known: dict[str, str | None] = {}
    refused: dict[str, str] = {}
    open_texts = texts.filter(sure.is_null() & texts.is_not_null()).unique()
    if field.kind is float and field.limits == Limits() and len(open_texts):
        known |= _floats(open_texts)
        open_texts = open_texts.filter(~open_texts.is_in(list(known)))
    for text in open_texts:
        try:
            known[text] = read(text)
        except InvalidValue as error:
            refused[text] = error.message
    if known:
        answers = texts.replace_strict([*known], [*known.values()], default=None, return_dtype=pl.String)
        sure = sure.zip_with(sure.is_not_null(), answers)
    if field.optional and texts.null_count():
        sure = sure.zip_with(texts.is_not_null(), pl.Series(["null"]).new_from_index(0, len(texts)))
    return sure.alias(field.attribute), refused


def _floats(texts: pl.Series) -> dict[str, str | None]:
    plain = texts.filter(texts.str.contains(_ANY_FLOAT) & (texts != "-0"))  # an int for msgspec: 0.0
    numbers = plain.cast(pl.Float64, strict=False)
    finite = numbers.is_finite().fill_null(value=False)
    body = encode_json(numbers.filter(finite).to_list()).decode()[1:-1]
    return dict(zip(plain.filter(finite), body.split(","), strict=True)) if body else {}


def _sure(field: Field, has_special: bool) -> pl.Expr:
    """The JSON text of texts that are certain to fit and to be canonical; null of all others."""
    text = pl.col(field.attribute)
    kind, limits = field.kind, field.limits
    if kind is str:
        quoted = _quoted(_escape(text) if has_special else text)
        return quoted if limits == Limits() else pl.when(_within(text.str.len_chars(), limits)).then(quoted)
    if kind is int:
        fits = _within(text.cast(pl.Int64, strict=False), limits)
        return pl.when(text.str.contains(_INT) & fits).then(text)
    if kind is float:
        fits = _within(text.cast(pl.Float64, strict=False), limits)
        whole = pl.when(text.str.contains(_FLOAT_OF_INT) & fits).then(pl.concat_str(text, pl.lit(".0")))
        return pl.when(text.str.contains(_FLOAT) & fits).then(text).otherwise(whole)
    if limits != Limits():
        return pl.lit(None, pl.String)
    if kind is Decimal:
        return pl.when(text.str.contains(_DECIMAL)).then(_quoted(text))
    if kind is datetime:
        real = text.str.to_datetime("%Y-%m-%dT%H:%M:%SZ", strict=False, time_zone="UTC").is_not_null()
        return pl.when(text.str.contains(_INSTANT) & real).then(_quoted(text))
    if kind is date:
        real = text.str.to_date("%Y-%m-%d", strict=False).is_not_null()
        return pl.when(text.str.contains(_DATE) & real).then(_quoted(text))
    return pl.lit(None, pl.String)


def _quoted(text: pl.Expr) -> pl.Expr:
    return pl.concat_str(pl.lit('"'), text, pl.lit('"'))


def _escape(text: pl.Expr) -> pl.Expr:
    return text.str.replace_many(_SPECIAL, [encode_json(char).decode()[1:-1] for char in _SPECIAL])


def _within(number: pl.Expr, limits: Limits) -> pl.Expr:
    found = pl.lit(value=True)
    if limits.ge is not None:
        found &= number >= limits.ge
    if limits.gt is not None:
        found &= number > limits.gt
    if limits.le is not None:
        found &= number <= limits.le
    if limits.lt is not None:
        found &= number < limits.lt
    return found
