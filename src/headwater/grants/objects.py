"""What attributes and elements of atoms are. Nothing of the app runs: properties are read as functions."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, get_args, get_origin

from headwater.grants.atoms import (
    NOTHING,
    Arguments,
    Atom,
    Bag,
    Bound,
    Call,
    Closure,
    Instance,
    Live,
    Method,
    Super,
    Value,
    live,
    union,
)
from headwater.permits import VERBS, Guarded

if TYPE_CHECKING:
    from headwater.grants.analysis import Analysis

MOST_ELEMENTS = 1_000
_CONTAINERS = (dict, list, tuple, set, frozenset, types.MappingProxyType)
_PARTS = frozenset({"data", "old", "new", "value", "request"})
"""Attributes by which events and stored rows lead to their model."""
_ABSENT = object()


class Objects:
    def __init__(self, analysis: Analysis) -> None:
        self._analysis = analysis
        self._memory = analysis.memory

    # Attributes

    def attribute(self, value: Value, name: str, place: str) -> Value:
        return union(*(self._of_atom(atom, name, place) for atom in value))

    def _of_atom(self, atom: Atom, name: str, place: str) -> Value:
        match atom:
            case Live(obj=Guarded() as resource):
                if name in VERBS[resource.kind]:
                    self._analysis.grant(resource, VERBS[resource.kind][name], place)
                    return (Call(atom, name),)
                return self._of_object(atom, resource, name, place)
            case Live(obj=types.ModuleType() as module):
                return union(live(getattr(module, name, None)), self._memory.read(("global", id(vars(module)), name)))
            case Live(obj=type() as cls):
                return self._of_class(cls, name, None, place)
            case Live(obj=obj) if isinstance(obj, _CONTAINERS):
                return (Method(atom, name),)
            case Live(obj=obj):
                return self._of_object(atom, obj, name, place)
            case Bag():
                known = self._memory.read(atom) if name in _PARTS else NOTHING
                return union(known, (Method(atom, name),))
            case Instance(cls=cls):
                own = self._memory.read(("attribute", atom, name))
                return union(own, self._of_class(cls, name, atom, place))
            case Super(cls=cls, owner=owner):
                found = _class_attribute(cls.__mro__[1:], name)
                return union(*(self._bound(found, self_atom, place) for self_atom in owner))
        return NOTHING

    def _of_object(self, atom: Live, obj: Any, name: str, place: str) -> Value:
        """An attribute of a live object: what it has now, and what the code may set it to."""
        kept = self._memory.read(("attribute", atom, name))
        own = getattr(obj, "__dict__", None) if not isinstance(obj, types.FunctionType) else None
        if isinstance(own, Mapping) and name in own:
            return union(live(own[name]), kept)
        return union(kept, self._of_class(type(obj), name, atom, place))

    def _of_class(self, cls: type[Any], name: str, owner: Atom | None, place: str) -> Value:
        found = _class_attribute(cls.__mro__, name)
        if found is not _ABSENT:
            return self._bound(found, owner, place) if owner is not None else self._unbound(found, cls)
        fallback = _class_attribute(cls.__mro__, "__getattr__")
        if owner is None or not self._analysis.is_own(fallback):
            return NOTHING
        return self._analysis.call((Bound(Live(fallback), ((owner,),)),), Arguments((NOTHING,)), place)

    def _unbound(self, found: Any, cls: type[Any]) -> Value:
        if isinstance(found, classmethod):
            return (Bound(Live(found.__func__), ((Live(cls),),)),)
        return live(found.__func__ if isinstance(found, staticmethod) else found)

    def _bound(self, found: Any, owner: Atom, place: str) -> Value:
        """A class's attribute as one of its objects has it."""
        match found:
            case types.FunctionType():
                return (Bound(Live(found), ((owner,),)),)
            case staticmethod():
                return live(found.__func__)
            case classmethod():
                cls = owner.cls if isinstance(owner, Instance) else type(getattr(owner, "obj", None))
                return (Bound(Live(found.__func__), ((Live(cls),),)),)
            case property() | functools.cached_property():
                getter = found.fget if isinstance(found, property) else found.func
                if not self._analysis.is_own(getter):
                    return NOTHING
                return self._analysis.call((Live(getter),), Arguments(((owner,),)), place)
            case types.MemberDescriptorType() if isinstance(owner, Live):
                return live(_member(found, owner.obj))
            case functools.partialmethod():
                first = ((owner,), *(live(argument) for argument in found.args))
                return (Bound(Live(found.func), first),)
        if callable(found) and hasattr(found, "__wrapped__"):  # functools.lru_cache and alike
            return (Bound(Live(found), ((owner,),)),)
        return NOTHING if found is _ABSENT or inspect.isdatadescriptor(found) else live(found)

    def set_attribute(self, owners: Value, name: str, value: Value, place: str) -> None:
        """Remember it; what is set on an unknown object escapes."""
        known = False
        for atom in owners:
            if isinstance(atom, Live) and isinstance(atom.obj, types.ModuleType):
                self._memory.add(("global", id(vars(atom.obj)), name), value)
                known = True
            elif isinstance(atom, Live | Instance):
                self._memory.add(("attribute", atom, name), value)
                known = True
        if not known:
            self._analysis.escape(value, place)

    # Elements

    def elements(self, value: Value, place: str) -> Value:
        return union(*(self._elements_of(atom, place) for atom in value))

    def _elements_of(self, atom: Atom, place: str) -> Value:
        match atom:
            case Bag():
                return self._memory.read(atom)
            case Method(of=of):
                return self._elements_of(of, place)
            case Live(obj=obj) if isinstance(obj, _CONTAINERS):
                return union(self._memory.read(("items", atom)), *map(live, _items(obj)))
            case Instance() | Live() if not isinstance(getattr(atom, "obj", None), Guarded | type):
                found = [self.special(atom, name, place) for name in ("__iter__", "__aiter__", "__next__", "__anext__")]
                return union((atom,), *found)
        return (atom,)  # what a generator yields stands for itself

    def item(self, value: Value, key: Any, place: str) -> Value:
        """`value[key]`; without a constant key any element."""
        found = []
        for atom in value:
            exact = _ABSENT
            if isinstance(atom, Live) and isinstance(atom.obj, _CONTAINERS) and key is not None:
                exact = _at(atom.obj, key)
            if exact is not _ABSENT:
                found.append(union(live(exact), self._memory.read(("items", atom))))
            elif isinstance(atom, Instance | Live) and (got := self.special(atom, "__getitem__", place)):
                found.append(got)
            else:
                found.append(self._elements_of(atom, place))
        return union(*found)

    def put_into(self, containers: Value, value: Value, place: str) -> None:
        known = False
        for atom in containers:
            if isinstance(atom, Bag):
                self._memory.add(atom, value)
                known = True
            elif isinstance(atom, Live) and isinstance(atom.obj, _CONTAINERS):
                self._memory.add(("items", atom), value)
                known = True
        if not known:
            self._analysis.escape(value, place)

    def bag(self, site: Hashable, elements: Value) -> Value:
        made = Bag(site)
        self._memory.add(made, elements)
        return (made,)

    def special(self, atom: Atom, name: str, place: str) -> Value:
        """The result of one of the app's own special methods, without known arguments."""
        cls = atom.cls if isinstance(atom, Instance) else type(atom.obj) if isinstance(atom, Live) else None
        found = _class_attribute(cls.__mro__, name) if cls is not None else _ABSENT
        if not self._analysis.is_own(found):
            return NOTHING
        return self._analysis.call((Bound(Live(found), ((atom,),)),), Arguments(), place)

    def within(self, atom: Atom) -> Value:
        """What an object holds that goes out of sight: its elements and, of the app's own, its attributes."""
        match atom:
            case Bag():
                return self._memory.read(atom)
            case Live(obj=obj) if isinstance(obj, _CONTAINERS):
                return union(*map(live, _items(obj)))
            case Live(obj=obj) if self._analysis.is_own_class(type(obj)):
                return union(*map(live, vars(obj).values())) if hasattr(obj, "__dict__") else NOTHING
            case Bound(fn=fn, first=first, named=named):
                return union((fn,), *first, *(value for _, value in named))
        return NOTHING

    # Types

    def from_annotation(self, annotation: Any, site: Hashable = "received") -> Value:
        """An object of one of the app's classes, or something with such objects in it."""
        if isinstance(annotation, type) and not get_args(annotation):
            return (Instance(annotation),) if self._analysis.is_own_class(annotation) else NOTHING
        parts = union(*(self.from_annotation(part) for part in get_args(annotation)))
        if not parts:
            return NOTHING
        plain = get_origin(annotation) in (types.UnionType, None) or "Union" in str(get_origin(annotation))
        return parts if plain else union(parts, self.bag((site, annotation), parts))

    def rows_of(self, resource: Guarded) -> Value:
        """What the calls of a resource give back."""
        model = getattr(resource, "model", None)
        if model is None or not self._analysis.is_own_class(model):
            return NOTHING
        return union((Instance(model),), self.bag(("rows", model), (Instance(model),)))


def _class_attribute(classes: tuple[type[Any], ...], name: str) -> Any:
    return next((vars(cls)[name] for cls in classes if name in vars(cls)), _ABSENT)


def _member(descriptor: Any, owner: Any) -> Any:
    try:
        return descriptor.__get__(owner)
    except AttributeError:
        return None


def _items(container: Any) -> Iterator[Any]:
    found = container.values() if isinstance(container, Mapping) else container
    for number, item in enumerate(found):
        if number == MOST_ELEMENTS:
            return
        yield item


def _at(container: Any, key: Any) -> Any:
    try:
        return container[key]
    except (LookupError, TypeError):
        return _ABSENT


def is_function(atom: Atom) -> bool:
    match atom:
        case Closure() | Bound():
            return True
        case Live(obj=obj):
            return isinstance(obj, Callable) and not isinstance(obj, type | Guarded)  # type: ignore[arg-type]
    return False
