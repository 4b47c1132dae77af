"""Operations as declared: `app.operation(…)`, its functions, its events, and what the app asks of it."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, Literal, Required, TypeAlias, TypedDict, TypeVar, cast

import msgspec

from headwater.clock import from_ms
from headwater.codec import codec_for
from headwater.durations import Duration, to_ms
from headwater.errors import DeclarationError, InvalidValue
from headwater.events import Event, Inserted, Modified, Removed
from headwater.handlers import HandlerSpec
from headwater.late import Late, resolve
from headwater.messaging import Queue
from headwater.metrics import series
from headwater.operations.calls import Calls
from headwater.operations.ledger import Ledger, Raw
from headwater.operations.outcomes import Reader, Verdict
from headwater.operations.tracked import (
    STATES,
    Call,
    ContractChange,
    Deadline,
    Due,
    Progress,
    State,
    Tracked,
    tracked_codec,
)
from headwater.permits import Guarded, declared_at, guard
from headwater.sources import Pattern, Source
from headwater.tables import ChangeSource, Page, Table
from headwater.work import alone, current

if TYPE_CHECKING:
    import httpx

    from headwater.app import App
    from headwater.catalog import RouteSpec
    from headwater.services import Service

Q = TypeVar("Q")
A = TypeVar("A")
E = TypeVar("E")
BATCH = 32
"""How many calls are noted in one commit at most."""
BATCHES = 4
"""How many batches are under way: slow calls of one leave room for those of another."""
DEFAULT_CALLS = 32
Setting: TypeAlias = Duration | Late[timedelta] | Late[str] | Late[float]
Ask: TypeAlias = Callable[[Tracked[Q]], Awaitable["httpx.Response"]]


class OperationOptions(TypedDict, total=False):
    """What `app.operation` takes beside the models.

    `service` is the third party, `every` the interval of polls, `overdue` how long an operation may take. `idempotent`
    (default) says that the third party knows a repeated start by its key. At most `concurrency` calls (default 32) are
    made at once, and at most `rate` a second to the service, all of its operations together (default: no limit).
    """

    service: Required[Service]
    every: Required[Setting]
    overdue: Required[Setting]
    idempotent: bool | Late[bool]
    concurrency: int
    rate: float


class Transition(ChangeSource[E], Generic[E]):
    """The changes of an operation's records from one state into another."""

    def __init__(self, table: Table[Any], old: Pattern, new: Pattern) -> None:
        super().__init__(table, ("modified",))
        self._old, self._new = old, new

    def route(
        self,
        target: str,
        *,
        match: Pattern | None,
        old: Pattern | None,
        new: Pattern | None,
        group: str = "",
        delay: Duration | None = None,
    ) -> RouteSpec:
        patterns: dict[str, Mapping[str, Any]] = {
            "old": {**(old or {}), **self._old},
            "new": {**(new or {}), **self._new},
        }
        return super().route(target, match=match, group=group, delay=delay, **patterns)


class Operation(Guarded, Generic[Q, A]):
    """Declared by `app.operation`: work that a third party does in its own time, one at a time for each subject.

    `on_start`, `on_poll` and, if the third party can be asked to stop, `on_cancel` make the calls and return the raw
    answer; `on_answer` maps the model of a poll's answer to a verdict. They write nothing:
    the effects of an operation belong into handlers of its events. A call of `request`, `cancel` or `poll` is part of
    the current unit of work, or a commit of its own.
    """

    kind = "operation"

    def __init__(self, app: App[Any], name: str, request: type[Q], answer: type[A], options: OperationOptions) -> None:
        self.app = app
        self.name = name
        self.place = declared_at()
        self.ledger = Ledger(name)
        self._every, self._overdue = options["every"], options["overdue"]
        self._service = options["service"]
        self._idempotent = options.get("idempotent", True)
        self._reader: Reader[A] = Reader(answer)
        pace = self._service.pace
        if rate := options.get("rate", 0):
            pace.limit(rate)
        self._calls: Calls[Q, A] = Calls(
            self.ledger,
            self._reader,
            pace,
            concurrency=options.get("concurrency", DEFAULT_CALLS),
        )
        specs = self.ledger.table_specs()
        self.table: Table[Tracked[Q]] = Table(app, specs[name], cast("type[Tracked[Q]]", Tracked), {})
        self.table.codec = tracked_codec(request)
        self.opened = Table(app, specs[self.ledger.opened], Progress, {})
        self.contracts = Table(app, specs[self.ledger.contracts], ContractChange, {})
        self._requests = codec_for(request)
        self._calls.typed = self._typed
        self._every_ms = self._overdue_ms = 0
        self._calls.every_ms = lambda: self._every_ms
        self._calls.count = self._count
        self.completed = self._into("completed")
        self.failed = self._into("failed")
        self.cancelled = self._into("cancelled")
        self.in_doubt = self._into("in_doubt")
        self.overdue: Source[Event[Tracked[Q]]] = Transition(
            self.table, {"overdue_ms": [0]}, {"overdue_ms": [{"anything-but": [0]}]}
        )
        self.contract_changed: Source[Inserted[ContractChange]] = self.contracts.inserted
        self.contract_restored: Source[Removed[ContractChange]] = self.contracts.removed

    def _into(self, state: State) -> Source[Event[Tracked[Q]]]:
        return Transition(self.table, {"state": [{"anything-but": [state]}]}, {"state": [state]})

    def _typed(self, raw: Raw) -> Tracked[Q]:
        decoded: Any = msgspec.structs.replace(cast("Any", raw), request=self._requests.decode(bytes(raw.request)))
        return cast("Tracked[Q]", decoded)

    def _ms(self, value: Setting, place: str) -> int:
        found = value.pick(self.app.settings) if isinstance(value, Late) else value
        return to_ms(found, place=f"{self.name} {place}")

    # Declaring

    def on_start(self, fn: Ask[Q]) -> Ask[Q]:
        """The call that starts an operation; hand it the `idempotency_key` if the third party takes one."""
        return self._declare("start", fn)

    def on_poll(self, fn: Ask[Q]) -> Ask[Q]:
        """The call that asks how an operation stands."""
        return self._declare("poll", fn)

    def on_cancel(self, fn: Ask[Q]) -> Ask[Q]:
        """The call that asks the third party to stop: an empty 2xx ends the operation, one with a body is read like
        the answer to a poll. After a refusal (4xx) the operation is polled on.
        """
        return self._declare("cancel", fn)

    def _declare(self, call: Call, fn: Ask[Q]) -> Ask[Q]:
        if not inspect.iscoroutinefunction(fn):
            raise DeclarationError(f"on_{call} is an async def", operation="declare operation", resource=self.name)
        self._calls.ask[call] = fn
        return fn

    def on_answer(self, fn: Callable[[A], Verdict]) -> Callable[[A], Verdict]:
        """What an answer to a poll means: "pending", "completed", "failed" or "cancelled". A plain function."""
        self._reader.judge = fn
        return fn

    def on_started(self, fn: Callable[[httpx.Response], str]) -> Callable[[httpx.Response], str]:
        """The third party's id in the answer to a start; without it the member "id" of a JSON answer. A plain
        function; raising says that there is none.
        """
        self._reader.find_id = fn
        return fn

    def check(self) -> None:
        """Before the app runs: resolve what is late. Raises `DeclarationError` for what is missing."""
        self._calls.reset()
        self._calls.idempotent = resolve(self._idempotent, self.app)
        self._service.pace.reset()
        missing = [f"on_{call}" for call in ("start", "poll") if call not in self._calls.ask]
        missing += ["on_answer"] if self._reader.judge is None else []
        problem = f"{missing[0]} is missing" if missing else ""
        self._every_ms, self._overdue_ms = self._ms(self._every, "every"), self._ms(self._overdue, "overdue")
        if not missing and (self._every_ms < 1 or self._overdue_ms < 1):
            problem = "every and overdue are more than 0"
        if problem:
            raise DeclarationError(problem, operation="declare operation", resource=self.name)

    @property
    def functions(self) -> tuple[Callable[..., Any], ...]:
        """The app's, as far as they are declared."""
        found = (*self._calls.ask.values(), self._reader.judge, self._reader.find_id)
        return tuple(fn for fn in found if fn is not None)

    def handlers(self) -> list[HandlerSpec]:
        """The handlers of the operation's own queues."""
        ledger, name = self.ledger, self.name.partition("/")[2]
        calls, deadlines, notices = ledger.queue_specs()
        queues = self.app.queues
        queues[calls.name] = Queue(self.app, calls, Due)
        queues[deadlines.name] = Queue(self.app, deadlines, Deadline)
        queues[notices.name] = Queue(self.app, notices, dict)
        return [
            HandlerSpec(
                name=f"{name}-calls",
                queue=calls.name,
                fn=self._calls.handle,
                feed=queues[calls.name],
                batch=BATCH,
                concurrency=BATCHES,
            ),
            HandlerSpec(
                name=f"{name}-deadlines", queue=deadlines.name, fn=self._pass_deadline, feed=queues[deadlines.name]
            ),
            HandlerSpec(name=f"{name}-notices", queue=notices.name, fn=self._notice, feed=self.contracts),
        ]

    # Using

    @property
    def of_subject(self) -> tuple[Table[Any], ...]:
        """The tables that have rows of a subject: `table.forget(id, also=[operation])` removes them too."""
        return self.table, self.opened

    async def request(self, subject: str, data: Q) -> str:
        """Have an operation started for the subject; its id.

        A subject has one open operation at most: while there is one, its id is returned, the new data is not looked at,
        and a wish to cancel it is withdrawn. After its end a new one begins. Raises `InvalidValue`.
        """
        guard(self, "request")
        body = self._requests.encode(data)
        self.opened.key(subject)
        return await alone(
            self.app.binding.engine,
            lambda unit: self.ledger.request(unit, subject, body, self._overdue_ms),
        )

    async def cancel(self, subject: str) -> bool:
        """The subject's operation is no longer wanted; False when none is open.

        One that the third party cannot know of yet is cancelled at once. Any other stays open: `on_cancel` asks the
        third party to stop it. Without `on_cancel`, or when it refuses, the operation is polled until it ends, and the
        record says that it was not wanted (`cancel_requested_ms`).
        """
        guard(self, "cancel")
        return await alone(self.app.binding.engine, lambda unit: self.ledger.cancel(unit, subject))

    async def poll(self, subject: str) -> bool:
        """Poll the subject's operation now; False when none is open."""
        guard(self, "poll")
        return await alone(self.app.binding.engine, lambda unit: self.ledger.poll(unit, subject))

    async def poll_due(self) -> int:
        """Have all open operations polled now that wait for their next poll; how many.

        It is done in slices, each a commit of its own and none of them part of the current unit of work: it may be
        repeated without harm.
        """
        guard(self, "poll")
        return await self.ledger.poll_due(self.app.binding.engine)

    async def get(self, subject: str) -> Tracked[Q] | None:
        """The subject's last operation as committed, with its present figures."""
        guard(self, "get")
        found = await self.ledger.latest(self.app.binding.engine, subject)
        return None if found is None else self._typed(found)

    async def query(
        self, state: State | Literal["overdue", "open"], *, limit: int = 100, cursor: str | None = None
    ) -> Page[Tracked[Q]]:
        """Operations in a state, or all that are overdue, or open and not overdue; the oldest request first."""
        guard(self, "query")
        if state not in (*STATES, "overdue", "open"):
            raise InvalidValue(f"there is no state {state!r}", operation="query", resource=self.name)
        index = "by-state" if state in STATES else "by-standing"
        table = self.table
        return await table.page_of(table.query_of((state,), index=index, limit=limit, cursor=cursor))

    def _count(self, call: Call, outcome: str) -> None:
        told = series("operation_calls_total", operation=self.name, call=call, outcome=outcome)
        self.app.binding.recorder.count(told)

    # The queues beside that of the calls

    async def _pass_deadline(self, event: Event[Deadline]) -> None:
        """An operation that is still open is overdue, and polled on."""
        unit, ledger = current.get(), self.ledger
        assert unit is not None
        progress = await ledger.progress(unit, event.data.subject)
        if progress is None or progress.id != event.data.id or progress.standing == "overdue":
            return
        progress.standing = "overdue"
        tracked = await ledger.of_open(unit, progress)
        now_ms = await unit.engine.now_ms()
        told = msgspec.structs.replace(tracked, standing="overdue", overdue_ms=now_ms)
        ledger.save(unit, told, progress)
        ledger.keep(unit, progress)
        self.app.binding.recorder.count(series("operation_overdue_total", operation=self.name))
        ledger.alarm(
            unit, "operation-overdue", told, f"{tracked.state} since {from_ms(tracked.requested_ms):%F %R} UTC"
        )

    async def _notice(
        self, change: Inserted[ContractChange] | Modified[ContractChange] | Removed[ContractChange]
    ) -> None:
        """A contract change lasts as long as its row, which goes when no open operation is affected any more."""
        unit, id = current.get(), change.key[0]
        assert unit is not None
        resource = f"{self.name}/{id}"
        if isinstance(change, Inserted):
            seen = change.new
            detail = f"{seen.problem}; first seen by the operation {seen.operation_id} of {seen.subject}"
            self.ledger.tell(unit, "contract-changed", resource, detail, "alarm")
        elif isinstance(change, Removed):
            self.ledger.tell(unit, "contract-changed", resource, "the answers are right again", "ok")
        elif (present := await self.contracts.get(id)) is not None and present.affected <= 0:
            await self.contracts.delete(id)


def declare_operation(
    app: App[Any], name: str, request: type[Q], answer: type[A], options: OperationOptions
) -> Operation[Q, A]:
    """Declare the operation's tables, queues, handlers and routes in the app."""
    full = app.qualify(name, "operation")
    if options.get("concurrency", 1) < 1 or options.get("rate", 0) < 0:
        raise DeclarationError("concurrency= and rate= are more than 0", operation="declare operation", resource=full)
    for place, value in (("every", options["every"]), ("overdue", options["overdue"])):
        if not isinstance(value, Late):
            to_ms(value, place=place)
    operation = Operation(app, full, request, answer, options)
    for table in (operation.table, operation.opened, operation.contracts):
        app.tables[table.name] = table
    app.handlers.update({handler.queue: handler for handler in operation.handlers()})
    app.routes.extend(operation.ledger.notice_routes())
    app.operations[full] = operation
    return operation
