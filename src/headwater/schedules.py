"""Schedules: sources whose events are ticks, at the times that an expression names (`headwater.cron`)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import msgspec

from headwater.clock import from_ms
from headwater.codec import codec_for
from headwater.cron import Timetable, parse_schedule, smallest_gap_ms
from headwater.decoding import Decode, event_decoder
from headwater.durations import Duration, to_ms
from headwater.errors import DeclarationError
from headwater.events import Event
from headwater.late import Late, resolve
from headwater.permits import Guarded, guard
from headwater.sources import Source
from headwater.work import UnitOfWork, current

if TYPE_CHECKING:
    from headwater.app import App

Missed = Literal["coalesce", "catch_up", "skip"]
Overlap = Literal["allow", "skip"]
MOST, MAX_MOST = 100, 1000
_MAX_NAME = 63


class ScheduleOptions(TypedDict, total=False):
    """What `app.schedule` takes beside the expression.

    `tz` is the zone of its times. `missed` says what becomes of times at which nothing could run: one tick for all
    ("coalesce", the default), one each for the last `most` ("catch_up"), none ("skip"). With `overlap` "skip" a tick is
    left out while the one before it is not done. `jitter` delays each tick by up to so much.
    """

    name: str
    tz: str
    missed: Missed
    most: int
    overlap: Overlap
    jitter: Duration


class Tick(msgspec.Struct, frozen=True, kw_only=True):
    """The message of a schedule.

    `nominal` is the time that the schedule names (UTC), whenever the message is made; `missed` how many times before
    it were missed and have no tick of their own. A `manual` tick is a person's or a program's, its `nominal` the
    time of the call; `parameters` are what the caller gave.
    """

    schedule: str
    nominal: datetime
    missed: int = 0
    manual: bool = False
    parameters: dict[str, Any] = {}


class ScheduleSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule as data. `most` bounds the ticks that `missed` "catch_up" makes at once."""

    when: str
    tz: str = "UTC"
    missed: Missed = "coalesce"
    most: int = MOST
    overlap: Overlap = "allow"
    jitter_ms: int = 0

    def timetable(self) -> Timetable:
        return parse_schedule(self.when, self.tz)

    def starts_ms(self, name: str, nominal_ms: int) -> int:
        """When the tick of a nominal time is made: later by its jitter, which is always the same."""
        if not self.jitter_ms:
            return nominal_ms
        digest = hashlib.sha256(f"{name} {nominal_ms}".encode()).digest()
        return nominal_ms + int.from_bytes(digest[:8]) % (self.jitter_ms + 1)


class ScheduleRow(msgspec.Struct, kw_only=True):
    """What is kept of a schedule: up to which time it is dealt with, and what came of it.

    `nominal_ms` and `tick` are the time and the event of the last tick; `untold` how many missed times no tick has
    told of; `skipped` counts ticks left out because the one before was not done; `alarmed` that an alarm stands.
    """

    name: str
    spec: ScheduleSpec
    last_ms: int
    paused: bool = False
    nominal_ms: int | None = None
    tick: str = ""
    fired: int = 0
    missed: int = 0
    skipped: int = 0
    untold: int = 0
    alarmed: bool = False


class Schedule(Source[Event[Tick]], Guarded):
    """Declared by `app.schedule`: emits a `Tick` once for each time that it names, while a server runs."""

    kind = "schedule"

    def __init__(self, app: App[Any], name: str, when: str | timedelta | Late[Any], options: ScheduleOptions) -> None:
        self.app = app
        self.name = name
        self.codec = codec_for(Tick)
        self._when = when
        self._options = options
        if not isinstance(when, Late):
            self.spec()

    def decoder(self) -> Decode[Event[Tick]]:
        return event_decoder(self.codec)

    def spec(self) -> ScheduleSpec:
        """The schedule as data, checked; a late expression is read from the app's settings."""
        when = resolve(self._when, self.app)
        text = f"{when.total_seconds():f}".rstrip("0").rstrip(".") + "s" if isinstance(when, timedelta) else str(when)
        spec = ScheduleSpec(
            when=text.strip(),
            tz=self._options.get("tz", "UTC"),
            missed=self._options.get("missed", "coalesce"),
            most=self._options.get("most", MOST),
            overlap=self._options.get("overlap", "allow"),
            jitter_ms=to_ms(self._options.get("jitter", 0), place="jitter"),
        )
        try:
            _check(spec)
        except DeclarationError as error:
            error.operation, error.resource = "declare schedule", f"{self.name} {spec.when!r}"
            raise
        return spec

    async def run(self, parameters: Mapping[str, Any] | None = None, *, dedup: str = "") -> str:
        """Emit a tick now, by hand; the event's id. In a unit of work it is emitted with its commit.

        It is routed like every tick, also while the schedule is paused, and changes nothing about the next ones.
        `dedup` as in `Topic.publish`. Raises `InvalidValue`, `TooLarge`.
        """
        guard(self, "run")
        engine = self.app.binding.engine
        tick = Tick(
            schedule=self.name,
            nominal=from_ms(await engine.now_ms()),
            manual=True,
            parameters=dict(parameters or {}),
        )
        outer = current.get()
        unit = outer or UnitOfWork(engine)
        id = unit.publish(self.name, self.codec.encode(tick), {}, dedup=dedup)
        return id if outer else unit.duplicate_of(id, await unit.commit())


def declare_schedule(app: App[Any], when: str | timedelta | Late[Any], options: ScheduleOptions) -> Schedule:
    """The schedule under its name, or under one made of its expression."""
    name = options.get("name", "")
    if not name:
        if isinstance(when, Late):
            raise DeclarationError(
                "a late expression makes no name", operation="declare schedule", resource=app.name, hint="give name="
            )
        name = _name_of(str(when), options.get("tz", "UTC"))
    return Schedule(app, app.qualify(name, "schedule"), when, options)


def _name_of(when: str, tz: str) -> str:
    """A name that stays the same wherever the schedule is declared: "cron-0-9-any-any-mon-fri-europe-berlin"."""
    text = when.strip().lower()
    kind = "" if text[:1].isalpha() else "cron-" if " " in text else "every-"
    zone = "" if tz == "UTC" else f"-{tz}"
    words = f"{kind}{text}{zone}".lower().replace("*", "any").replace("?", "any")
    name = re.sub(r"[^a-z0-9]+", "-", words).strip("-")
    return name if len(name) <= _MAX_NAME else f"{name[:54]}-{hashlib.sha256(words.encode()).hexdigest()[:8]}"


def _check(spec: ScheduleSpec) -> None:
    timetable = spec.timetable()
    choices = (("missed", spec.missed, ("coalesce", "catch_up", "skip")), ("overlap", spec.overlap, ("allow", "skip")))
    for option, value, allowed in choices:
        if value not in allowed:
            raise DeclarationError(f"{option}={value!r} is none", hint=f"it is {', '.join(allowed)}")
    if not 1 <= spec.most <= MAX_MOST:
        raise DeclarationError(f"most={spec.most} is none", hint=f"it is 1 to {MAX_MOST}")
    if spec.missed == "catch_up" and spec.overlap == "skip":
        raise DeclarationError(
            "catch_up makes several ticks at once, overlap='skip' would leave all but one out",
            hint="choose missed='coalesce', or overlap='allow'",
        )
    if spec.jitter_ms:
        gap_ms = smallest_gap_ms(timetable)
        if gap_ms is not None and spec.jitter_ms >= gap_ms:
            raise DeclarationError(
                f"a jitter of {spec.jitter_ms / 1000:g} s reaches the next time, {gap_ms / 1000:g} s later",
                hint="take a shorter one",
            )
