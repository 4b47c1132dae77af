"""What a model says about its fields, in one form for pydantic models, msgspec Structs and dataclasses."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import annotated_types as at
import msgspec
from pydantic import AliasChoices, BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from headwater.codec import codec_for, encode_checked
from headwater.errors import DeclarationError, InvalidValue

_QUIET = {
    "title",
    "frozen",
    "extra",
    "populate_by_name",
    "validate_by_name",
    "validate_by_alias",
    "from_attributes",
} | {
    "use_attribute_docstrings",
    "json_schema_extra",
    "validate_assignment",
    "defer_build",
}
_FAST = (str, int, float, Decimal, datetime, date)


@dataclass(frozen=True)
class Limits:
    """Bounds of a number, or of the length of a text."""

    ge: Any = None
    gt: Any = None
    le: Any = None
    lt: Any = None


@dataclass(frozen=True)
class Field:
    """One field. `kind` is its bare type where a text can be judged in bulk, within `limits`; else None.
    `wordy`: a text is the value itself, never JSON of it.

    `columns` are the names it may have in a file, `stored` its name in documents, `input` one that decoding takes.
    """

    attribute: str
    columns: tuple[str, ...]
    stored: str
    input: str
    annotation: Any
    optional: bool
    kind: type | None
    wordy: bool
    limits: Limits
    pydantic: bool
    default: Callable[[], Any] | None

    @property
    def name(self) -> str:
        return self.columns[0]

    def same_json(self, other: Field) -> bool:
        """Whether each value of this field is one of the other, with the same JSON text."""
        alike = self.pydantic == other.pydantic or self.kind in (str, int, float, date)
        rules = (self.annotation, self.kind, self.limits) == (other.annotation, other.kind, other.limits)
        return alike and (rules or (other.kind is str is self.kind and other.limits == Limits() and other.optional))

    def default_json(self) -> str:
        assert self.default is not None
        return self.dump(self.default())

    def read_text(self, text: str) -> str:
        """The JSON text of the value that a text of a file stands for; raises `InvalidValue` with the reason."""
        if not text and self.kind is not str:
            raise InvalidValue("is empty")
        return self._checked(lambda: self._validate(text) if self.pydantic else self._convert(text))

    def read_json(self, json: str) -> str:
        """The same for JSON text."""
        if self.pydantic:
            return self._checked(lambda: _adapter(self).validate_json(json))
        return self._checked(lambda: msgspec.json.decode(json, type=self.annotation, strict=False))

    def dump(self, value: Any) -> str:
        plain = _adapter(self).dump_python(value, mode="json", by_alias=True) if self.pydantic else value
        return encode_checked(plain).decode()

    def _validate(self, text: str) -> Any:
        try:
            return _adapter(self).validate_strings(text)
        except ValidationError:
            if self.wordy or text.startswith('"'):
                raise
            return _adapter(self).validate_json(text)  # Literal[1], an IntEnum, a list

    def _convert(self, text: str) -> Any:
        return msgspec.convert(text, self.annotation, strict=False)

    def _checked(self, read: Callable[[], Any]) -> str:
        try:
            return self.dump(read())
        except ValidationError as error:
            raise InvalidValue(error.errors()[0]["msg"]) from error
        except (ValueError, TypeError, OverflowError) as error:
            raise InvalidValue(str(error)) from error


@dataclass(frozen=True)
class Shape:
    """A model's fields. `plain`: a document is no more and no less than its fields, each by itself."""

    model: type[Any]
    fields: tuple[Field, ...]
    plain: bool
    closed: bool

    def field(self, attribute: str) -> Field:
        for field in self.fields:
            if field.attribute == attribute:
                return field
        raise DeclarationError(
            f"{self.model.__name__} has no field {attribute!r}",
            hint=f"its fields are {', '.join(field.attribute for field in self.fields)}",
        )


_shapes: dict[type[Any], Shape] = {}
_adapters: dict[int, tuple[Field, TypeAdapter[Any]]] = {}


def shape_of(model: type[Any]) -> Shape:
    """Raises `DeclarationError` for what is no model with declared fields."""
    if model not in _shapes:
        codec_for(model)
        if model is dict:
            raise DeclarationError("rows need a model with declared fields, not dict")
        _shapes[model] = _pydantic_shape(model) if issubclass(model, BaseModel) else _msgspec_shape(model)
    return _shapes[model]


def _adapter(field: Field) -> TypeAdapter[Any]:
    known = _adapters.get(id(field))
    if known is None:  # the field is kept with its adapter, so that its id stays its own
        _adapters[id(field)] = known = (field, TypeAdapter(field.annotation))
    return known[1]


def _pydantic_shape(model: type[BaseModel]) -> Shape:
    decorators = model.__pydantic_decorators__
    has_own_rules = any(getattr(decorators, slot.name) for slot in dataclasses.fields(decorators))
    config: ConfigDict = model.model_config
    fields = tuple(_pydantic_field(name, field) for name, field in model.model_fields.items())
    plain = (
        not has_own_rules
        and {*config} <= _QUIET
        and config.get("extra") != "allow"
        and model.model_post_init is BaseModel.model_post_init
        and "__get_pydantic_core_schema__" not in {n for c in model.__mro__[:-1] if c is not BaseModel for n in vars(c)}
        and not model.__pydantic_root_model__
        and not any(f.exclude or getattr(f, "exclude_if", None) for f in model.model_fields.values())
    )
    return Shape(model, fields, plain, config.get("extra") == "forbid")


def _pydantic_field(name: str, field: FieldInfo) -> Field:
    alias = field.validation_alias
    names = [a for a in alias.choices if isinstance(a, str)] if isinstance(alias, AliasChoices) else [alias]
    annotation: Any = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    has_default = field.default is not PydanticUndefined or field.default_factory is not None
    return _field(
        name,
        columns=(*(n for n in names if isinstance(n, str)), name),
        stored=field.serialization_alias or name,
        input=name,
        annotation=annotation,
        pydantic=True,
        default=(lambda: field.get_default(call_default_factory=True, validated_data={})) if has_default else None,
    )


def _msgspec_shape(model: type[Any]) -> Shape:
    hints = get_type_hints(model, include_extras=True)
    if issubclass(model, msgspec.Struct):
        config = model.__struct_config__
        if config.array_like:
            raise DeclarationError(f"{model.__name__} is array_like: rows need names")
        listed = msgspec.structs.fields(model)
        plain = not (config.tag or config.omit_defaults or hasattr(model, "__post_init__"))
        pairs: list[tuple[Any, str]] = [(f, f.encode_name) for f in listed]
        closed = config.forbid_unknown_fields
    else:
        pairs = [(f, f.name) for f in dataclasses.fields(model)]
        plain, closed = not hasattr(model, "__post_init__"), False
    fields = tuple(_msgspec_field(f, stored, hints[f.name]) for f, stored in pairs)
    return Shape(model, fields, plain, closed)


def _msgspec_field(field: Any, stored: str, hint: Any) -> Field:
    missing = (msgspec.NODEFAULT, dataclasses.MISSING)
    default: Callable[[], Any] | None = None
    if all(field.default is not nothing for nothing in missing):
        default = lambda: field.default  # noqa: E731
    elif all(field.default_factory is not nothing for nothing in missing):
        default = field.default_factory
    return _field(
        field.name,
        columns=(stored, field.name),
        stored=stored,
        input=stored,
        annotation=hint,
        pydantic=False,
        default=default,
    )


def _field(attribute: str, *, annotation: Any, columns: tuple[str, ...], **rest: Any) -> Field:
    bare, optional, rules = _unwrap(annotation)
    limits = _limits_of(rules)
    wordy = bare in (*_FAST, bool)
    kind = bare if bare in _FAST and limits is not None else None
    return Field(
        attribute=attribute,
        columns=tuple(dict.fromkeys(columns)),
        annotation=annotation,
        optional=optional,
        kind=kind,
        wordy=wordy,
        limits=limits or Limits(),
        **rest,
    )


def _unwrap(annotation: Any) -> tuple[Any, bool, list[Any]]:
    """The type inside of Annotated and Optional, whether None is allowed, and the rules on the way."""
    rules: list[Any] = []
    optional = False
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            rules += annotation.__metadata__
            annotation = annotation.__origin__
        elif origin in (Union, types.UnionType):
            inner = [arg for arg in get_args(annotation) if arg is not types.NoneType]
            optional = optional or len(inner) < len(get_args(annotation))
            if len(inner) != 1:
                return annotation, optional, rules
            annotation = inner[0]
        else:
            return annotation, optional or annotation is types.NoneType, rules


def _limits_of(rules: list[Any]) -> Limits | None:
    """The rules as limits; None when there are other ones, or two for one side."""
    found: list[tuple[str, Any]] = []
    for rule in rules:
        match rule:
            case at.Ge() | at.Gt() | at.Le() | at.Lt():
                side = type(rule).__name__.lower()
                found.append((side, getattr(rule, side)))
            case at.MinLen():
                found.append(("ge", rule.min_length))
            case at.MaxLen():
                found.append(("le", rule.max_length))
            case msgspec.Meta():
                if any(getattr(rule, other) is not None for other in ("multiple_of", "pattern", "tz")):
                    return None
                named = {"ge": "ge", "gt": "gt", "le": "le", "lt": "lt", "min_length": "ge", "max_length": "le"}
                found += [(side, getattr(rule, n)) for n, side in named.items() if getattr(rule, n) is not None]
            case _:
                return None
    numbers = all(isinstance(limit, int | float) for _, limit in found)
    return Limits(**dict(found)) if numbers and len(dict(found)) == len(found) else None
