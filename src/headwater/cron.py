"""When a schedule runs: its expression read, and the times that it names.

Forms: a duration ("1h", a `timedelta`), five-field cron ("0 9 * * mon-fri"), and those of AWS: `rate(5 minutes)`,
`cron(0 9 ? * MON-FRI *)`, `at(2026-12-24T18:00:00)`. Durations and rates count elapsed time from the epoch, so that
"1h" is each full hour in UTC, whoever reckons it. The others name local times of a zone: one that does not exist
when clocks go forward is skipped, one that comes twice when they go back counts once, the first time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from difflib import get_close_matches
from itertools import count, islice, pairwise
from typing import NoReturn, Protocol
from zoneinfo import ZoneInfo, available_timezones

import msgspec
from cronsim import CronSim
from cronsim.cronsim import CronSimError

from headwater.clock import from_ms
from headwater.durations import parse_duration
from headwater.errors import DeclarationError

_FORMS = (
    'write a duration ("1h"), five cron fields ("0 9 * * mon-fri"), rate(5 minutes), cron(0 9 ? * MON-FRI *) '
    "or at(2026-12-24T18:00:00)"
)
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_UNITS = (("week", 604_800), ("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1))
_CALL = re.compile(r"(rate|cron|at)\s*\((.*)\)", re.IGNORECASE | re.DOTALL)
_RATE = re.compile(r"([0-9]{1,7})\s+(minute|hour|day)(s?)", re.IGNORECASE)
_AT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}")
_TERM = re.compile(r"(?P<low>\*|[A-Z0-9]+)(?:-(?P<high>[A-Z0-9]+))?(?:/(?P<step>[0-9]+))?")
_LONGEST = timedelta(days=3660)
_EARLY = datetime(2000, 1, 1)
_COMPARED = 60
"""Of how many times the smallest distance is taken."""


class Timetable(Protocol):
    """The nominal times of one schedule, in milliseconds since the epoch."""

    @property
    def words(self) -> str:
        """When it runs, for people."""
        ...

    def ahead(self, ms: int) -> Iterator[int]:
        """The times after `ms`, the next one first."""
        ...

    def back(self, ms: int) -> Iterator[int]:
        """The times up to and including `ms`, the last one first."""
        ...


def parse_schedule(when: str | timedelta, tz: str = "UTC") -> Timetable:
    """The timetable of an expression; names of months and days in any case.

    Raises `DeclarationError`, which says what is wrong in which field and how to mend it.
    """
    zone = _zone(tz)
    if isinstance(when, str):
        text = when.strip()
        if call := _CALL.fullmatch(text):
            kind, inner = call[1].lower(), call[2].strip()
            if kind == "cron":
                return _aws_cron(text, inner, zone)
            return _at(text, inner, zone) if kind == "at" else _elapsed(_rate(text, inner), text, tz)
    try:
        duration = parse_duration(when, place="when")
    except DeclarationError as error:
        if " " in str(when).strip():
            return _cron(str(when), zone)
        raise DeclarationError(error.message, operation="declare schedule", hint=_FORMS) from None
    return _elapsed(duration, str(when), tz)


def smallest_gap_ms(timetable: Timetable) -> int | None:
    """How close two times in a row are, among the first ones from the year 2000 on; None when there is only one."""
    times = islice(timetable.ahead(int(_EARLY.replace(tzinfo=UTC).timestamp()) * 1000), _COMPARED)
    return min((later - earlier for earlier, later in pairwise(times)), default=None)


def _refuse(expression: str, problem: str, hint: str) -> NoReturn:
    raise DeclarationError(problem, operation="declare schedule", resource=expression, hint=hint)


def _zone(tz: str) -> ZoneInfo:
    try:
        return ZoneInfo(tz)
    except (KeyError, ValueError, OSError, TypeError):
        close = get_close_matches(str(tz), available_timezones(), 1, 0.5)
        did_you_mean = f"did you mean {close[0]!r}? " if close else ""
        hint = f"{did_you_mean}Write a name of the IANA database, such as Europe/Berlin"
        raise DeclarationError(f"there is no time zone {tz!r}", operation="declare schedule", hint=hint) from None


# Elapsed time


class Every(msgspec.Struct, frozen=True):
    """Each multiple of a period since the epoch."""

    period_ms: int

    @property
    def words(self) -> str:
        seconds = self.period_ms // 1000
        unit, size = next(found for found in _UNITS if seconds % found[1] == 0)
        number = seconds // size
        return f"every {unit}" if number == 1 else f"every {number} {unit}s"

    def ahead(self, ms: int) -> Iterator[int]:
        return (number * self.period_ms for number in count(ms // self.period_ms + 1))

    def back(self, ms: int) -> Iterator[int]:
        return (number * self.period_ms for number in count(ms // self.period_ms, -1))


def _elapsed(period: timedelta, expression: str, tz: str) -> Every:
    if tz != "UTC":
        _refuse(expression, f"tz={tz!r} says nothing about elapsed time", 'leave tz= out, or write cron: "0 * * * *"')
    if period < timedelta(seconds=1) or period % timedelta(seconds=1):
        _refuse(expression, "a schedule's period is at least a second, in whole seconds", 'write "1s", "5m" or "1h"')
    if period > _LONGEST:
        _refuse(expression, "a schedule's period is at most ten years", "write a shorter one")
    return Every(period // timedelta(milliseconds=1))


def _rate(expression: str, text: str) -> timedelta:
    found = _RATE.fullmatch(text)
    if found is None:
        _refuse(
            expression, f"rate: {text!r} is no number and unit", "write rate(1 minute), rate(5 hours), rate(7 days)"
        )
    number, unit = int(found[1]), found[2].lower()
    if number == 0:
        _refuse(expression, "rate: the number is at least 1", f"write rate(1 {unit})")
    if (number == 1) == bool(found[3]):
        _refuse(
            expression,
            f"rate: the unit of {number} is {unit}{'' if number == 1 else 's'}",
            f"write rate({number} {unit}{'' if number == 1 else 's'})",
        )
    return number * timedelta(seconds=dict(_UNITS)[unit])


# One time


class Once(msgspec.Struct, frozen=True):
    """One time, and never again."""

    ms: int
    words: str

    def ahead(self, ms: int) -> Iterator[int]:
        return iter([self.ms] if self.ms > ms else [])

    def back(self, ms: int) -> Iterator[int]:
        return iter([self.ms] if self.ms <= ms else [])


def _at(expression: str, text: str, zone: ZoneInfo) -> Once:
    try:
        local = datetime.fromisoformat(text) if _AT.fullmatch(text) else None
    except ValueError:
        local = None
    if local is None:
        _refuse(expression, f"at: {text!r} is no date and time", "write at(2026-12-24T18:00:00), the zone as tz=")
    ms = _instant(local, zone)
    if ms is None:
        _refuse(expression, f"at: clocks in {zone.key} go forward over {text}", "take a time that exists there")
    return Once(ms, f"once, at {local:%Y-%m-%d %H:%M:%S} {zone.key}")


def _instant(local: datetime, zone: ZoneInfo) -> int | None:
    """The first moment at which clocks of the zone show this; None when none does."""
    moment = local.replace(tzinfo=zone).astimezone(UTC)
    if moment.astimezone(zone).replace(tzinfo=None) != local:
        return None
    return int(moment.timestamp()) * 1000


# Cron


class Cron(msgspec.Struct, frozen=True, kw_only=True):
    """Local times. `fields` are five as cronsim reads them; `years` and `nearest` (nW: the weekday nearest to the
    n-th) are what it cannot say, and leave out some of its times."""

    fields: str
    zone: ZoneInfo
    words: str
    years: frozenset[int] | None = None
    nearest: int = 0

    def ahead(self, ms: int) -> Iterator[int]:
        start = from_ms(ms).astimezone(self.zone).replace(tzinfo=None)
        for local in self._locals(start, 1):
            found = _instant(local, self.zone)
            if found is not None and found > ms:
                yield found

    def back(self, ms: int) -> Iterator[int]:
        shown = from_ms(ms).astimezone(self.zone)
        start = shown.replace(tzinfo=None, microsecond=0) + timedelta(seconds=1)
        if shown.fold:  # clocks have gone back: later local times were there before
            start += timedelta(days=1)
        for local in self._locals(start, -1):
            found = _instant(local, self.zone)
            if found is not None and found <= ms:
                yield found

    def _locals(self, start: datetime, way: int) -> Iterator[datetime]:
        """The local times beyond `start`, forward or back."""
        restart: datetime | None = start
        while restart is not None:
            times, restart = CronSim(self.fields, restart, reverse=way < 0), None
            for local in times:
                if self.years is not None and local.year not in self.years:
                    restart = self._next_year(local.year, way)
                    break
                if self.nearest and local.day != _nearest_weekday(local.date(), self.nearest):
                    restart = datetime.combine(local, datetime.min.time())
                    restart += timedelta(seconds=86_399 if way > 0 else 0)
                    break
                yield local

    def _next_year(self, year: int, way: int) -> datetime | None:
        """From where to go on to the next year that is named."""
        assert self.years is not None
        if way > 0:
            later = min((named for named in self.years if named > year), default=None)
            return None if later is None else datetime(later, 1, 1) - timedelta(seconds=1)
        earlier = max((named for named in self.years if named < year), default=None)
        return None if earlier is None else datetime(earlier + 1, 1, 1)


def _nearest_weekday(day: date, wanted: int) -> int:
    """The weekday of the day's month that is nearest to the n-th, in the same month; 0 when the month is too short."""
    try:
        middle = day.replace(day=wanted)
    except ValueError:
        return 0
    step = {5: -1, 6: 1}.get(middle.weekday(), 0)
    if (middle + timedelta(days=step)).month != middle.month:
        step = {5: 2, 6: -2}[middle.weekday()]
    return (middle + timedelta(days=step)).day


class _Field(msgspec.Struct, frozen=True):
    """One field: its range, names for values from `low` on, and the forms of its own, as a pattern and in words."""

    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()
    special: str = ""
    also: str = ""
    offset: int = 0

    @property
    def hint(self) -> str:
        named = f" or {self.names[0]}-{self.names[-1]}" if self.names else ""
        return f"it takes *, {self.low}-{self.high}{named}, lists 1,2, ranges 1-2 and steps */2{self.also}"


_DAY = r"(?P<day>[A-Z]+|[0-9]+)"
_CLOCK = (_Field("minute", 0, 59), _Field("hour", 0, 23))
_MONTH = _Field("month", 1, 12, _MONTHS)
_FIVE = (
    *_CLOCK,
    _Field("day of month", 1, 31, special="LW?", also=", the last day L and the last weekday LW"),
    _MONTH,
    _Field("day of week", 0, 7, _DAYS, rf"{_DAY}(?:L|#[1-5])", ", the last Friday 5L and the second Monday mon#2"),
)
_SIX = (
    *_CLOCK,
    _Field("day of month", 1, 31, special=r"LW?|[0-9]+W", also=", L, LW, the weekday nearest to the 15th 15W, and ?"),
    _MONTH,
    _Field(
        "day of week", 1, 7, _DAYS, rf"L|{_DAY}(?:L|#[1-5])", ", the last Friday 6L, the second Monday 2#2, and ?", 1
    ),
    _Field("year", 1970, 2199),
)


def _cron(expression: str, zone: ZoneInfo) -> Cron:
    parts = expression.upper().split()
    if len(parts) != 5:
        hint = "write minute, hour, day of month, month, day of week; with a year as cron(…)"
        _refuse(expression, f"cron has five fields, there are {len(parts)}", hint)
    fields = " ".join(_translate(expression, field, part) for field, part in zip(_FIVE, parts, strict=True))
    return _checked(expression, Cron(fields=fields, zone=zone, words=_words(fields, zone)))


def _aws_cron(expression: str, text: str, zone: ZoneInfo) -> Cron:
    parts = text.upper().split()
    if len(parts) != 6:
        hint = "write minutes, hours, day of month, month, day of week, year: cron(0 9 ? * MON-FRI *)"
        _refuse(expression, f"cron(…) has six fields, there are {len(parts)}", hint)
    if (parts[2] == "?") == (parts[4] == "?"):
        hint = "cron(0 9 ? * MON-FRI *) goes by days of the week, cron(0 9 1 * ? *) by days of the month"
        _refuse(expression, "day of month and day of week: one of them is ?, the other is not", hint)
    nearest = int(parts[2][:-1]) if re.fullmatch(r"[0-9]+W", parts[2]) else 0
    parts[2 if parts[2] == "?" else 4] = "*"
    fields = [_translate(expression, field, part) for field, part in zip(_SIX, parts[:5], strict=False)]
    years = None if parts[5] == "*" else _years(_translate(expression, _SIX[5], parts[5]))
    words = _words(" ".join(fields), zone, nearest, "" if years is None else parts[5])
    if nearest:
        fields[2] = f"{max(nearest - 2, 1)}-{min(nearest + 2, 31)}"
    cron = Cron(fields=" ".join(fields), zone=zone, words=words, nearest=nearest)
    return msgspec.structs.replace(_checked(expression, cron), years=years)


def _checked(expression: str, cron: Cron) -> Cron:
    """Refuse what names no day of any month."""
    try:
        found = next(cron._locals(_EARLY, 1), None)
    except CronSimError:
        found = None
    if found is None:
        _refuse(expression, "day of month: no month that is named has this day", "take a day that the months have")
    return cron


def _translate(expression: str, field: _Field, text: str) -> str:
    """The field as cronsim writes it: numbers, days of the week from 0 (Sunday) on."""
    terms = text.split(",")
    for term in terms:
        if len(terms) > 1 and term.endswith("W") and term != "LW":
            _refuse(expression, f"{field.name}: {term} stands alone", "write a schedule for each")
    return ",".join(_translate_term(expression, field, term) for term in terms)


def _translate_term(expression: str, field: _Field, term: str) -> str:
    if field.special and (special := re.fullmatch(field.special, term)):
        day = special.groupdict().get("day")
        if day is not None:
            return f"{_value(expression, field, day) % 7}{term[len(day) :]}"
        if term.endswith("W") and term != "LW":
            return str(_value(expression, field, term[:-1]))
        return term if field.name == "day of month" else "6"
    found = _TERM.fullmatch(term)
    if found is None or (found["low"] == "*" and found["high"]):
        _refuse(expression, f"{field.name}: {term!r} is none", field.hint)
    low, high, step = found["low"], found["high"], found["step"]
    if step and not 0 < int(step) <= field.high - field.low:
        _refuse(expression, f"{field.name}: the step of {term!r} is 1 to {field.high - field.low}", field.hint)
    span = low if low == "*" else _span(expression, field, low, high)
    if step is None or (high and span.isdigit()):
        return span
    if span.isdigit() and field.names is _DAYS:  # cronsim's days go on to a second Sunday
        span = f"{int(span) % 7}-6"
    return f"{span}/{int(step)}"


def _span(expression: str, field: _Field, low: str, high: str | None) -> str:
    first = _value(expression, field, low)
    if high is None:
        return str(first)
    last = _value(expression, field, high)
    if field.names is _DAYS and last == 0 < first:
        last = 7
    if last == first:
        return str(first)
    if last < first:
        _refuse(expression, f"{field.name}: the range {low}-{high} runs backwards", f"write {high}-{low}, or a list")
    return f"{first}-{last}"


def _value(expression: str, field: _Field, text: str) -> int:
    if text in field.names:
        return field.names.index(text) + field.low - field.offset
    if not text.isdigit() or not field.low <= int(text[:5]) <= field.high:
        _refuse(expression, f"{field.name}: {text!r} is not among {field.low}-{field.high}", field.hint)
    return int(text) - field.offset


def _years(text: str) -> frozenset[int]:
    found: set[int] = set()
    for term in text.split(","):
        span, _, step = term.partition("/")
        low, _, high = span.replace("*", "1970-2199").partition("-")
        last = int(high) if high else 2199 if step else int(low)
        found.update(range(int(low), last + 1, int(step or 1)))
    return frozenset(found)


_DAILY = re.compile(r"At ([0-9:, and]+) (every day|on Monday through Friday)")


def _words(fields: str, zone: ZoneInfo, nearest: int = 0, years: str = "") -> str:
    """When it runs, for people: "every weekday at 09:00 Europe/Berlin"."""
    try:
        said: str = CronSim(fields, _EARLY).explain()
    except CronSimError:  # no such day: refused afterwards
        return ""
    if daily := _DAILY.fullmatch(said):
        said = f"{'every day' if daily[2] == 'every day' else 'every weekday'} at {daily[1]}"
    said = said[:1].lower() + said[1:]
    if nearest:
        said += " (or the weekday nearest to it)"
    if years:
        said += f" in {years}"
    return f"{said}{'' if said[-3:-2] == ':' else ','} {zone.key}"
