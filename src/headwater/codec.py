"""Models to canonical JSON bytes and back: pydantic models, msgspec Structs, dataclasses and plain dicts.

Canonical means: keys sorted, no white space, so that equal documents have equal bytes. Integers are int64, floats
finite, Decimals strings, times RFC 3339.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, Generic, TypeVar, cast, get_type_hints

import msgspec
from pydantic import BaseModel, TypeAdapter, ValidationError

from headwater.errors import DeclarationError, InvalidValue

T = TypeVar("T")
_encoder = msgspec.json.Encoder(order="sorted", decimal_format="string")
_decoder = msgspec.json.Decoder()
encode_json = _encoder.encode
decode_json: Callable[[bytes], Any] = _decoder.decode
_SUSPECT = re.compile(rb"null|[0-9]{19}").search
INT64 = range(-(2**63), 2**63)


class Codec(Generic[T]):
    """Encodes and decodes one model. Stateless and safe to share between threads."""

    def __init__(self, model: type[T], encode: Callable[[T], bytes], decode: Callable[[bytes], T]) -> None:
        self.model = model
        self.encode = encode
        self.decode = decode


def check_json(value: Any, path: str = "") -> None:
    """Raise `InvalidValue` naming the place of a number that not every engine can hold, or of a foreign type."""
    match value:
        case None | bool() | str():
            return
        case int():
            if value not in INT64:
                raise InvalidValue(f"{path or 'value'} is beyond 64 bits", hint="store it as a string")
        case float():
            if not math.isfinite(value):
                raise InvalidValue(f"{path or 'value'} is {value}", hint="only finite numbers can be stored")
        case dict():
            for name, item in value.items():
                check_json(item, f"{path}.{name}" if path else str(name))
        case list():
            for n, item in enumerate(value):
                check_json(item, f"{path}[{n}]")
        case _:
            raise InvalidValue(f"{path or 'value'} has the type {type(value).__name__}", hint="use JSON types")


def _check_finite(value: Any) -> None:
    if isinstance(value, float):
        check_json(value)
    elif isinstance(value, dict):
        for item in value.values():
            _check_finite(item)
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            _check_finite(item)


def encode_checked(value: Any) -> bytes:
    """Encode JSON types canonically; `check_json` looks only where the bytes give reason to.

    The encoder writes NaN and infinities as null, and a number beyond 64 bits has at least 19 digits.
    """
    body = encode_json(value)
    if _SUSPECT(body):
        check_json(msgspec.to_builtins(value, str_keys=True))
    return body


def _encode_dict(value: Any) -> bytes:
    if not isinstance(value, dict):
        raise InvalidValue(f"expected a dict, got {type(value).__name__}")
    try:
        plain = msgspec.to_builtins(value, str_keys=True)
    except (TypeError, ValueError) as error:
        raise InvalidValue(str(error)) from error
    return encode_checked(plain)


def _pydantic(model: type[Any]) -> Codec[Any]:
    adapter: TypeAdapter[Any] = TypeAdapter(model)
    dump, validate = adapter.serializer.to_python, adapter.validator.validate_json

    def encode(value: Any) -> bytes:
        if not isinstance(value, model):
            raise InvalidValue(f"expected {model.__name__}, got {type(value).__name__}")
        body = encode_checked(dump(value, mode="json", by_alias=True))
        if b"null" in body:
            _check_finite(dump(value))  # pydantic writes NaN and infinities in fields of any type as null
        return body

    def decode(data: bytes) -> Any:
        try:
            return validate(data, by_alias=True, by_name=True)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise InvalidValue(f"not a {model.__name__}: {place}: {first['msg']}") from error

    return Codec(model, encode, decode)


def _msgspec(model: type[Any]) -> Codec[Any]:
    decoder = msgspec.json.Decoder(model)

    def encode(value: Any) -> bytes:
        if not isinstance(value, model):
            raise InvalidValue(f"expected {model.__name__}, got {type(value).__name__}")
        return encode_checked(value)

    def decode(data: bytes) -> Any:
        try:
            return decoder.decode(data)
        except msgspec.DecodeError as error:
            raise InvalidValue(f"not a {model.__name__}: {error}") from error

    return Codec(model, encode, decode)


_codecs: dict[Any, Codec[Any]] = {}


def codec_for(model: type[T]) -> Codec[T]:
    """The codec of a model; the same object for the same model.

    Raises `DeclarationError` for a type that is none of pydantic model, msgspec Struct, dataclass, dict.
    """
    if model not in _codecs:
        _codecs[model] = _build(model)
    return cast("Codec[T]", _codecs[model])


def _build(model: Any) -> Codec[Any]:
    if model is dict:
        return Codec(dict, _encode_dict, decode_json)
    if isinstance(model, type):
        if issubclass(model, BaseModel):
            return _pydantic(model)
        if issubclass(model, msgspec.Struct) or hasattr(model, "__dataclass_fields__"):
            return _msgspec(model)
    raise DeclarationError(
        f"{model!r} is not a model", hint="use a pydantic model, a msgspec Struct, a dataclass or dict"
    )


def attribute_of(model: type[Any], stored: str) -> str:
    """The attribute that holds the field of this stored (JSON) name."""
    if issubclass(model, BaseModel):
        names = {field.serialization_alias or name: name for name, field in model.model_fields.items()}
    elif issubclass(model, msgspec.Struct):
        names = {field.encode_name: field.name for field in msgspec.structs.fields(model)}
    else:
        names = {}
    return names.get(stored, stored)


@cache
def _field_adapter(model: type[BaseModel], attribute: str) -> TypeAdapter[Any]:
    field = model.model_fields[attribute]
    wanted: Any = Annotated[field.annotation, field]
    return TypeAdapter(wanted)


def encode_field(model: type[Any], stored: str, value: Any) -> Any:
    """One field's value as JSON types, checked against its declared type; raises `InvalidValue` naming the field."""
    plain = _plain(value)
    attribute = attribute_of(model, stored)
    try:
        if issubclass(model, BaseModel):
            adapter = _field_adapter(model, attribute)
            return adapter.dump_python(adapter.validate_json(encode_json(plain)), mode="json", by_alias=True)
        if not issubclass(model, dict):
            wanted = get_type_hints(model, include_extras=True)[attribute]
            return msgspec.to_builtins(msgspec.convert(plain, wanted, strict=True), str_keys=True)
    except ValidationError as error:
        raise InvalidValue(f"{stored}: {error.errors()[0]['msg']}") from error
    except msgspec.ValidationError as error:
        raise InvalidValue(f"{stored}: {error}") from error
    return plain


def _plain(value: Any) -> Any:
    try:
        return msgspec.to_builtins(value, str_keys=True, enc_hook=_dump_model)
    except (TypeError, ValueError) as error:
        raise InvalidValue(str(error)) from error


def _dump_model(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=True)
    raise TypeError(f"{type(value).__name__} is no JSON type")


def field_names(model: type[Any]) -> frozenset[str] | None:
    """The stored (JSON) names of a model's fields; None when any name may occur (dict)."""
    if issubclass(model, BaseModel | msgspec.Struct) or hasattr(model, "__dataclass_fields__"):
        return frozenset(stored_fields(model))
    return None


def stored_fields(model: type[Any]) -> tuple[str, ...]:
    """The names that a model's documents have, in its order; of a dict none are known."""
    if issubclass(model, BaseModel):
        return tuple(field.serialization_alias or name for name, field in model.model_fields.items())
    if issubclass(model, msgspec.Struct):
        return tuple(field.encode_name for field in msgspec.structs.fields(model))
    return tuple(getattr(model, "__dataclass_fields__", ()))
