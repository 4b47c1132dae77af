"""What calls lead to: functions of the app are read on, what goes elsewhere escapes.

The language's own functions and Headwater's keep nothing: what they are given comes back, and functions among it are
called. Others may keep it and do with it what they like.
"""

from __future__ import annotations

import ast
import functools
import inspect
import types
from typing import TYPE_CHECKING, Any

from headwater.app import App
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
from headwater.grants.objects import Objects, is_function
from headwater.grants.scopes import Scope
from headwater.messaging import Topic
from headwater.permits import Guarded, flatten, uses_of, verbs_of
from headwater.services import Service

if TYPE_CHECKING:
    from headwater.grants.analysis import Analysis

_HARMLESS = frozenset(
    {"builtins", "asyncio", "itertools", "functools", "contextlib", "contextvars", "copy", "typing", "inspect"}
    | {"collections", "headwater", "structlog", "logging", "abc", "enum"}
)
_PASSING = frozenset({"run_in_executor", "create_task", "start_soon", "call_soon", "call_later"})
"""Methods of event loops and task groups, known by their names."""
_ADDING = frozenset({"append", "add", "extend", "insert", "update", "setdefault", "appendleft", "__setitem__"})
_SELF = (App.foreign, App.service)


class Calls:
    def __init__(self, analysis: Analysis) -> None:
        self._analysis = analysis
        self._objects: Objects = analysis.objects
        self._declared: dict[ast.Call, Guarded] = {}

    def read_call(self, scope: Scope, node: ast.Call, function: Value, arguments: Arguments) -> Value:
        """A call as it stands in the code."""
        place = scope.place(node.lineno)
        found: list[Value] = []
        for atom in function:
            match atom:
                case Live(obj=obj) if obj is super:
                    found.append(self._super(scope))
                case Live(obj=obj) if obj is getattr or obj is setattr:
                    found.append(self._reach(obj is setattr, node, arguments, place))
                case Live(obj=obj) if obj is globals:
                    found.append(live(scope.world.globals))
                case Live(obj=obj) if obj is object.__new__:
                    classes = arguments.positional[0] if arguments.positional else NOTHING
                    found.append(tuple(Instance(atom.obj, node) for atom in classes if isinstance(atom, Live)))
                case Live(obj=functools.partial) if arguments.positional:
                    named = tuple(arguments.named.items())
                    found.append(tuple(Bound(fn, arguments.positional[1:], named) for fn in arguments.positional[0]))
                case Bound(fn=Live(obj=obj), first=((Live(obj=App() as app),), *_)) if obj in _SELF:
                    found.append(self._declare(node, app, obj))
                case Live(obj=type() as cls) if self._analysis.is_own_class(cls):
                    found.append(self._make(cls, node, arguments, place))
                case _:
                    found.append(self.call_atom(atom, arguments, place))
        if not function:
            name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            found.append(self._elsewhere(arguments, place, keeps=name not in _PASSING))
        return union(*found)

    def call_atom(self, atom: Atom, arguments: Arguments, place: str) -> Value:
        match atom:
            case Call(resource=Live(obj=Guarded() as resource), name=name):
                self._call_resource(resource, name, arguments, place)
                return self._objects.rows_of(resource)
            case Closure():
                return self._analysis.enter_closure(atom, arguments)
            case Bound(fn=fn, first=first, named=named):
                given = Arguments((*first, *arguments.positional), {**dict(named), **arguments.named}, arguments.rest)
                return self.call_atom(fn, given, place)
            case Method(of=of, name=name):
                return self._call_container(of, name, arguments, place)
            case Live(obj=obj):
                return self._call_object(atom, obj, arguments, place)
            case Instance():
                return self._objects.special(atom, "__call__", place)
        return NOTHING

    def _call_object(self, atom: Live, obj: Any, arguments: Arguments, place: str) -> Value:
        said = uses_of(obj)
        if said is not None:
            for grant in flatten(said):
                self._analysis.take(grant, place)
            return NOTHING
        match obj:
            case types.FunctionType() if self._analysis.is_own(obj):
                return self._analysis.enter_function(obj, arguments)
            case types.MethodType():
                return self.call_atom(Bound(Live(obj.__func__), (live(obj.__self__),)), arguments, place)
            case functools.partial():
                first = tuple(live(argument) for argument in obj.args)
                named = tuple((name, live(value)) for name, value in obj.keywords.items())
                return self.call_atom(Bound(Live(obj.func), first, named), arguments, place)
            case type() if self._analysis.is_own_class(obj):
                return self._make(obj, obj, arguments, place)
        if inner := _wrapped(obj, self._analysis):
            return union(*(self.call_atom(Live(fn), arguments, place) for fn in inner))
        if not isinstance(obj, type) and self._analysis.is_own_class(type(obj)):
            return self._analysis.call(self._objects.attribute((atom,), "__call__", place), arguments, place)
        return self._elsewhere(arguments, place, keeps=_home(obj) not in _HARMLESS)

    def _call_resource(self, resource: Guarded, name: str, arguments: Arguments, place: str) -> None:
        """A replay sends to its queue; a row is forgotten with those of other tables and operations."""
        given: tuple[tuple[str, str, Value], ...] = ()
        if name == "replay":
            given = (("queue", "send", arguments.all),)
        elif name == "forget":
            also = self._objects.elements(arguments.named.get("also", NOTHING), place)
            also = union(also, *(self._objects.elements((atom,), place) for atom in also if isinstance(atom, Bag)))
            given = (("table", "forget", also), ("operation", "forget", also))
        for kind, verb, value in given:
            for atom in value:
                if isinstance(atom, Live) and isinstance(atom.obj, Guarded) and atom.obj.kind == kind:
                    self._analysis.grant(atom.obj, verb, place)
        self._call_back(arguments, NOTHING, place)

    def _call_container(self, of: Bag | Live, name: str, arguments: Arguments, place: str) -> Value:
        if name in _ADDING:
            self._objects.put_into((of,), arguments.all, place)
        self._call_back(arguments, self._objects.elements((of,), place), place)
        elements = self._objects.elements((of,), place)
        return union(elements, (of,)) if name in ("copy", "values", "items", "keys") else elements

    def _elsewhere(self, arguments: Arguments, place: str, *, keeps: bool) -> Value:
        """Code that is not read: it may call the functions that it is given, with what it is given."""
        data = tuple(atom for atom in arguments.all if not is_function(atom))
        given = union(data, self._objects.elements(data, place))
        results = self._call_back(arguments, given, place)
        if keeps:
            self._analysis.escape(given, place)
            return NOTHING
        return union(arguments.all, given, results)

    def _call_back(self, arguments: Arguments, given: Value, place: str) -> Value:
        functions = [atom for atom in arguments.all if is_function(atom)]
        return union(*(self.call_atom(fn, Arguments(rest=given), place) for fn in functions))

    # The language's own ways

    def _super(self, scope: Scope) -> Value:
        owner = scope.find(scope.function.first_parameter)
        return tuple(Super(atom.obj, owner) for atom in scope.find("__class__") if isinstance(atom, Live))

    def _reach(self, sets: bool, node: ast.Call, arguments: Arguments, place: str) -> Value:
        """`getattr` and `setattr`; of a name that is not written there it may be any."""
        if len(arguments.positional) < 2:
            return NOTHING
        owner, name = arguments.positional[0], node.args[1]
        if sets:
            constant = name.value if isinstance(name, ast.Constant) else "*"
            self._objects.set_attribute(owner, str(constant), union(*arguments.positional[2:]), place)
            return NOTHING
        default = union(*arguments.positional[2:])
        if isinstance(name, ast.Constant):
            return union(default, self._objects.attribute(owner, str(name.value), place))
        self._analysis.escape(owner, place)
        held = [vars(atom.obj).values() for atom in owner if isinstance(atom, Live) and hasattr(atom.obj, "__dict__")]
        values = [live(value) for values in held for value in values if isinstance(value, Guarded)]
        return union(default, *values)

    def _declare(self, node: ast.Call, app: App[Any], how: Any) -> Value:
        """`app.foreign("app/topic", …)` and `app.service("name")` in a function."""
        name = node.args[0] if node.args else None
        if not isinstance(name, ast.Constant) or not isinstance(name.value, str):
            return NOTHING
        if node not in self._declared:
            made: Guarded = Topic(app, name.value, dict, foreign=True)
            if how is App.service:
                made = app.services.get(name.value) or Service(app, name.value, None)
            self._declared[node] = made
        return (Live(self._declared[node]),)

    def _make(self, cls: type[Any], site: Any, arguments: Arguments, place: str) -> Value:
        """An object of one of the app's classes, with its attributes where no code of the app sets them."""
        made = Instance(cls, site)
        begins: Any = next((vars(base)["__init__"] for base in cls.__mro__ if "__init__" in vars(base)), None)
        if self._analysis.is_own(begins) and begins.__code__.co_filename != "<string>":  # a dataclass's own
            self._analysis.call((Bound(Live(begins), ((made,),)),), arguments, place)
        else:
            named = dict(zip(_fields(cls), arguments.positional, strict=False)) | dict(arguments.named)
            for name, value in named.items():
                self._objects.set_attribute((made,), name, value, place)
            self._analysis.escape(arguments.rest, place)
        for name in ("__post_init__", "model_post_init"):
            self._objects.special(made, name, place)
        return (made,)


def _fields(cls: type[Any]) -> tuple[str, ...]:
    found: tuple[str, ...] = getattr(cls, "__match_args__", ()) or tuple(inspect.get_annotations(cls))
    return found


def _home(obj: Any) -> str:
    """The top-level package of what is called."""
    owner = getattr(obj, "__module__", None) or type(getattr(obj, "__self__", obj)).__module__
    return str(owner).partition(".")[0]


def _wrapped(obj: Any, analysis: Analysis) -> list[Any]:
    """The app's functions in a wrapper that a library made."""
    inner = getattr(obj, "__wrapped__", None)
    if inner is not None:
        return [inner]
    cells = obj.__closure__ if isinstance(obj, types.FunctionType) else None
    found = [cell.cell_contents for cell in cells or () if _is_filled(cell)]
    return [fn for fn in found if isinstance(fn, types.FunctionType) and analysis.is_own(fn)]


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def all_verbs(resource: Guarded) -> tuple[str, ...]:
    return verbs_of(resource.kind)
