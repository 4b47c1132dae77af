"""Models to canonical JSON and back: the same rules for each kind of model."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from pydantic import BaseModel, Field

from headwater.codec import codec_for, field_names
from headwater.errors import DeclarationError, InvalidValue


class Model(BaseModel):
    id: str
    n: int = 0
    x: Any = None


class Aliased(BaseModel):
    own: str = Field(alias="theirs")


class Struct(msgspec.Struct):
    id: str
    n: int = 0
    x: Any = None


@dataclass
class Data:
    id: str
    n: int = 0
    x: Any = None


MODELS: list[Any] = [Model, Struct, Data, dict]


@pytest.mark.parametrize("model", MODELS)
def test_the_bytes_are_canonical_and_come_back(model: Any) -> None:
    codec = codec_for(model)
    value = model(id="é", n=2**63 - 1, x={"b": 1, "a": [1.5, None, True]})
    body = codec.encode(value)
    assert body == '{"id":"é","n":9223372036854775807,"x":{"a":[1.5,null,true],"b":1}}'.encode()
    assert codec.decode(body) == value
    assert codec_for(model) is codec


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, float("nan"), float("inf")])
def test_numbers_that_not_every_engine_holds_are_refused(model: Any, value: float) -> None:
    for x in (value, [value], {"deep": [1, {"er": value}]}):
        with pytest.raises(InvalidValue):
            codec_for(model).encode(model(id="a", n=1, x=x))


@pytest.mark.parametrize("model", MODELS)
def test_decimals_and_times_are_text(model: Any) -> None:
    value = model(id="a", n=1, x={"d": Decimal("1.10"), "t": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)})
    assert b'"d":"1.10"' in codec_for(model).encode(value)
    assert b'"t":"2026-01-02T03:04:05Z"' in codec_for(model).encode(value)


@pytest.mark.parametrize("model", [Model, Struct, Data])
@pytest.mark.parametrize("body", [b'{"n":1}', b'{"id":"a","n":"x"}', b"[]", b"{", b"\xff"])
def test_what_is_no_such_model_is_an_invalid_value(model: Any, body: bytes) -> None:
    with pytest.raises(InvalidValue, match=model.__name__):
        codec_for(model).decode(body)


@pytest.mark.parametrize("model", MODELS)
def test_only_the_models_own_values_are_encoded(model: Any) -> None:
    other = Struct(id="a") if model is not Struct else Model(id="a")
    for value in (other, None, "text", 5):
        with pytest.raises(InvalidValue):
            codec_for(model).encode(value)


def test_aliases_are_the_stored_names() -> None:
    codec = codec_for(Aliased)
    assert codec.encode(Aliased(theirs="x")) == b'{"theirs":"x"}'
    assert codec.decode(b'{"theirs":"x"}').own == "x"
    assert field_names(Model) == field_names(Struct) == field_names(Data) == frozenset({"id", "n", "x"})
    assert field_names(dict) is None


def test_other_types_are_no_models() -> None:
    for model in (int, list, object, "text"):
        with pytest.raises(DeclarationError, match="model"):
            codec_for(model)  # type: ignore[arg-type]
