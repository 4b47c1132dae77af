"""`App`: collects the resources and handlers of one application."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, Unpack, cast, overload

import msgspec
from pydantic import ValidationError
from typing_extensions import TypeVar

from headwater.alarms import AlarmSource, declare_alarm, find_metric
from headwater.binding import Binding
from headwater.buckets import MAX_SIZE, Bucket
from headwater.catalog import Images, IndexSpec, QueueSpec, RouteSpec, TableSpec
from headwater.codec import stored_fields
from headwater.decoding import Upgrade
from headwater.durations import Duration, parse_duration, to_ms
from headwater.errors import DeclarationError
from headwater.handlers import (
    HandlerOptions,
    HandlerSpec,
    QueueOptions,
    Register,
    check_handler,
    place_of,
    placed,
    queue_spec,
)
from headwater.http.declarations import (
    Exposure,
    Ingestion,
    ObjectExposure,
    Opening,
    Verb,
    check_options,
    check_unconsumed,
    declare_exposure,
    declare_ingestion,
    declare_objects,
    declare_opening,
)
from headwater.late import Late
from headwater.mail import Email
from headwater.messaging import Queue, Topic
from headwater.metrics import Metric, MetricName
from headwater.operations.operation import Operation, OperationOptions, declare_operation
from headwater.permits import declared_at
from headwater.schedules import Schedule, ScheduleOptions, declare_schedule
from headwater.services import Service
from headwater.sources import Feed, Source, Target
from headwater.tables import ChangeSource, Table
from headwater.thresholds import Missing
from headwater.transactions import transaction
from headwater.tuning import condition_of
from headwater.webhooks import Webhook

if TYPE_CHECKING:
    from fastapi import FastAPI

    from headwater.http.require import Auth

T = TypeVar("T")
Q = TypeVar("Q")
A = TypeVar("A")
E = TypeVar("E")
V = TypeVar("V")
S = TypeVar("S", default=None)
D = TypeVar("D", Webhook, Email)
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")


class App(Generic[S]):
    """One application: its tables, topics, queues, handlers, services and HTTP endpoints.

    `settings` is a pydantic-settings class, read with the prefix `<NAME>_` when the server starts. `http` names
    the module of the endpoints ("pkg.api"), imported only when the app is served. Declarations raise
    `DeclarationError` at once; importing an app reads no environment and opens nothing.
    """

    @overload
    def __init__(self: App[None], name: str, *, http: str = ...) -> None: ...
    @overload
    def __init__(self, name: str, *, settings: type[S], http: str = ...) -> None: ...
    def __init__(self, name: str, *, settings: type[S] | None = None, http: str = "") -> None:
        _check_name(name, "app")
        self.name = name
        self.tables: dict[str, Table[Any]] = {}
        self.buckets: dict[str, Bucket] = {}
        self.topics: dict[str, Topic[Any]] = {}
        self.alarms: dict[str, AlarmSource] = {}
        self.schedules: dict[str, Schedule] = {}
        self.queues: dict[str, Queue[Any]] = {}
        self.services: dict[str, Service] = {}
        self.exposures: list[Exposure] = []
        self.object_exposures: list[ObjectExposure] = []
        self.ingestions: list[Ingestion] = []
        self.openings: dict[str, Opening] = {}
        self.routes: list[RouteSpec] = []
        self.handlers: dict[str, HandlerSpec] = {}
        self.implied: dict[str, QueueSpec] = {}
        self.renamed: dict[str, str] = {}
        self.webhooks: dict[str, Webhook] = {}
        self.operations: dict[str, Operation[Any, Any]] = {}
        self.mails: dict[str, Email] = {}
        self._settings_class = settings
        self._settings: S | None = None
        self.http_module = http
        self._http: FastAPI | None = None
        self._binding: Binding | None = None

    # Running

    @property
    def binding(self) -> Binding:
        if self._binding is None:
            raise DeclarationError(
                "the app is not running",
                operation="use",
                resource=self.name,
                hint="run it with `headwater run`, or in a test with `headwater.testing.Harness`",
            )
        return self._binding

    def bind(self, binding: Binding | None) -> None:
        """Give the app its engine and clock, or take them away."""
        self._binding = binding

    @property
    def settings(self) -> S:
        """The app's settings, read once; raises `DeclarationError` naming what is missing."""
        if self._settings is None and self._settings_class is not None:
            self.configure({})
        return cast("S", self._settings)

    def configure(self, overrides: Mapping[str, Any]) -> None:
        """Read the settings: `overrides` first, then the environment with the prefix `<NAME>_`."""
        if self._settings_class is None:
            return
        try:
            prefix = self.name.upper().replace("-", "_") + "_"
            self._settings = cast("Any", self._settings_class)(_env_prefix=prefix, **overrides)
        except ValidationError as error:
            raise _invalid_settings(error, self.name) from None  # its own text has the values, secrets among them
        except ValueError as error:
            raise DeclarationError(str(error), operation="settings", resource=self.name) from error

    @property
    def http(self) -> FastAPI:
        """The app's FastAPI application: each request is a unit of work, committed before its response leaves."""
        if self._http is None:
            from headwater.http.application import make_http

            self._http = make_http(self)
        return self._http

    @property
    def serves_http(self) -> bool:
        return self._http is not None or bool(self.http_module or self._declares_http)

    @property
    def _declares_http(self) -> bool:
        return bool(self.exposures or self.object_exposures or self.ingestions or self.openings)

    def load_http(self) -> FastAPI | None:
        """The endpoints, their module imported, what is exposed behind them; None when the app has none."""
        if self.http_module:
            importlib.import_module(self.http_module)
        if self._declares_http:
            from headwater.http.application import serve_declared

            serve_declared(self)
        return self._http

    # Declaring

    def late(self, pick: Callable[[S], V]) -> Late[V]:
        """A value that is picked from the settings when the server starts."""
        return Late(pick)

    def qualify(self, name: str, kind: str) -> str:
        _check_name(name, kind)
        full = f"{self.name}/{name}"
        if any(full in taken for taken in (self.tables, self.topics, self.schedules, self.queues, self.implied)):
            raise DeclarationError("the name is taken", operation=f"declare {kind}", resource=full)
        return full

    def table(
        self,
        name: str,
        model: type[T],
        *,
        key: str | tuple[str, str],
        indexes: Mapping[str, str | tuple[str, str]] | None = None,
        images: Images = "both",
        ttl: Duration = "",
        upgrade: Upgrade | None = None,
    ) -> Table[T]:
        """Declare a table of rows of a model (pydantic, msgspec Struct, dataclass or dict).

        `key` is the field of the partition key, or (partition, sort). `indexes` maps a name to a field or
        (partition, sort); rows without the field are not in it. `images` says which images a change carries; with
        "none" changes are no events at all, for counters and caches that nobody follows.
        `ttl` is a field that holds each row's time of expiry (RFC 3339 or seconds since the epoch), or a duration
        after a row's last write. `upgrade[n]` brings a document of model version n to n + 1; the present version
        is the highest key + 1.
        """
        full = self.qualify(name, "table")
        partition, sort = (key, "") if isinstance(key, str) else key
        specs = [
            IndexSpec(index, fields) if isinstance(fields, str) else IndexSpec(index, *fields)
            for index, fields in (indexes or {}).items()
        ]
        steps = upgrade or {}
        version = max(steps, default=0) + 1
        if sorted(steps) != list(range(1, version)):
            raise DeclarationError(
                f"upgrade= has the steps {sorted(steps)}, the model version is {version}",
                operation="declare table",
                resource=full,
                hint="give one step for each version up to the present one",
            )
        field, age_ms = _expiry(ttl)
        spec = TableSpec(
            name=full,
            partition=partition,
            sort=sort,
            indexes=tuple(specs),
            images=images,
            ttl=field,
            ttl_ms=age_ms,
            schema=version,
            fields=stored_fields(model),
        )
        table = Table(self, spec, model, steps)
        table.check_fields()
        self.tables[full] = table
        return table

    def bucket(self, name: str, *, max_size: int = MAX_SIZE, versions: bool = False, expire: Duration = "") -> Bucket:
        """Declare a bucket of objects of at most `max_size` bytes (5 GiB at the most).

        With `versions` the objects that a put replaces or `delete` removes stay readable. `expire` is how long
        after its put an object is deleted, and an older version after it was replaced.
        """
        full = self.qualify(name, "bucket")
        bucket = Bucket(self, full, max_size=max_size, versions=versions, expire_ms=to_ms(expire) if expire else 0)
        self.tables.update({table.name: table for table in bucket.tables})
        self.buckets[full] = bucket
        return bucket

    @overload
    def topic(self, name: str) -> Topic[dict[str, Any]]: ...
    @overload
    def topic(self, name: str, model: type[T]) -> Topic[T]: ...
    def topic(self, name: str, model: type[Any] = dict) -> Topic[Any]:
        """Declare a topic of messages of a model; without one, of dicts."""
        full = self.qualify(name, "topic")
        self.topics[full] = Topic(self, full, model)
        return self.topics[full]

    @overload
    def queue(self, name: str, **options: Unpack[QueueOptions]) -> Queue[dict[str, Any]]: ...
    @overload
    def queue(self, name: str, model: type[T], **options: Unpack[QueueOptions]) -> Queue[T]: ...
    def queue(self, name: str, model: type[Any] = dict, **options: Unpack[QueueOptions]) -> Queue[Any]:
        """Declare a queue; `app.on(queue)` declares its handler. For the options see `QueueOptions`."""
        full = self.qualify(name, "queue")
        self.queues[full] = Queue(self, queue_spec(full, options), model)
        return self.queues[full]

    def metric(self, name: MetricName, of: Queue[Any] | Callable[..., Any] | str = "") -> Metric:
        """A metric for alarms: of a queue (or its name), a handler's function, "GET /path", or all endpoints."""
        return find_metric(self, name, of)

    def alarm(
        self,
        name: str,
        metric: Metric,
        *,
        above: float | None = None,
        below: float | None = None,
        for_: Duration | None = None,
        datapoints: tuple[int, int] | None = None,
        missing: Missing = "ok",
        notify: Target | None = None,
    ) -> AlarmSource:
        """Declare an alarm: a source whose events (`AlarmState`) are the changes of its state, looked at each minute.

        It is raised when the metric is `above` (or `below`) in each minute of `for_`, by default one, or in m of the
        last n for `datapoints=(m, n)`. A minute without data is `missing`: good ("ok"), breaching ("bad"), or neither,
        so that alone it changes nothing ("ignore"). `notify` is routed to, like `alarm.to(notify)`.
        """
        condition = condition_of(name, above=above, below=below, for_=for_, datapoints=datapoints, missing=missing)
        return declare_alarm(self, name, metric, condition, notify)

    def schedule(self, when: str | timedelta | Late[Any], **options: Unpack[ScheduleOptions]) -> Schedule:
        """Declare a source of ticks at the times that `when` names, in the zone `tz` (UTC).

        `when` is a duration, five cron fields, or AWS's `rate(…)`, `cron(…)`, `at(…)`; the options are told in
        `ScheduleOptions`. Without `name` one is made of the expression.
        """
        schedule = declare_schedule(self, when, options)
        self.schedules[schedule.name] = schedule
        return schedule

    def foreign(self, name: str, model: type[T]) -> Topic[T]:
        """Another app's topic ("app/topic"), to route from; unknown names are refused at start."""
        if name.count("/") != 1:
            raise DeclarationError("write it as app/topic", operation="declare foreign", resource=name)
        return Topic(self, name, model, foreign=True)

    def service(self, name: str, *, base_url: str | Late[str] | None = None) -> Service:
        """Declare a service to call; without a base URL it is the app of that name."""
        self.services[name] = Service(self, name, base_url)
        return self.services[name]

    def operation(
        self, name: str, request: type[Q], answer: type[A], **options: Unpack[OperationOptions]
    ) -> Operation[Q, A]:
        """Declare a tracked operation: work that a third party does in its own time; see `OperationOptions`."""
        return declare_operation(self, name, request, answer, options)

    @overload
    def expose(
        self,
        resource: Table[Any],
        path: str,
        *,
        methods: Sequence[Verb] | None = ...,
        read: Auth | None = ...,
        write: Auth | None = ...,
        owner: str = ...,
    ) -> None: ...
    @overload
    def expose(
        self,
        resource: Bucket,
        path: str,
        *,
        read: Auth | None = ...,
        write: Auth | None = ...,
        own_prefix: bool = ...,
    ) -> None: ...
    def expose(
        self,
        resource: Table[Any] | Bucket,
        path: str,
        *,
        methods: Sequence[Verb] | None = None,
        read: Auth | None = None,
        write: Auth | None = None,
        owner: str = "",
        own_prefix: bool = False,
    ) -> None:
        """Serve a table at a path: list, read, create, replace, patch and delete rows, without further code.

        `read` and `write` say who may (`require(...)` or `anyone()`); `methods` are by default GET with `read`, and
        POST, PUT, PATCH, DELETE with `write`. `owner` names the field that holds the caller's subject: each
        caller sees and touches only its own rows, and another's is like a missing one. It is the partition of the
        key or of an index. Endpoints written by hand win over these.

        Of a bucket: list, get, put and delete objects, and whatever presigned URLs are signed for; without `read` and
        `write` these alone. With `own_prefix` each caller sees and touches only the keys below its subject and a
        slash, which it does not name.
        """
        if isinstance(resource, Bucket):
            check_options(path, "tables", methods=methods, owner=owner)
            found = declare_objects(self, resource, path, read=read, write=write, own_prefix=own_prefix)
            self.object_exposures.append(found)
        else:
            check_options(path, "buckets", own_prefix=own_prefix)
            self.exposures.append(
                declare_exposure(self, resource, path, methods=methods, read=read, write=write, owner=owner)
            )

    def ingest(self, queue: Queue[Any], path: str, *, auth: Auth, group: str = "") -> None:
        """Accept POSTs at a path straight into a queue: 202 when the message is durable.

        The body is one message as JSON, or up to 1,000 as an array or as lines (application/x-ndjson), all or nothing.
        `auth` says who may (`require(...)` or `anyone()`); the event carries the caller. `group` names the field
        that is the FIFO group.
        """
        self.ingestions.append(declare_ingestion(self, queue, path, auth=auth, group=group))

    def open(self, queue: Queue[Any], path: str, *, auth: Auth) -> None:
        """Have consumers in other languages receive and settle the queue's messages over HTTP, below a path.

        `auth` says who may (`require(...)`). The queue has no handler then; see docs/consumers.md.
        """
        self.openings[queue.name] = declare_opening(self, queue, path, auth=auth)

    def add_route(self, route: RouteSpec, target: Target) -> None:
        if isinstance(target, Webhook):
            route = msgspec.structs.replace(route, target=self._add_delivering(target, self.webhooks))
        elif isinstance(target, Email):
            route = msgspec.structs.replace(route, target=self._add_delivering(target, self.mails))
        elif not isinstance(target, Queue | Topic) or (isinstance(target, Topic) and target.foreign):
            raise DeclarationError(
                "a route ends at a queue, at one of the app's own topics, at a webhook or at mail addresses",
                operation="route",
                resource=route.source,
            )
        self.routes.append(route)

    def _add_delivering(self, target: D, declared: dict[str, D]) -> str:
        """The target's queue, declared with Headwater's handler by the first route to it."""
        full = f"{self.name}/{target.name}"
        if declared.get(full) != target:
            self.qualify(target.name, "target")
            declared[full] = target
            self.implied[full] = queue_spec(full, target.options)
            self.handlers[full] = msgspec.structs.replace(target.handler(self, full), place=declared_at())
        return full

    @overload
    def on(
        self, feed: Feed[E], *, when: Callable[[E], bool] | None = None, **options: Unpack[HandlerOptions]
    ) -> Register[E]: ...
    @overload
    def on(
        self,
        feed: Feed[E],
        *,
        batch: int,
        when: Callable[[E], bool] | None = None,
        **options: Unpack[HandlerOptions],
    ) -> Register[list[E]]: ...
    def on(
        self,
        feed: Feed[E],
        *,
        batch: int = 0,
        when: Callable[[E], bool] | None = None,
        **options: Unpack[HandlerOptions],
    ) -> Register[Any]:
        """Declare the handler of a queue, or of a source: then its queue and route are declared with it.

        The queue is named like the function, or `name=`; `was=` is its former name. `match`, `old` and `new` are
        patterns that route; `when` is any predicate, run at the consumer. With `batch` the handler gets a list of
        at most so many events. `concurrency` bounds the handlers that run at once, `timeout` each run. An
        `async def` handler runs on the event loop, a plain `def` in a thread; with `run_in="process"` either runs in
        worker processes, one job at a time in each unless `concurrency` says more.
        """

        def register(fn: Callable[[Any], Any]) -> Callable[[Any], Any]:
            try:
                self._register(feed, fn, batch, when, options)
            except DeclarationError as error:
                error.message = f"{error.message}, at {place_of(fn) or repr(fn)}"
                raise
            return fn

        return cast("Register[Any]", register)

    def _register(
        self,
        feed: Feed[Any],
        fn: Callable[[Any], Any],
        batch: int,
        when: Callable[[Any], bool] | None,
        options: HandlerOptions,
    ) -> None:
        check_handler(fn, batch, options)
        name = options.get("name") or getattr(fn, "__name__", "handler").replace("_", "-")
        queue = self._consume(feed, name, options) if isinstance(feed, Source) else self._consume_queue(feed, options)
        place = place_of(fn)
        check_unconsumed(self, queue)
        timeout = options.get("timeout")
        self.handlers[queue] = HandlerSpec(
            name=name,
            queue=queue,
            fn=fn,
            feed=feed,
            batch=batch,
            timeout_s=None if timeout is None else parse_duration(timeout).total_seconds(),
            when=_checked_predicate(feed, when),
            place=place,
            **placed(fn, options),
            scale=options.get("scale"),
        )

    def _consume(self, source: Source[Any], name: str, options: HandlerOptions) -> str:
        full = self.qualify(name, "queue")
        route = source.route(
            full,
            match=options.get("match"),
            old=options.get("old"),
            new=options.get("new"),
            group=options.get("group", ""),
        )
        self.implied[full] = queue_spec(full, options)
        self.routes.append(route)
        if was := options.get("was"):
            self.renamed[f"{self.name}/{was}"] = full
        return full

    def _consume_queue(self, feed: Feed[Any], options: HandlerOptions) -> str:
        allowed = {"name", "concurrency", "timeout", "run_in", "scale", "uses"}
        if extra := sorted(set(options) - allowed):
            raise DeclarationError(
                f"{extra[0]}= belongs to the queue's own declaration",
                operation="declare handler",
                resource=feed.name,
            )
        if feed.name not in self.queues:
            raise DeclarationError("the queue belongs to another app", operation="declare handler", resource=feed.name)
        return feed.name

    def transaction(self) -> AbstractAsyncContextManager[None]:
        """`async with app.transaction():` opens a unit of work: all of it is committed at the end, or nothing.

        Raises `Conflict` when something it read has changed (run it again), and inside an open unit
        `DeclarationError`.
        """
        return transaction(self.binding.engine, self.name)


def _check_name(name: str, kind: str) -> None:
    if not _NAME.fullmatch(name):
        raise DeclarationError(
            f"{name!r} is no name for a {kind}",
            operation=f"declare {kind}",
            hint="use lower-case letters, digits, - and _, a letter first, at most 63 characters",
        )


def _expiry(ttl: Duration) -> tuple[str, int]:
    """(field, age in milliseconds) of a table's `ttl=`: an identifier is a field, all else a duration."""
    if isinstance(ttl, str) and (ttl == "" or ttl.isidentifier()):
        return ttl, 0
    return "", to_ms(ttl)


def _invalid_settings(error: ValidationError, app: str) -> DeclarationError:
    places = [(".".join(map(str, found["loc"])), found["msg"]) for found in error.errors(include_input=False)]
    return DeclarationError("; ".join(f"{at}: {why}" for at, why in places), operation="settings", resource=app)


def _checked_predicate(feed: Feed[Any], when: Callable[[Any], bool] | None) -> Callable[[Any], bool] | None:
    table = feed if isinstance(feed, Table) else feed.table if isinstance(feed, ChangeSource) else None
    if when is not None and table is not None and table.spec.images != "both":
        raise DeclarationError(
            f"when= sees both images, images={table.spec.images!r} leaves one out",
            operation="declare handler",
            resource=table.name,
            hint='declare the table with images="both", or use match=',
        )
    return when
