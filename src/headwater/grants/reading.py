"""Reads a function's code: what its expressions may be, and what its statements bind to names.

The order of statements counts for nothing: a name may be whatever is ever bound to it. So each branch is read, and a
loop as often as something new comes to light.
"""

from __future__ import annotations

import ast
import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

from headwater.grants.atoms import NOTHING, Arguments, Closure, Live, Value, live, union
from headwater.grants.objects import Objects
from headwater.grants.scopes import Scope

if TYPE_CHECKING:
    from headwater.grants.analysis import Analysis


class Reader(ast.NodeVisitor):
    """Reads nodes in one scope; `visit` of an expression is its value."""

    def __init__(self, analysis: Analysis, scope: Scope) -> None:
        self._analysis = analysis
        self._objects: Objects = analysis.objects
        self._scope = scope

    def visit(self, node: ast.AST) -> Value:
        found: Value | None = super().visit(node)
        return found or NOTHING

    def generic_visit(self, node: ast.AST) -> Value:
        """Whatever it is, it is one of its parts or nothing known."""
        return union(*(self.visit(child) for child in ast.iter_child_nodes(node)))

    def read(self, statements: list[ast.stmt]) -> None:
        for statement in statements:
            self.visit(statement)

    def _place(self, node: ast.AST) -> str:
        return self._scope.place(getattr(node, "lineno", 0))

    def _elements(self, value: Value, node: ast.AST) -> Value:
        return self._objects.elements(value, self._place(node))

    # Expressions

    def visit_Name(self, node: ast.Name) -> Value:
        return self._scope.find(node.id)

    def visit_Constant(self, _: ast.Constant) -> Value:
        return NOTHING

    def visit_Attribute(self, node: ast.Attribute) -> Value:
        return self._objects.attribute(self.visit(node.value), node.attr, self._place(node))

    def visit_Compare(self, node: ast.Compare) -> Value:
        self.generic_visit(node)
        return NOTHING

    def visit_JoinedStr(self, node: ast.JoinedStr) -> Value:
        self.generic_visit(node)
        return NOTHING

    def visit_Starred(self, node: ast.Starred) -> Value:
        return self._elements(self.visit(node.value), node)

    def _visit_display(self, node: ast.AST) -> Value:
        return self._objects.bag(node, self.generic_visit(node))

    visit_List = visit_Tuple = visit_Set = visit_Dict = _visit_display

    def visit_Subscript(self, node: ast.Subscript) -> Value:
        key = node.slice.value if isinstance(node.slice, ast.Constant) else None
        self.visit(node.slice)
        return self._objects.item(self.visit(node.value), key, self._place(node))

    def visit_NamedExpr(self, node: ast.NamedExpr) -> Value:
        value = self.visit(node.value)
        self._scope.function.bind(node.target.id, value)
        return value

    def visit_Lambda(self, node: ast.Lambda) -> Value:
        self._read_defaults(node.args)
        return (Closure(node, self._scope),)

    def _visit_comprehension(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp) -> Value:
        return self._comprehend(node, node.elt)

    visit_ListComp = visit_SetComp = visit_GeneratorExp = _visit_comprehension

    def visit_DictComp(self, node: ast.DictComp) -> Value:
        return self._comprehend(node, node.key, node.value)

    def _comprehend(
        self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp, *elements: ast.expr
    ) -> Value:
        inner = Reader(self._analysis, self._analysis.inner(self._scope, node))
        for generator in node.generators:
            inner._bind(generator.target, self._elements(inner.visit(generator.iter), node))
            for condition in generator.ifs:
                inner.visit(condition)
        return self._objects.bag(node, union(*(inner.visit(element) for element in elements)))

    def visit_Yield(self, node: ast.Yield) -> Value:
        self._scope.give(self.visit(node.value) if node.value else NOTHING)
        return NOTHING

    def visit_YieldFrom(self, node: ast.YieldFrom) -> Value:
        value = self.visit(node.value)
        self._scope.give(self._elements(value, node))
        return value

    def visit_Await(self, node: ast.Await) -> Value:
        value = self.visit(node.value)
        for atom in value:
            self._objects.special(atom, "__await__", self._place(node))
        return value

    def visit_Call(self, node: ast.Call) -> Value:
        function = self.visit(node.func)
        positional: list[Value] = []
        rest: list[Value] = []
        for argument in node.args:
            (rest if isinstance(argument, ast.Starred) or rest else positional).append(self.visit(argument))
        named: dict[str, Value] = {}
        for keyword in node.keywords:
            value = self.visit(keyword.value)
            if keyword.arg is None:
                rest.append(self._elements(value, node))
            else:
                named[keyword.arg] = value
        arguments = Arguments(tuple(positional), named, union(*rest))
        return self._analysis.calls.read_call(self._scope, node, function, arguments)

    # Binding

    def _bind(self, target: ast.expr, value: Value) -> None:
        match target:
            case ast.Name(id=name):
                self._scope.bind(name, value)
            case ast.Tuple(elts=parts) | ast.List(elts=parts):
                elements = self._elements(value, target)
                for part in parts:
                    self._bind(part, elements)
            case ast.Starred(value=inner):
                self._bind(inner, self._objects.bag(target, value))
            case ast.Attribute(value=owner, attr=name):
                self._objects.set_attribute(self.visit(owner), name, value, self._place(target))
            case ast.Subscript(value=container):
                self._objects.put_into(self.visit(container), value, self._place(target))

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            self._assign(target, node.value)

    def _assign(self, target: ast.expr, source: ast.expr) -> None:
        if (
            isinstance(target, ast.Tuple)
            and isinstance(source, ast.Tuple)
            and len(target.elts) == len(source.elts)
            and not any(isinstance(part, ast.Starred) for part in (*target.elts, *source.elts))
        ):
            for part, value in zip(target.elts, source.elts, strict=True):
                self._assign(part, value)
        else:
            self._bind(target, self.visit(source))

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self._bind(node.target, self.visit(node.value))

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        value = self.visit(node.value)
        self._bind(node.target, union(self.visit(node.target), self._elements(value, node)))
        for atom in self.visit(node.target):
            if not isinstance(atom, Live) or isinstance(atom.obj, list | dict | set):
                self._objects.put_into((atom,), self._elements(value, node), self._place(node))

    def _visit_for(self, node: ast.For | ast.AsyncFor) -> None:
        self._bind(node.target, self._elements(self.visit(node.iter), node))
        self.read([*node.body, *node.orelse])

    visit_For = visit_AsyncFor = _visit_for

    def _visit_with(self, node: ast.With | ast.AsyncWith) -> None:
        for item in node.items:
            value = self.visit(item.context_expr)
            entered = [value]
            for atom in value:
                place = self._place(node)
                entered += [self._objects.special(atom, name, place) for name in ("__enter__", "__aenter__")]
                for name in ("__exit__", "__aexit__"):
                    self._objects.special(atom, name, place)
            if item.optional_vars is not None:
                self._bind(item.optional_vars, union(*entered))
        self.read(node.body)

    visit_With = visit_AsyncWith = _visit_with

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is not None:
            self._scope.give(self.visit(node.value))

    def visit_Match(self, node: ast.Match) -> None:
        subject = self.visit(node.subject)
        captured = union(subject, self._elements(subject, node))
        for case in node.cases:
            for part in ast.walk(case.pattern):
                if isinstance(part, ast.MatchAs | ast.MatchStar) and part.name:
                    self._scope.bind(part.name, captured)
            if case.guard is not None:
                self.visit(case.guard)
            self.read(case.body)

    # Definitions

    def _visit_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._read_defaults(node.args)
        value: Value = (Closure(node, self._scope),)
        for decorator in reversed(node.decorator_list):
            arguments = Arguments((value,))
            value = union(value, self._analysis.call(self.visit(decorator), arguments, self._place(decorator)))
        self._scope.bind(node.name, value)

    visit_FunctionDef = visit_AsyncFunctionDef = _visit_function

    def _read_defaults(self, arguments: ast.arguments) -> None:
        for default in (*arguments.defaults, *arguments.kw_defaults):
            if default is not None:
                self.visit(default)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """A class in a function: each of its methods may run."""
        inner = Reader(self._analysis, self._analysis.inner(self._scope, node))
        for statement in node.body:
            inner.visit(statement)
            if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
                method = inner._scope.find(statement.name)
                self._analysis.call(method, Arguments(), self._place(statement))
        self._scope.bind(node.name, NOTHING)

    def visit_Global(self, node: ast.Global) -> None:
        self._scope.declared_global.update(node.names)

    def visit_Nonlocal(self, node: ast.Nonlocal) -> None:
        self._scope.declared_nonlocal.update(node.names)

    def visit_Import(self, node: ast.Import) -> None:
        for name in node.names:
            module = self._module(name.name)
            top = sys.modules.get(name.name.partition(".")[0])
            self._scope.bind(name.asname or name.name.partition(".")[0], live(module if name.asname else top))

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        package = str(self._scope.world.globals.get("__package__") or "")
        base = package.rsplit(".", node.level - 1)[0] if node.level > 1 else package
        source = ".".join(part for part in (base if node.level else "", node.module or "") if part)
        module = self._module(source)
        for name in node.names:
            found: Any = getattr(module, name.name, None) or self._module(f"{source}.{name.name}")
            self._scope.bind(name.asname or name.name, live(found))

    def _module(self, name: str) -> types.ModuleType | None:
        """A module of the app's own is imported, as the code would do; others count when they are loaded."""
        if name not in sys.modules and self._analysis.owns(name):
            try:
                return importlib.import_module(name)
            except ImportError:
                return None
        return sys.modules.get(name)
