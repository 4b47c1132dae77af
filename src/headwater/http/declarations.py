"""What `app.expose` and `app.ingest` declare, checked at once. Imports no web framework: workers load apps, too."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

from headwater.codec import field_names
from headwater.errors import DeclarationError
from headwater.permits import declared_at

if TYPE_CHECKING:
    from headwater.app import App
    from headwater.buckets import Bucket
    from headwater.http.require import Auth
    from headwater.messaging import Queue
    from headwater.tables import Table

Verb = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
READS: tuple[Verb, ...] = ("GET",)
WRITES: tuple[Verb, ...] = ("POST", "PUT", "PATCH", "DELETE")
RESERVED = frozenset({"limit", "cursor", "order", "fields"})
"""The parameters of every list."""
_PATH = re.compile(r"(/[\w.~-]+)+", re.ASCII)


class Way(msgspec.Struct, frozen=True):
    """An order that rows are listed in: of the table's key (`index` ""), or of an index."""

    index: str
    partition: str
    sort: str


class Exposure(msgspec.Struct, frozen=True, kw_only=True):
    """A table served at a path. `read` and `write` are set where a method needs them; `place` is file and line."""

    table: Any
    path: str
    methods: tuple[Verb, ...]
    read: Any
    write: Any
    owner: str
    place: str

    @property
    def owns_partition(self) -> bool:
        """Whether the owner is the key's partition, so that each caller has a key space of its own."""
        return bool(self.owner) and self.owner == self.table.spec.partition

    @property
    def path_fields(self) -> tuple[str, ...]:
        """The key fields that an item's path names; an owner's partition goes without saying."""
        spec = self.table.spec
        if not spec.sort:
            return (spec.partition,)
        return (spec.sort,) if self.owns_partition else (spec.partition, spec.sort)

    @property
    def ways(self) -> tuple[Way, ...]:
        """The orders that a list may choose from: with an owner only those whose partition it is."""
        spec = self.table.spec
        found = (Way("", spec.partition, spec.sort), *(Way(i.name, i.partition, i.sort) for i in spec.indexes))
        return tuple(way for way in found if not self.owner or way.partition == self.owner)

    @property
    def title(self) -> str:
        """The name of its schemas in the OpenAPI document."""
        return _title(self.path)

    @property
    def served(self) -> list[tuple[str, str]]:
        """(method, path) of each route."""
        item = "".join((self.path, *("/{}" for _ in self.path_fields)))
        places = {"GET": (self.path, item), "POST": (self.path,)}
        return [(method, path) for method in self.methods for path in places.get(method, (item,))]


class ObjectExposure(msgspec.Struct, frozen=True, kw_only=True):
    """A bucket served at a path. Without `read` or `write` only presigned URLs let in there."""

    bucket: Any
    path: str
    read: Any
    write: Any
    own_prefix: bool
    place: str

    @property
    def title(self) -> str:
        return _title(self.path)

    @property
    def served(self) -> list[tuple[str, str]]:
        item = f"{self.path}/{{}}"
        return [("GET", self.path), *((method, item) for method in ("GET", "PUT", "POST", "DELETE"))]


class Ingestion(msgspec.Struct, frozen=True, kw_only=True):
    """A queue that takes POSTs at a path; `group` is the field that is the FIFO group."""

    queue: Any
    path: str
    auth: Any
    group: str
    place: str

    @property
    def title(self) -> str:
        return _title(self.path)

    @property
    def served(self) -> list[tuple[str, str]]:
        return [("POST", self.path)]


class Opening(msgspec.Struct, frozen=True, kw_only=True):
    """A queue whose consumers receive and settle over HTTP, below a path."""

    queue: Any
    path: str
    auth: Any
    place: str

    @property
    def title(self) -> str:
        return _title(self.path)

    @property
    def served(self) -> list[tuple[str, str]]:
        return [("POST", f"{self.path}/{verb}") for verb in ("receive", "results", "extend")]


Served: TypeAlias = Exposure | ObjectExposure | Ingestion | Opening


def declare_exposure(
    app: App[Any],
    table: Table[Any],
    path: str,
    *,
    methods: Sequence[Verb] | None,
    read: Auth | None,
    write: Auth | None,
    owner: str,
) -> Exposure:
    """Raises `DeclarationError` for what could not be served, or would be served to the wrong callers."""
    if methods is None:
        methods = (*(READS if read is not None else ()), *(WRITES if write is not None else ()))
    if not methods and read is None:
        raise _no_auth("read", path, "GET is served")
    unknown = [method for method in methods if method not in (*READS, *WRITES)]
    if unknown or not methods:
        raise _refused(f"methods= are some of {', '.join((*READS, *WRITES))}", path)
    _check_path(path)
    if app.tables.get(table.name) is not table:
        raise _refused(f"the table {table.name} belongs to another app", path)
    for name, auth, verbs in (("read", read, READS), ("write", write, WRITES)):
        if used := [method for method in methods if method in verbs]:
            if auth is None:
                raise _no_auth(name, path, f"{', '.join(used)} is served")
            _check_auth(name, auth, path, "owner=" if owner else "")
    exposure = Exposure(
        table=table, path=path, methods=tuple(methods), read=read, write=write, owner=owner, place=declared_at()
    )
    _check_owner(exposure)
    _check_parameters(exposure)
    _check_unserved(app, exposure)
    return exposure


def check_options(path: str, kind: str, **options: object) -> None:
    """Refuse options that say nothing of what is exposed, `kind` being what they are for."""
    for name, value in options.items():
        if value:
            raise _refused(f"{name}= is for {kind}", path)


def declare_objects(
    app: App[Any], bucket: Bucket, path: str, *, read: Auth | None, write: Auth | None, own_prefix: bool
) -> ObjectExposure:
    """Raises `DeclarationError` for what could not be served, or would be served to the wrong callers."""
    _check_path(path)
    if app.buckets.get(bucket.name) is not bucket:
        raise _refused(f"the bucket {bucket.name} belongs to another app", path)
    for name, auth in (("read", read), ("write", write)):
        if auth is not None:
            _check_auth(name, auth, path, "own_prefix=True" if own_prefix else "")
    exposure = ObjectExposure(
        bucket=bucket, path=path, read=read, write=write, own_prefix=own_prefix, place=declared_at()
    )
    _check_unserved(app, exposure)
    return exposure


def declare_ingestion(app: App[Any], queue: Queue[Any], path: str, *, auth: Auth, group: str) -> Ingestion:
    """Raises `DeclarationError` for what could not be served."""
    _check_path(path)
    if app.queues.get(queue.name) is not queue:
        raise _refused(f"the queue {queue.name} belongs to another app", path)
    _check_auth("auth", auth, path, "")
    if queue.spec.fifo and not group:
        raise _refused(f"{queue.name} is a FIFO queue", path, "say which field is the group: group=")
    _check_field(queue.model, group, path, "group")
    ingestion = Ingestion(queue=queue, path=path, auth=auth, group=group, place=declared_at())
    _check_unserved(app, ingestion)
    return ingestion


def declare_opening(app: App[Any], queue: Queue[Any], path: str, *, auth: Auth) -> Opening:
    """Raises `DeclarationError` for what could not be served, and for a queue that has a handler."""
    _check_path(path)
    if app.queues.get(queue.name) is not queue:
        raise _refused(f"the queue {queue.name} belongs to another app", path)
    _check_auth("auth", auth, path, "a receipt")
    check_unconsumed(app, queue.name)
    opening = Opening(queue=queue, path=path, auth=auth, place=declared_at())
    _check_unserved(app, opening)
    return opening


def check_unconsumed(app: App[Any], queue: str) -> None:
    """Refuse a second consumer: a queue has one handler, or is opened over HTTP."""
    if handler := app.handlers.get(queue):
        present = f"it has a handler already, at {handler.place}"
    elif opening := app.openings.get(queue):
        present = f"it is opened already, at {opening.path}"
    else:
        return
    raise DeclarationError(
        present,
        operation="declare handler",
        resource=queue,
        hint="a queue has one handler, or is opened over HTTP; route the source to a second queue",
    )


def _title(path: str) -> str:
    return path[1:].replace("/", ".").replace("~", "-")


def _refused(message: str, path: str, hint: str = "") -> DeclarationError:
    return DeclarationError(message, operation="declare endpoint", resource=str(path), hint=hint)


def _no_auth(name: str, path: str, why: str) -> DeclarationError:
    hint = f"say who may {name}: {name}=require(...) or {name}=anyone()"
    return _refused(f"{why}, but {name}= is missing", path, hint)


def _check_path(path: str) -> None:
    if not _PATH.fullmatch(path):
        hint = "write it as /name or /name/name, without parameters and without a slash at the end"
        raise _refused(f"{path!r} is no path", path, hint)


def _check_auth(name: str, auth: Any, path: str, apart: str) -> None:
    """`apart` is the option that tells callers apart, if any."""
    if not hasattr(auth, "admit"):
        raise _refused(f"{name}= is {auth!r}", path, f"say who may: {name}=require(...) or {name}=anyone()")
    if apart and auth.open:
        hint = f"{name}=require(...) lets in callers with a subject"
        raise _refused(f"{apart} tells callers apart, {name}= lets in anyone", path, hint)


def _check_field(model: type[Any], field: str, path: str, option: str) -> None:
    known = field_names(model)
    if field and known is not None and field not in known:
        hint = f"its fields are {', '.join(sorted(known))}"
        raise _refused(f"{option}={field!r}: {model.__name__} has no such field", path, hint)


def _check_owner(exposure: Exposure) -> None:
    owner, spec = exposure.owner, exposure.table.spec
    _check_field(exposure.table.model, owner, exposure.path, "owner")
    if owner and owner == spec.sort:
        raise _refused(f"owner={owner!r} is the sort key", exposure.path, f'key=("{owner}", "{spec.partition}")')
    if not exposure.ways:
        hint = f'make it the key\'s partition, or declare an index: indexes={{"by-{owner}": "{owner}"}}'
        raise _refused(f"owner={owner!r} is neither the partition of the key nor of an index", exposure.path, hint)


def _check_parameters(exposure: Exposure) -> None:
    if "GET" not in exposure.methods:
        return
    for way in exposure.ways:
        for field in (way.partition, way.sort):
            if field in RESERVED:
                raise _refused(f"the field {field!r} has the name of a parameter of lists", exposure.path, "rename it")


def _check_unserved(app: App[Any], new: Served) -> None:
    declared: list[Served] = [*app.exposures, *app.object_exposures, *app.ingestions, *app.openings.values()]
    taken = {place for old in declared for place in old.served}
    for method, path in new.served:
        if (method, path) in taken:
            raise _refused(f"{method} {path} is declared already", new.path)
