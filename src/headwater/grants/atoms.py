"""What expressions stand for while code is read: live objects, and what the code makes of them.

A value is a tuple of atoms: all that the expression may be, without doubles, in the order in which it was found. What
is no resource, and cannot lead to one, is left out; the empty value is anything unknown.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeAlias

from headwater.grants.source import FunctionNode
from headwater.permits import Guarded

if TYPE_CHECKING:
    from headwater.grants.scopes import Scope

_PLAIN = (str, bytes, bytearray, int, float, complex, type(None), type(Ellipsis))


class Live:
    """An object of the running program, known by its identity."""

    __slots__ = ("obj",)

    def __init__(self, obj: Any) -> None:
        self.obj = obj

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Live) and other.obj is self.obj

    def __hash__(self) -> int:
        return id(self.obj)


@dataclass(frozen=True)
class Bag:
    """A container that the code makes; what is in it stands in the memory under this atom."""

    site: Hashable


@dataclass(frozen=True)
class Instance:
    """An object of one of the app's classes, made at `site`, or (without one) received from somewhere."""

    cls: type[Any]
    site: Hashable = None


@dataclass(frozen=True)
class Closure:
    """A function that is defined in a function. Its free names are those of the scope."""

    node: FunctionNode
    scope: Scope


@dataclass(frozen=True)
class Bound:
    """A method with its object, or a partial function: `first` are the arguments that it has."""

    fn: Atom
    first: tuple[Value, ...]
    named: tuple[tuple[str, Value], ...] = ()


@dataclass(frozen=True)
class Method:
    """A method of a container."""

    of: Bag | Live
    name: str


@dataclass(frozen=True)
class Call:
    """One of the calls of a resource that need a grant."""

    resource: Live
    name: str


@dataclass(frozen=True)
class Super:
    """`super()` in a method of `cls`."""

    cls: type[Any]
    owner: Value


Atom: TypeAlias = Live | Bag | Instance | Closure | Bound | Method | Call | Super
Value: TypeAlias = tuple[Atom, ...]
NOTHING: Value = ()


@dataclass(frozen=True)
class Arguments:
    """Of a call: by position, by name, and those of `*` and `**`, whose places are not known."""

    positional: tuple[Value, ...] = ()
    named: Mapping[str, Value] = field(default_factory=dict)
    rest: Value = NOTHING

    @property
    def all(self) -> Value:
        return union(*self.positional, *self.named.values(), self.rest)


def union(*values: Value) -> Value:
    return tuple(dict.fromkeys(chain.from_iterable(values)))


def live(obj: Any) -> Value:
    """The value of an object; plain data is nothing."""
    return NOTHING if isinstance(obj, _PLAIN) else (Live(obj),)


def is_resource(atom: Atom) -> bool:
    return isinstance(atom, Live) and isinstance(atom.obj, Guarded)


class Memory:
    """What names, attributes, containers and results may be. It only grows."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, dict[Atom, None]] = {}
        self.size = 0

    def read(self, key: Hashable) -> Value:
        return tuple(self._kept.get(key, ()))

    def knows(self, key: Hashable) -> bool:
        return key in self._kept

    def add(self, key: Hashable, value: Iterable[Atom]) -> None:
        kept = self._kept.setdefault(key, {})
        before = len(kept)
        kept.update(dict.fromkeys(value))
        self.size += len(kept) - before
