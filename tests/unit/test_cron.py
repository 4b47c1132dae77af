"""Expressions of schedules: what each form names, what is refused and how, and that reading them is sound."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pytest
from croniter import croniter  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st

from headwater.clock import from_ms
from headwater.cron import Timetable, parse_schedule, smallest_gap_ms
from headwater.errors import DeclarationError

NOW = "2026-11-21T01:00:00"


def ms_of(text: str, tz: str = "UTC") -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(tz)).timestamp()) * 1000


def shown(times: list[int]) -> list[str]:
    return [from_ms(ms).strftime("%m-%d %H:%M") for ms in times]


def following(when: str, count: int = 3, tz: str = "UTC") -> list[str]:
    return shown(list(islice(parse_schedule(when, tz).ahead(ms_of(NOW)), count)))


@pytest.mark.parametrize(
    ("when", "tz", "words", "times"),
    [
        ("1h", "UTC", "every hour", ["11-21 02:00", "11-21 03:00", "11-21 04:00"]),
        ("1h 30m", "UTC", "every 90 minutes", ["11-21 01:30", "11-21 03:00", "11-21 04:30"]),
        ("90", "UTC", "every 90 seconds", ["11-21 01:01", "11-21 01:03", "11-21 01:04"]),
        ("2w", "UTC", "every 2 weeks", ["12-03 00:00", "12-17 00:00", "12-31 00:00"]),
        ("rate(5 minutes)", "UTC", "every 5 minutes", ["11-21 01:05", "11-21 01:10", "11-21 01:15"]),
        ("RATE( 1 day )", "UTC", "every day", ["11-22 00:00", "11-23 00:00", "11-24 00:00"]),
        (
            "0 9 * * mon-fri",
            "Europe/Berlin",
            "every weekday at 09:00 Europe/Berlin",
            ["11-23 08:00", "11-24 08:00", "11-25 08:00"],
        ),
        ("30 6 * * *", "UTC", "every day at 06:30 UTC", ["11-21 06:30", "11-22 06:30", "11-23 06:30"]),
        ("*/15 * * * *", "UTC", "every 15th minute of every hour, UTC", ["11-21 01:15", "11-21 01:30", "11-21 01:45"]),
        (
            "0 0 * * Fri-Sun",
            "UTC",
            "at 00:00 on Friday through Sunday, UTC",
            ["11-22 00:00", "11-27 00:00", "11-28 00:00"],
        ),
        (
            "0 0 13 * fri",
            "UTC",
            "at 00:00 on the 13th day of month and on Friday, UTC",
            ["11-27 00:00", "12-04 00:00", "12-11 00:00"],
        ),
        ("0 0 29 feb *", "UTC", "at 00:00 on February 29, UTC", ["02-29 00:00", "02-29 00:00", "02-29 00:00"]),
        (
            "0 0 L * *",
            "UTC",
            "at 00:00 on the last day of every month, UTC",
            ["11-30 00:00", "12-31 00:00", "01-31 00:00"],
        ),
        (
            "0 0 * * mon#1",
            "UTC",
            "at 00:00 on the first Monday of the month, UTC",
            ["12-07 00:00", "01-04 00:00", "02-01 00:00"],
        ),
        ("cron(0 9 ? * MON-FRI *)", "UTC", "every weekday at 09:00 UTC", ["11-23 09:00", "11-24 09:00", "11-25 09:00"]),
        ("cron(0 9 ? * 2-6 *)", "UTC", "every weekday at 09:00 UTC", ["11-23 09:00", "11-24 09:00", "11-25 09:00"]),
        ("cron(0/20 9 L * ? *)", "UTC", None, ["11-30 09:00", "11-30 09:20", "11-30 09:40"]),
        ("cron(0 9 LW * ? *)", "UTC", None, ["11-30 09:00", "12-31 09:00", "01-29 09:00"]),
        ("cron(0 9 ? * L *)", "UTC", "at 09:00 on Saturday, UTC", ["11-21 09:00", "11-28 09:00", "12-05 09:00"]),
        ("cron(0 9 ? * 6L *)", "UTC", None, ["11-27 09:00", "12-25 09:00", "01-29 09:00"]),
        ("cron(0 9 ? * 2#1 *)", "UTC", None, ["12-07 09:00", "01-04 09:00", "02-01 09:00"]),
        ("cron(0 9 15W * ? *)", "UTC", None, ["12-15 09:00", "01-15 09:00", "02-15 09:00"]),
        ("cron(0 9 22W * ? *)", "UTC", None, ["11-23 09:00", "12-22 09:00", "01-22 09:00"]),
        ("cron(0 9 1W 5,8 ? 2027)", "UTC", None, ["05-03 09:00", "08-02 09:00"]),
        ("cron(0 9 31W 5,10 ? 2026-2027)", "UTC", None, ["05-31 09:00", "10-29 09:00"]),
        ("cron(0 0 1 1 ? 2026/4)", "UTC", "at 00:00 on January 1 in 2026/4, UTC", ["01-01 00:00"] * 3),
        ("5-5/10 0 * * *", "UTC", None, ["11-22 00:05", "11-23 00:05", "11-24 00:05"]),
        ("cron(0 0 ? * 2/3 *)", "UTC", None, ["11-23 00:00", "11-26 00:00", "11-30 00:00"]),
        ("at(2026-12-24T18:00:00)", "Europe/Berlin", "once, at 2026-12-24 18:00:00 Europe/Berlin", ["12-24 17:00"]),
    ],
)
def test_what_an_expression_names(when: str, tz: str, words: str | None, times: list[str]) -> None:
    timetable = parse_schedule(when, tz)
    assert following(when, 3, tz) == times
    assert words is None or timetable.words == words


def test_a_year_that_is_named_leaves_the_others_out_in_both_directions() -> None:
    timetable = parse_schedule("cron(0 0 1 1 ? 2026/4)")
    assert [from_ms(ms).year for ms in islice(timetable.ahead(ms_of(NOW)), 3)] == [2030, 2034, 2038]
    past = parse_schedule("cron(0 0 ? 1 MON#1 2019,2021)")
    assert [from_ms(ms).date().isoformat() for ms in past.back(ms_of(NOW))] == ["2021-01-04", "2019-01-07"]
    assert list(past.ahead(ms_of(NOW))) == []


def test_a_timedelta_is_a_duration() -> None:
    assert list(islice(parse_schedule(timedelta(minutes=5)).ahead(1), 2)) == [300_000, 600_000]


@pytest.mark.parametrize(
    ("when", "tz", "place", "hint"),
    [
        ("", "UTC", "'' is not a duration", "five cron fields"),
        ("soon", "UTC", "'soon' is not a duration", "five cron fields"),
        ("-1h", "UTC", "is not a duration", "duration"),
        ("1ms", "UTC", "at least a second", '"1s"'),
        ("1500ms", "UTC", "whole seconds", '"1s"'),
        ("0", "UTC", "at least a second", '"1s"'),
        ("1h", "Europe/Berlin", "elapsed time", "0 * * * *"),
        ("0 9 * *", "UTC", "five fields, there are 4", "minute, hour"),
        ("0 0 9 * * mon", "UTC", "five fields, there are 6", "cron("),
        ("60 9 * * *", "UTC", "minute: '60' is not among 0-59", "0-59"),
        ("0 24 * * *", "UTC", "hour: '24'", "0-23"),
        ("0 9 0 * *", "UTC", "day of month: '0'", "1-31"),
        ("0 9 * 13 *", "UTC", "month: '13'", "JAN-DEC"),
        ("0 9 * * 8", "UTC", "day of week: '8'", "SUN-SAT"),
        ("0 9 * * fry", "UTC", "day of week: 'FRY'", "SUN-SAT"),
        ("0 9 * * mon-", "UTC", "day of week: 'MON-'", "ranges"),
        ("0 9 * * mon#6", "UTC", "day of week: 'MON#6'", "mon#2"),
        ("0 9 * * ?", "UTC", "day of week: '?'", "SUN-SAT"),
        ("0 9 15W * *", "UTC", "day of month: '15W'", "1-31"),
        ("0 17-9 * * *", "UTC", "hour: the range 17-9 runs backwards", "9-17"),
        ("*/0 * * * *", "UTC", "minute: the step", "steps"),
        ("*/90 * * * *", "UTC", "minute: the step of '*/90' is 1 to 59", "steps"),
        ("1,,2 * * * *", "UTC", "minute: '' is none", "lists"),
        ("0 0 30 2 *", "UTC", "no month that is named has this day", "a day that"),
        ("0 0 31 4,6 *", "UTC", "no month that is named has this day", "a day that"),
        ("rate(5)", "UTC", "rate: '5' is no number and unit", "rate(1 minute)"),
        ("rate(0 minutes)", "UTC", "rate: the number is at least 1", "rate(1 minute)"),
        ("rate(1 hours)", "UTC", "rate: the unit of 1 is hour", "rate(1 hour)"),
        ("rate(2 hour)", "UTC", "rate: the unit of 2 is hours", "rate(2 hours)"),
        ("rate(9999999 days)", "UTC", "at most ten years", "shorter"),
        ("cron(0 9 * * MON)", "UTC", "six fields, there are 5", "year"),
        ("cron(0 9 * * MON *)", "UTC", "one of them is ?", "cron(0 9 1 * ? *)"),
        ("cron(0 9 ? * ? *)", "UTC", "one of them is ?", "cron(0 9 1 * ? *)"),
        ("cron(0 9 ? * 0 *)", "UTC", "day of week: '0' is not among 1-7", "1-7"),
        ("cron(0 9 1W,15W * ? *)", "UTC", "1W stands alone", "a schedule for each"),
        ("cron(0 9 32W * ? *)", "UTC", "day of month: '32'", "1-31"),
        ("cron(0 9 1 * ? 1969)", "UTC", "year: '1969' is not among 1970-2199", "1970"),
        ("cron(? 9 1 * ? *)", "UTC", "minute: '?'", "0-59"),
        ("at(2026-12-24)", "UTC", "at: '2026-12-24' is no date and time", "as tz="),
        ("at(2026-02-30T18:00:00)", "UTC", "is no date and time", "as tz="),
        ("at(2027-03-28T02:30:00)", "Europe/Berlin", "go forward over", "exists"),
        ("0 9 * * *", "Europe/Belin", "no time zone 'Europe/Belin'", "did you mean 'Europe/Berlin'"),
        ("0 9 * * *", "../etc/passwd", "no time zone", "IANA"),
        ("0 9 * * *", "Europe", "no time zone", "IANA"),
        ("0 9 * * *", "", "no time zone", "IANA"),
    ],
)
def test_what_is_wrong_is_said_with_its_field_and_how_to_mend_it(when: str, tz: str, place: str, hint: str) -> None:
    with pytest.raises(DeclarationError) as refused:
        parse_schedule(when, tz)
    assert place in refused.value.message
    assert hint in refused.value.hint


def field(low: int, high: int) -> st.SearchStrategy[str]:
    value = st.integers(low, high)
    # croniter takes the range of one value, such as 4-4, for all of them: those are tried by hand above
    span = st.integers(low, high - 1).flatmap(lambda n: st.integers(n + 1, high).map(lambda end: f"{n}-{end}"))
    step = st.integers(1, high - low).map(lambda n: f"*/{n}")
    stepped = st.tuples(span, st.integers(1, high - low)).map(lambda parts: f"{parts[0]}/{parts[1]}")
    return st.one_of(
        st.just("*"),
        value.map(str),
        step,
        stepped,
        st.lists(value.map(str) | span, min_size=1, max_size=3).map(",".join),
    )


CRON = st.tuples(field(0, 59), field(0, 23), st.just("*"), field(1, 12), field(0, 6)).map(" ".join)
MOMENTS = st.integers(ms_of("2025-01-01T00:00:00"), ms_of("2027-12-31T00:00:00"))


def strictly_rising(times: list[int]) -> bool:
    return all(earlier < later for earlier, later in pairwise(times))


@given(CRON, MOMENTS)
def test_cron_names_what_an_independent_library_names(when: str, moment: int) -> None:
    ours = list(islice(parse_schedule(when).ahead(moment), 5))
    theirs = croniter(when, from_ms(moment))
    assert [from_ms(ms) for ms in ours] == [theirs.get_next(datetime) for _ in ours]
    assert len(ours) == 5
    assert strictly_rising(ours)


def aws_of(when: str) -> str:
    """The same times in AWS's form: days of the week from 1 on, and a year."""
    minute, hour, _, month, weekday = when.split()

    def one_on(term: str) -> str:
        span, slash, step = term.partition("/")
        return "-".join(n if n == "*" else str(int(n) + 1) for n in span.split("-")) + slash + step

    return f"cron({minute} {hour} ? {month} {','.join(map(one_on, weekday.split(',')))} *)"


@given(CRON, MOMENTS)
def test_both_forms_of_cron_name_the_same(when: str, moment: int) -> None:
    five, six = parse_schedule(when), parse_schedule(aws_of(when))
    assert list(islice(five.ahead(moment), 5)) == list(islice(six.ahead(moment), 5))
    assert five.words == six.words


ZONES = st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Sao_Paulo"])


@given(CRON, MOMENTS, ZONES)
def test_back_is_ahead_reversed(when: str, moment: int, tz: str) -> None:
    timetable: Timetable = parse_schedule(when, tz)
    last = list(islice(timetable.back(moment), 5))
    assert all(ms <= moment for ms in last)
    assert list(islice(timetable.ahead(last[-1] - 1), len(last))) == last[::-1]
    assert next(timetable.ahead(moment)) == next(timetable.ahead(last[0]))


@given(st.integers(1, 3660), st.sampled_from(["minute", "hour", "day"]), MOMENTS)
def test_rates_round_trip_and_are_anchored_to_the_epoch(number: int, unit: str, moment: int) -> None:
    size = {"minute": 60_000, "hour": 3_600_000, "day": 86_400_000}[unit] * number
    timetable = parse_schedule(f"rate({number} {unit}{'s' if number > 1 else ''})")
    first, second = islice(timetable.ahead(moment), 2)
    assert first % size == 0
    assert moment < first <= moment + size
    assert second == first + size
    assert next(timetable.back(moment)) == first - size
    assert timetable.words.startswith("every ")


@given(st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1)))
def test_single_times_round_trip(local: datetime) -> None:
    local = local.replace(microsecond=0)
    ms = int(local.replace(tzinfo=UTC).timestamp()) * 1000
    timetable = parse_schedule(f"at({local.isoformat()})")
    assert list(timetable.ahead(ms - 1)) == list(timetable.back(ms)) == [ms]
    assert list(timetable.ahead(ms)) == list(timetable.back(ms - 1)) == []


@given(st.text(max_size=40))
def test_any_other_text_is_refused_with_a_hint(text: str) -> None:
    hint = "none was raised"
    try:
        parse_schedule(text)
    except DeclarationError as error:
        hint = error.hint
    assert hint


def test_the_smallest_gap_of_uneven_times() -> None:
    assert smallest_gap_ms(parse_schedule("0 9,10,17 * * *")) == 3_600_000
    assert smallest_gap_ms(parse_schedule("5m")) == 300_000
    assert smallest_gap_ms(parse_schedule("at(2030-01-01T00:00:00)")) is None
