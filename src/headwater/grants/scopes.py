"""The names that a function's code sees."""

from __future__ import annotations

import builtins
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

from headwater.grants.atoms import Memory, Value, live, union
from headwater.permits import label_of


@dataclass(frozen=True, eq=False)
class World:
    """What is around a live function: its module's names, its closure, and how its file is called."""

    globals: Mapping[str, Any]
    cells: Mapping[str, Any]
    label: str

    @property
    def module(self) -> str:
        return str(self.globals.get("__name__", ""))

    @classmethod
    def of(cls, fn: FunctionType) -> World:
        cells: dict[str, Any] = {}
        for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
            try:
                cells[name] = cell.cell_contents
            except ValueError:  # not yet filled
                continue
        label = label_of(str(fn.__globals__.get("__name__", "")), fn.__code__.co_filename)
        return cls(fn.__globals__, cells, label)

    def find(self, memory: Memory, name: str) -> Value:
        if name in self.cells:
            return live(self.cells[name])
        kept = memory.read(self.key(name))
        if name in self.globals:
            return union(live(self.globals[name]), kept)
        return kept or live(getattr(builtins, name, None))

    def key(self, name: str) -> Hashable:
        return "global", id(self.globals), name


@dataclass(eq=False)
class Scope:
    """One function's names, for one way of calling it; or a comprehension's, inside of another scope."""

    world: World
    memory: Memory
    parent: Scope | None = None
    declared_global: set[str] = field(default_factory=set)
    declared_nonlocal: set[str] = field(default_factory=set)
    result_of: Scope | None = None
    first_parameter: str = ""

    def find(self, name: str) -> Value:
        scope: Scope | None = self
        while scope is not None:
            if scope.memory.knows(scope.key(name)):
                return scope.memory.read(scope.key(name))
            scope = scope.parent
        return self.world.find(self.memory, name)

    def bind(self, name: str, value: Value) -> None:
        if name in self.declared_global:
            self.memory.add(self.world.key(name), value)
            return
        scope: Scope = self
        if name in self.declared_nonlocal and self.parent is not None:
            scope = self.parent
            while scope.parent is not None and not scope.memory.knows(scope.key(name)):
                scope = scope.parent
        self.memory.add(scope.key(name), value)

    def key(self, name: str) -> Hashable:
        return "name", self, name

    def inner(self) -> Scope:
        """Of a comprehension: what it returns or yields is the function's."""
        return Scope(self.world, self.memory, self, self.declared_global, set(), self.function)

    @property
    def function(self) -> Scope:
        return self.result_of or self

    def give(self, value: Value) -> None:
        """Return or yield."""
        self.memory.add(("result", self.function), value)

    @property
    def result(self) -> Value:
        return self.memory.read(("result", self.function))

    def place(self, line: int) -> str:
        return f"{self.world.label}:{line}"
