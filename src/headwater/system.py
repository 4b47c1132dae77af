"""Headwater's own app: what the server itself keeps in the store, in tables and queues like everybody's.

`headwater/keys` has the API keys (digests only), `headwater/usage` the counts of usage plans, `headwater/webhooks` the
webhooks subscribed at run time, `headwater/schedules` how far schedules have got, `headwater/places` what marks the
place of objects as this store's, `headwater/loads` the summaries of bulk loads, `headwater/metrics` the roll-ups of
metrics, `headwater/spans` the spans of traces, `headwater/alarm-states` the states of alarms, `headwater/scalings` the
decisions on numbers of workers, `headwater/terms` which process does what only one is to do at a time,
`headwater/audit` who did what through the admin operations (`headwater.audit`), `headwater/drops` up to where
notices of S3 were followed. The topic `headwater/alarms` tells what
a person should know; the queue `headwater/expansions` has a message for each load whose changes are to become events.
The table `headwater/erasures` and the queue `headwater/forgettings` have the keys that are being forgotten
(`headwater.erasures`). What mail keeps is told in `headwater.mail`. Reads and writes here are never part of a unit of
work that happens to be open (who calls is no business of the request's commit), but for the summary and the message of
a load, and for mails, which are committed with it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from headwater.alarms import STATES, AlarmRow
from headwater.app import App
from headwater.audit import AUDIT, Audited
from headwater.durations import Duration
from headwater.engine import Query
from headwater.erasures import ERASURES, FORGETTINGS, Erasure, Forgetting, erase
from headwater.errors import ConditionFailed, Discard, UnknownResource
from headwater.events import Event
from headwater.http.keys import Key
from headwater.http.metering import Used
from headwater.ids import new_id
from headwater.loads import EXPANSIONS, LOADS, Expansion, LoadSummary
from headwater.mail import Digest, DigestEnd, Folded, Mail, Outgoing
from headwater.rollups import METRICS, RollUp
from headwater.scaling import SCALINGS, Scaling
from headwater.schedules import ScheduleRow
from headwater.tables import Table
from headwater.tracing import Span
from headwater.unit import Merge, Origin
from headwater.work import UnitOfWork, current

NAME = "headwater"
USAGE_KEPT = LOADS_KEPT = "400d"
MAILS_KEPT = "30d"
METRICS_KEPT = SCALINGS_KEPT = "14d"
SPANS_KEPT = "7d"
AUDIT_DAYS = 30
TERMS_KEPT = "1d"
DROPS_KEPT = "30d"
TRIES = 1_000_000
"""How often an expansion is tried: its table waits for it, so it is never given up. Nor is the end of a digest."""
SENDS = 120
"""How often a mail is sent, with pauses of up to a quarter of an hour: for about a day."""
HIDDEN_FIELDS = {f"{NAME}/keys": ("digest", "previous"), f"{NAME}/webhooks": ("secret_sealed",)}
"""What SQL does not show."""
R = TypeVar("R")


class Alarm(msgspec.Struct, kw_only=True):
    """A message of `headwater/alarms`: what is wrong with which resource, or right again (state "ok").

    What an alarm on a metric says has that metric's name, its `value`, and `since` when it is so.
    """

    name: str
    resource: str
    detail: str
    state: str = "alarm"
    metric: str = ""
    value: float | None = None
    since: datetime | None = None


class Hook(msgspec.Struct, kw_only=True):
    """A webhook subscribed at run time; its secret is sealed."""

    id: str
    topic: str
    queue: str
    url: str
    secret_sealed: str
    created_ms: int = 0


class Place(msgspec.Struct, kw_only=True):
    """What marks a place outside of the store as this store's own."""

    kind: str
    owner: str


class Term(msgspec.Struct, kw_only=True):
    """A row of `headwater/terms`: the process `holder` does the work, or takes part in it, until `until_ms`.

    `part` is "one" of a work that one process does, and the holder of one that many share.
    """

    work: str
    part: str
    holder: str
    until_ms: int


class Drop(msgspec.Struct, kw_only=True):
    """A row of `headwater/drops`: the sequencer of the last change of a key in S3 that the bucket has followed."""

    bucket: str
    key: str
    sequencer: str


class System:
    """The app's resources, and the few ways in which the server uses them."""

    def __init__(self, *, spans_kept: Duration = SPANS_KEPT) -> None:
        self.app: App[None] = App(NAME)
        self.keys = self.app.table("keys", Key, key="id")
        self.usage = self.app.table("usage", Used, key=("who", "period"), images="none", ttl=USAGE_KEPT)
        self.webhooks = self.app.table("webhooks", Hook, key="id")
        self.places = self.app.table("places", Place, key="kind", images="none")
        self.schedules = self.app.table("schedules", ScheduleRow, key="name", images="none")
        self.alarms = self.app.topic("alarms", Alarm)
        self.alarm_states = self.app.table(
            STATES.removeprefix(f"{NAME}/"), AlarmRow, key=("name", "resource"), images="new"
        )
        self.app.on(self.alarms, name="alarm-events", match={"metric": [""]}, group="resource")(self._keep_alarm)
        self.metrics = self.app.table(
            METRICS.removeprefix(f"{NAME}/"),
            RollUp,
            key=("series", "hour"),
            indexes={"by-hour": ("hour", "series")},
            images="none",
            ttl=METRICS_KEPT,
        )
        self.spans = self.app.table("spans", Span, key=("trace", "id"), images="none", ttl=spans_kept)
        self.scalings = self.app.table(
            SCALINGS.removeprefix(f"{NAME}/"), Scaling, key=("queue", "at_ms"), images="none", ttl=SCALINGS_KEPT
        )
        self.audit = self.app.table(
            AUDIT.removeprefix(f"{NAME}/"), Audited, key=("day", "id"), images="none", ttl=f"{AUDIT_DAYS}d"
        )
        self.terms = self.app.table("terms", Term, key=("work", "part"), images="none", ttl=TERMS_KEPT)
        self.drops = self.app.table("drops", Drop, key=("bucket", "key"), images="none", ttl=DROPS_KEPT)
        self.loads = self.app.table(
            LOADS.removeprefix(f"{NAME}/"),
            LoadSummary,
            key=("dataset", "id"),
            indexes={"by-table": ("table", "id")},
            images="none",
            ttl=LOADS_KEPT,
        )
        self.expansions = self.app.queue(
            EXPANSIONS.removeprefix(f"{NAME}/"), Expansion, fifo=True, max_receives=TRIES, retention="520w"
        )
        self.app.on(self.expansions)(self._expand)
        self.erasures = self.app.table(
            ERASURES.removeprefix(f"{NAME}/"), Erasure, key="id", indexes={"by-table": ("table", "id")}, images="none"
        )
        self.forgettings = self.app.queue(
            FORGETTINGS.removeprefix(f"{NAME}/"), Forgetting, max_receives=TRIES, retention="520w"
        )
        self.app.on(self.forgettings, name="forget")(self._forget)
        self.mails = self.app.table(
            "mails", Mail, key="id", indexes={"by-address": ("to", "id")}, images="none", ttl=MAILS_KEPT
        )
        self.digests = self.app.table("digests", Digest, key="id", images="none")
        self.folded = self.app.table("folded", Folded, key="window", images="none")
        self.outgoing = self.app.queue("outgoing", Outgoing, max_receives=SENDS)
        self.digest_ends = self.app.queue("digest-ends", DigestEnd, max_receives=TRIES, retention="520w")

    async def _forget(self, event: Event[Forgetting]) -> None:
        """Go on with an erasure, now and, while something is in its way, again later."""
        again_ms = await erase(self.app.binding.engine, event.id, event.data.id)
        if again_ms is not None and (unit := current.get()) is not None:
            unit.use(Origin(event.id, trace=event.trace))  # at no depth: it may have to wait for long
            await self.forgettings.send(event.data, delay=again_ms / 1000)

    async def _keep_alarm(self, event: Event[Alarm]) -> None:
        """The state of an alarm that no metric tells: as the last message about it says."""
        alarm = event.data
        before = await self.alarm_states.get(alarm.name, alarm.resource)
        unchanged = before is not None and before.state == alarm.state
        row = AlarmRow(
            name=alarm.name,
            resource=alarm.resource,
            state=alarm.state,
            since_ms=before.since_ms if before is not None and unchanged else event.time_ms,
            previous="" if before is None else before.previous if unchanged else before.state,
            detail=alarm.detail,
        )
        await self.alarm_states.put(row)

    async def _expand(self, event: Event[Expansion]) -> None:
        """Get the rows of a flipped load into place, with their events; a crash leaves the rest to the next try."""
        try:
            while await self.app.binding.engine.expand(event.data.table):
                pass
        except UnknownResource as error:
            raise Discard("the table is declared no more") from error

    async def get(self, id: str) -> Key | None:
        """The API key of this id (`http.keys.Rows`)."""
        return await self.read(self.keys, id)

    async def read(self, table: Table[R], *key: str) -> R | None:
        """A committed row, outside of any unit of work."""
        record = await self.app.binding.engine.read(table.name, table.key(*key))
        return None if record is None else table.codec.decode(record.body)

    async def rows(self, table: Table[R]) -> list[R]:
        """All committed rows of a table, outside of any unit of work; none while the store does not know it."""
        engine = self.app.binding.engine
        if table.name not in (await engine.catalog()).tables:
            return []
        found, after = list[R](), None
        while True:
            page = await engine.query(Query(table=table.name, limit=1000, after=after))
            found += [table.codec.decode(record.body) for record in page.records]
            after = page.next
            if after is None:
                return found

    async def owner(self) -> str:
        """What this store marks its place for objects with; made when it is first asked for."""
        return await self.mark("objects", new_id())

    async def mark(self, kind: str, value: str) -> str:
        """What marks a place of this kind as this store's: the value, unless there is one already."""
        found = await self.read(self.places, kind)
        if found is None:
            with contextlib.suppress(ConditionFailed):  # another process was faster
                await self.places.put(Place(kind=kind, owner=value), if_absent=True)
            found = await self.read(self.places, kind)
            assert found is not None
        return found.owner

    async def count(self, who: str, period: str) -> int:
        """Requests written for this period (`http.metering.UsageStore`)."""
        found = await self.read(self.usage, who, period)
        return 0 if found is None else found.count

    async def add(self, used: list[Used]) -> None:
        """Add to counts, in one commit."""
        unit = UnitOfWork(self.app.binding.engine)
        for one in used:
            fixed: Mapping[str, Any] = {"who": one.who, "period": one.period, "plan": one.plan}
            unit.merge(self.usage.name, self.usage.key(one.who, one.period), Merge(dict(fixed), {"count": one.count}))
        await unit.commit()
