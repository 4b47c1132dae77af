"""Local times over two years of changes to daylight-saving time, against an independent library and by force.

Decided: a local time that does not exist is skipped, one that comes twice counts the first time. croniter moves the
one behind the gap and, for wildcards, repeats the other; both are told from its answers by their clocks alone.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import takewhile
from zoneinfo import ZoneInfo

import pytest
from croniter import croniter  # type: ignore[import-untyped]

from headwater.clock import from_ms
from headwater.cron import parse_schedule

BEGIN, END = datetime(2026, 1, 1, tzinfo=UTC), datetime(2028, 1, 1, tzinfo=UTC)
ZONES = {
    "Europe/Berlin": 4,
    "America/New_York": 4,
    "Australia/Lord_Howe": 4,  # its clocks change by half an hour
    "Africa/Casablanca": 4,  # its clocks go back for Ramadan
}
EXPRESSIONS = [
    "30 2 * * *",
    "0 3 * * mon-fri",
    "15 1,2,3 * * *",
    "*/20 0-3 * * *",
    "45 * * * sun",
    "0 2 L * *",
    "59 1 * * 0",
    "0 0 1 * *",
]


@cache
def ours(when: str, tz: str) -> list[datetime]:
    end_ms = int(END.timestamp()) * 1000
    times = parse_schedule(when, tz).ahead(int(BEGIN.timestamp()) * 1000)
    return [from_ms(ms) for ms in takewhile(lambda ms: ms < end_ms, times)]


def changes(zone: ZoneInfo) -> list[datetime]:
    """The hours in which the zone's offset changes."""
    hours = [BEGIN + timedelta(hours=n) for n in range((END - BEGIN) // timedelta(hours=1))]
    hour = timedelta(hours=1)
    return [t for t in hours if t.astimezone(zone).utcoffset() != (t + hour).astimezone(zone).utcoffset()]


def counts(when: str, moment: datetime, zone: ZoneInfo) -> bool:
    """Whether clocks of the zone show a time that the expression names, for the first time."""
    local = moment.astimezone(zone)
    return local.fold == 0 and croniter.match(when, local.replace(tzinfo=None))


@pytest.mark.parametrize("tz", ZONES)
@pytest.mark.parametrize("when", EXPRESSIONS)
def test_two_years_as_an_independent_library_has_them(when: str, tz: str) -> None:
    zone, theirs = ZoneInfo(tz), list[datetime]()
    times = croniter(when, BEGIN.astimezone(zone))
    while (found := times.get_next(datetime).astimezone(UTC)) < END:
        theirs.append(found)
    near = [(t - timedelta(days=1), t + timedelta(days=1)) for t in changes(zone)]

    def far(moments: list[datetime]) -> list[datetime]:
        return [t for t in moments if not any(low < t < high for low, high in near)]

    mine = ours(when, tz)
    assert far(mine) == far(theirs)
    assert len(far(mine)) > 12
    assert not any(counts(when, t, zone) for t in set(theirs).difference(mine))


@pytest.mark.parametrize("tz", ZONES)
@pytest.mark.parametrize("when", EXPRESSIONS)
def test_each_minute_around_each_change(when: str, tz: str) -> None:
    zone, mine = ZoneInfo(tz), set(ours(when, tz))
    found = changes(zone)
    assert len(found) == ZONES[tz]
    for change in found:
        minutes = [change + timedelta(minutes=n) for n in range(-200, 220)]
        expected = [t for t in minutes if counts(when, t, zone)]
        assert [t for t in minutes if t in mine] == expected


@pytest.mark.parametrize(
    ("tz", "when", "day", "times"),
    [
        ("Europe/Berlin", "30 2 * * *", "2026-03-29", []),
        ("Europe/Berlin", "30 2 * * *", "2026-10-25", ["00:30"]),
        ("America/New_York", "30 2 * * *", "2026-03-08", []),
        ("America/New_York", "30 1 * * *", "2026-11-01", ["05:30"]),
        ("Australia/Lord_Howe", "15 2 * * *", "2026-10-04", []),
        ("Australia/Lord_Howe", "45 1 * * *", "2026-04-05", ["14:45"]),
    ],
)
def test_a_gap_is_skipped_and_a_repetition_runs_once(tz: str, when: str, day: str, times: list[str]) -> None:
    zone = ZoneInfo(tz)
    assert [f"{t:%H:%M}" for t in ours(when, tz) if t.astimezone(zone).date().isoformat() == day] == times


def test_elapsed_time_knows_no_change_of_clocks() -> None:
    hours = ours("1h", "UTC")
    assert len(hours) == (END - BEGIN) // timedelta(hours=1) - 1


def test_back_from_a_repeated_hour_comes_to_its_first_run() -> None:
    timetable = parse_schedule("*/20 * * * *", "Europe/Berlin")
    second = int(datetime(2026, 10, 25, 1, 5, tzinfo=UTC).timestamp()) * 1000  # 02:05 for the second time
    assert f"{from_ms(next(timetable.back(second))):%H:%M}" == "00:40"
    assert f"{from_ms(next(timetable.ahead(second))):%H:%M}" == "02:00"
