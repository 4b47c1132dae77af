"""One unit's grants: its functions read, and all of the app's that they call, until nothing new comes to light."""

from __future__ import annotations

import ast
import types
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec

from headwater.grants.atoms import (
    NOTHING,
    Arguments,
    Closure,
    Live,
    Memory,
    Value,
    is_resource,
    live,
    union,
)
from headwater.grants.calling import Calls, all_verbs
from headwater.grants.objects import Objects, is_function
from headwater.grants.reading import Reader
from headwater.grants.scopes import Scope, World
from headwater.grants.source import FunctionNode, node_of
from headwater.permits import Grant, Guarded, Slot, label_of

PASSES = 16
DEEPEST = 10
"""How many functions deep calls are read at once; deeper ones afterwards, so that no stack overflows."""
MOST_WAYS = 50
"""How many ways of calling a function are told apart; further ones are read as one."""
_Key = tuple[object, ...]


class Analysis:
    """Reads what `roots` call; `packages` are the top-level names of the app's own code."""

    def __init__(self, packages: frozenset[str]) -> None:
        self._packages = packages
        self.memory = Memory()
        self.objects = Objects(self)
        self.calls = Calls(self)
        self._grants: dict[Slot, Grant] = {}
        self._scopes: dict[_Key, Scope] = {}
        self._worlds: dict[types.FunctionType, World] = {}
        self._read: set[Scope] = set()
        self._called_back: set[_Key] = set()
        self._depth = 0
        self._ways: Counter[object] = Counter()
        self._deferred: list[tuple[FunctionNode, Scope, dict[str, Value]]] = []

    def run(self, root: Callable[[Analysis], object]) -> list[Grant]:
        for _ in range(PASSES):
            before = self.memory.size, len(self._grants)
            self._read.clear()
            self._called_back.clear()
            root(self)
            while self._deferred:
                self._read_body(*self._deferred.pop())
            if (self.memory.size, len(self._grants)) == before:
                break
        return list(self._grants.values())

    # What is the app's own

    def owns(self, module: str) -> bool:
        return module.partition(".")[0] in self._packages

    def is_own(self, fn: object) -> bool:
        return isinstance(fn, types.FunctionType) and self.owns(str(fn.__globals__.get("__name__", "")))

    def is_own_class(self, cls: type[Any]) -> bool:
        return self.owns(str(getattr(cls, "__module__", "")))

    # Grants

    def grant(self, resource: Guarded, verb: str, place: str, *, escapes: bool = False) -> None:
        self.take(Grant(resource.name, resource.kind, verb, escapes=escapes), place)

    def take(self, grant: Grant, place: str) -> None:
        """Keep it with the first place that needs it; a use that was seen comes before an escape."""
        known = self._grants.get(grant.slot)
        if known is None or (known.escapes and not grant.escapes):
            self._grants[grant.slot] = msgspec.structs.replace(grant, at=place)

    def escape(self, value: Value, place: str) -> None:
        """It goes where it is not followed: all verbs of resources, and functions may be called."""
        waiting, seen = list(value), set(value)
        while waiting:
            atom = waiting.pop()
            if is_resource(atom):
                assert isinstance(atom, Live)
                for verb in all_verbs(atom.obj):
                    self.grant(atom.obj, verb, place, escapes=True)
            elif is_function(atom) and (atom, place) not in self._called_back:
                self._called_back.add((atom, place))
                self.calls.call_atom(atom, Arguments(), place)
            inner = [found for found in self.objects.within(atom) if found not in seen]
            waiting += inner
            seen.update(inner)

    # Calls

    def call(self, functions: Value, arguments: Arguments, place: str) -> Value:
        return union(*(self.calls.call_atom(atom, arguments, place) for atom in functions))

    def enter_function(self, fn: types.FunctionType, arguments: Arguments) -> Value:
        """A live function of the app's own."""
        world = self._worlds.get(fn)
        if world is None:
            world = self._worlds[fn] = World.of(fn)
        node = node_of(fn)
        if node is None:
            return self._give_up(fn, world)
        defaults = {name: live(value) for name, value in _defaults(fn).items()}
        hints = {name: self.objects.from_annotation(hint) for name, hint in _hints(fn).items()}
        either = {name: union(hints.get(name, NOTHING), defaults.get(name, NOTHING)) for name in hints | defaults}
        bound = _bind(node.args, arguments, either)
        return self._read_body(node, self._scope(fn, (fn, *bound.items()), world, None), bound)

    def enter_closure(self, closure: Closure, arguments: Arguments) -> Value:
        """A function that is defined in a function."""
        reader = Reader(self, closure.scope)
        defaults = {name: reader.visit(node) for name, node in _default_nodes(closure.node.args).items()}
        bound = _bind(closure.node.args, arguments, defaults)
        scope = self._scope(closure.node, (closure, *bound.items()), closure.scope.world, closure.scope)
        return self._read_body(closure.node, scope, bound)

    def _scope(self, of: object, way: _Key, world: World, parent: Scope | None) -> Scope:
        """The scope of one way of calling a function."""
        if way not in self._scopes and self._ways[of] >= MOST_WAYS:
            way = (of,)
        if way not in self._scopes:
            self._ways[of] += 1
            self._scopes[way] = Scope(world, self.memory, parent)
        return self._scopes[way]

    def _read_body(self, node: FunctionNode, scope: Scope, bound: dict[str, Value]) -> Value:
        """Once in each pass, for each way of calling it."""
        self._bind_parameters(scope, node.args, bound)
        if scope in self._read:
            return scope.result
        if self._depth >= DEEPEST:
            self._deferred.append((node, scope, bound))
            return scope.result
        self._read.add(scope)
        self._depth += 1
        try:
            reader = Reader(self, scope)
            if isinstance(node, ast.Lambda):
                scope.give(reader.visit(node.body))
            else:
                reader.read(node.body)
        finally:
            self._depth -= 1
        return scope.result

    def _bind_parameters(self, scope: Scope, parameters: ast.arguments, bound: dict[str, Value]) -> None:
        scope.first_parameter = next(iter(bound), "")
        several = {argument.arg for argument in (parameters.vararg, parameters.kwarg) if argument is not None}
        for name, value in bound.items():
            scope.bind(name, self.objects.bag((scope, name), value) if name in several else value)

    def inner(self, scope: Scope, node: ast.AST) -> Scope:
        """The scope of a comprehension or class in a function."""
        return self._scopes.setdefault((scope, node), scope.inner())

    def _give_up(self, fn: types.FunctionType, world: World) -> Value:
        """Without its source, all that a function can name escapes."""
        place = f"{label_of(world.module, fn.__code__.co_filename)}:{fn.__code__.co_firstlineno}"
        names = (*fn.__code__.co_names, *fn.__code__.co_freevars)
        self.escape(union(*(world.find(self.memory, name) for name in names)), place)
        return NOTHING


def _defaults(fn: types.FunctionType) -> dict[str, Any]:
    code = fn.__code__
    names = code.co_varnames[: code.co_argcount]
    values = fn.__defaults__ or ()
    return dict(zip(names[len(names) - len(values) :], values, strict=True)) | (fn.__kwdefaults__ or {})


def _hints(fn: types.FunctionType) -> dict[str, Any]:
    """Annotations as types; those that are texts are looked up, if they can be."""
    found = {}
    for name, hint in fn.__annotations__.items():
        try:
            found[name] = eval(hint, fn.__globals__) if isinstance(hint, str) else hint
        except Exception:  # a name that only type checkers see
            continue
    return found


def _default_nodes(parameters: ast.arguments) -> dict[str, ast.expr]:
    named = [*parameters.posonlyargs, *parameters.args]
    of_positional = zip(reversed(named), reversed(parameters.defaults), strict=False)
    of_named = zip(parameters.kwonlyargs, parameters.kw_defaults, strict=True)
    return {argument.arg: default for argument, default in (*of_positional, *of_named) if default is not None}


def _bind(parameters: ast.arguments, arguments: Arguments, defaults: dict[str, Value]) -> dict[str, Value]:
    """The value of each parameter. What `*` and `**` of the call bring may be any that is not given otherwise."""
    names = [parameter.arg for parameter in (*parameters.posonlyargs, *parameters.args)]
    bound = dict(zip(names, arguments.positional, strict=False))
    left = dict(arguments.named)
    for name in (*names, *(parameter.arg for parameter in parameters.kwonlyargs)):
        if name in left:
            bound[name] = left.pop(name)
        elif name not in bound:
            bound[name] = union(arguments.rest, defaults.get(name, NOTHING))
        if not bound[name]:
            bound[name] = defaults.get(name, NOTHING)
    if parameters.vararg is not None:
        bound[parameters.vararg.arg] = union(*arguments.positional[len(names) :], arguments.rest)
    if parameters.kwarg is not None:
        bound[parameters.kwarg.arg] = union(*left.values(), arguments.rest)
    return bound
