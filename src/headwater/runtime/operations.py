"""Operations: what the admin API can do. Each is an async method whose keyword parameters are its JSON parameters."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, TypeVar

import msgspec

from headwater.errors import InvalidValue

F = TypeVar("F", bound=Callable[..., Awaitable[Any]])
MAX_PAGE = 1000
Limit = Annotated[int, msgspec.Meta(ge=1, le=MAX_PAGE)]
Slice = Annotated[int, msgspec.Meta(ge=1, le=500)]
Position = Annotated[int, msgspec.Meta(ge=-1)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
Document = dict[str, Any]
Hide = list[str]
"""Names of fields that a search does not look into."""
_MARK = "__operation_writes__"


class Operation(msgspec.Struct, frozen=True):
    """One operation; `writes` tells whether it needs the store's owner."""

    name: str
    summary: str
    writes: bool
    parameters: type[msgspec.Struct]
    run: Callable[..., Awaitable[Any]]

    def described(self) -> dict[str, Any]:
        """The operation for the list that clients read."""
        return {
            "operation": self.name,
            "summary": self.summary,
            "writes": self.writes,
            "parameters": [_described(field) for field in msgspec.structs.fields(self.parameters)],
        }

    def read(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters, checked. Raises `InvalidValue` naming the wrong one."""
        try:
            checked = msgspec.convert(dict(parameters), self.parameters)
        except msgspec.ValidationError as error:
            names = ", ".join(self.parameters.__struct_fields__) or "none"
            raise InvalidValue(str(error), operation=self.name, hint=f"its parameters are: {names}") from error
        return msgspec.structs.asdict(checked)


def operation(*, writes: bool = False) -> Callable[[F], F]:
    """Marks a method as an operation; its name is the method's, with hyphens."""

    def mark(fn: F) -> F:
        setattr(fn, _MARK, writes)
        return fn

    return mark


def operations_of(owner: object) -> dict[str, Operation]:
    """The operations of an object's class, in the order of their names."""
    found: dict[str, Operation] = {}
    for attribute, fn in inspect.getmembers(type(owner), inspect.iscoroutinefunction):
        if hasattr(fn, _MARK):
            name = attribute.replace("_", "-")
            found[name] = Operation(
                name, inspect.getdoc(fn) or "", getattr(fn, _MARK), _parameters(name, fn), getattr(owner, attribute)
            )
    return found


def _parameters(name: str, fn: Callable[..., Any]) -> type[msgspec.Struct]:
    hints = typing.get_type_hints(fn, include_extras=True)
    fields: list[Any] = []
    for parameter in inspect.signature(fn).parameters.values():
        if parameter.kind is not parameter.KEYWORD_ONLY:
            continue
        field = (parameter.name, hints[parameter.name])
        fields.append(field if parameter.default is parameter.empty else (*field, _default(parameter.default)))
    return msgspec.defstruct(name, fields, kw_only=True, forbid_unknown_fields=True)


def _default(value: Any) -> Any:
    return msgspec.field(default_factory=lambda: value) if isinstance(value, list | dict | tuple) else value


def _described(field: msgspec.structs.FieldInfo) -> dict[str, Any]:
    described: dict[str, Any] = {"name": field.name, "schema": _schema(field.type), "required": field.required}
    if field.default is not msgspec.NODEFAULT:
        described["default"] = field.default
    elif field.default_factory is not msgspec.NODEFAULT:
        described["default"] = field.default_factory()
    return described


def _schema(type_: Any) -> Any:
    return msgspec.json.schema(type_)
