"""Series, histograms, what a minute adds, and roll-ups of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater import App, DeclarationError, Event
from headwater.metrics import (
    BOUNDS,
    MAX_NAME,
    Histogram,
    Metric,
    Recorder,
    Sample,
    Series,
    Totals,
    queue_metric,
    request_metric,
    series,
)
from headwater.rollups import RollUp, minutes_of, points_of, read_series, sample_of
from headwater.tuning import Tuning, built_in_alarms

SENT = series("queue_sent_total", queue="shop/orders")
DEPTH = series("queue_depth", queue="shop/orders")
TOOK = series("handler_duration_seconds", queue="shop/orders")


def observed(*seconds: float) -> Histogram:
    histogram = Histogram()
    for one in seconds:
        histogram.observe(one)
    return histogram


@given(
    st.from_regex(r"[a-z_]{1,20}", fullmatch=True),
    st.lists(st.tuples(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), st.text(max_size=20)), max_size=4),
)
def test_a_series_is_read_back_from_its_text(name: str, labels: list[tuple[str, str]]) -> None:
    one = Series(name, tuple(labels))
    assert read_series(str(one)) == one


def test_a_bucket_takes_what_is_not_longer_than_its_bound() -> None:
    histogram = observed(0.001, 0.0011, 30.0, 31.0)
    assert [index for index, count in enumerate(histogram.buckets) if count] == [0, 1, len(BOUNDS) - 1, len(BOUNDS)]
    assert histogram.total == pytest.approx(61.0021)


def test_quantiles_are_interpolated_and_bounded() -> None:
    assert Histogram().quantile(0.5) is None
    assert observed(*[0.04] * 100).quantile(0.5) == pytest.approx(0.0375)
    assert observed(*[0.004] * 99, 100.0).quantile(0.99) == pytest.approx(0.005)
    assert observed(100.0).quantile(0.5) == BOUNDS[-1]


@given(st.lists(st.floats(0, 100), max_size=20), st.lists(st.floats(0, 100), max_size=20))
def test_what_was_added_is_the_difference(first: list[float], second: list[float]) -> None:
    before = Totals({SENT: float(len(first))}, {}, {TOOK: observed(*first)})
    after = Totals({SENT: float(len(first + second))}, {DEPTH: 3.0}, {TOOK: observed(*first, *second)})
    sample = after.since(before)
    assert sample.gauges == {DEPTH: 3.0}
    assert sample.counts == ({SENT: len(second)} if second else {})
    assert (TOOK in sample.durations) == bool(second)
    if second:
        assert sample.durations[TOOK].buckets == observed(*second).buckets


samples = st.builds(
    Sample,
    counts=st.dictionaries(st.just(SENT), st.integers(1, 9).map(float)),
    gauges=st.dictionaries(st.just(DEPTH), st.integers(0, 9).map(float)),
    durations=st.dictionaries(st.just(TOOK), st.lists(st.floats(0, 100), min_size=1).map(lambda many: observed(*many))),
)


@given(st.lists(samples, max_size=8))
def test_roll_ups_tell_what_each_minute_was(minutes: list[Sample]) -> None:
    rows = {one: RollUp(series=str(one), hour=7, points=[]) for one in (SENT, DEPTH, TOOK)}
    shown: dict[Series, float] = {}
    for minute, sample in enumerate(minutes):
        for one, point in points_of(sample, minute, shown).items():
            rows[one].points.append(point)
        shown = sample.gauges
    found = minutes_of(rows.values())
    depth = 0.0
    for minute, sample in enumerate(minutes):
        told = sample_of(found.get(420 + minute, {}))
        depth = told.gauges.get(DEPTH, depth)
        assert told.counts == sample.counts
        assert depth == sample.gauges.get(DEPTH, 0.0)
        assert {one: h.buckets for one, h in told.durations.items()} == {
            one: h.buckets for one, h in sample.durations.items()
        }


def test_two_points_of_one_minute_belong_together() -> None:
    rows = [
        RollUp(series=str(SENT), hour=0, points=[[3, 2], [3, 5]]),
        RollUp(series=str(DEPTH), hour=0, points=[[3, 2], [3, 5]]),
        RollUp(series=str(TOOK), hour=0, points=[[3, 0.5, 0, 1], [3, 1.0, 2]]),
    ]
    values = minutes_of(rows)[3]
    assert (values[SENT], values[DEPTH]) == (7, 5)
    took = values[TOOK]
    assert isinstance(took, Histogram)
    assert (took.buckets[:3], took.total) == ([2, 1, 0], 1.5)


def test_an_unchanged_gauge_and_an_idle_counter_are_not_written() -> None:
    sample = Sample({}, {DEPTH: 4.0}, {})
    assert points_of(sample, 0, {}) == {DEPTH: [0, 4]}
    assert points_of(sample, 1, {DEPTH: 4.0}) == {}
    assert points_of(Sample({}, {}, {}), 2, {DEPTH: 4.0}) == {DEPTH: [2, 0]}


def test_the_recorder_refuses_series_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headwater.metrics.MAX_SERIES", 3)
    recorder = Recorder()
    for n in range(10):
        recorder.count(series("calls_total", user=str(n)))
        recorder.count(series("calls_total", user="0"))
    recorder.gauge(series("level"), 1)
    assert {str(one): n for one, n in recorder.counters.items()} == {
        'calls_total{user="0"}': 11,
        'calls_total{user="1"}': 1,
        'calls_total{user="2"}': 1,
    }
    assert recorder.gauges == {}


def test_a_series_that_is_no_key_is_not_recorded() -> None:
    recorder = Recorder()
    recorder.count(series("calls_total", user="x" * MAX_NAME))
    assert recorder.counters == {}


def requests(route: str, status: str, method: str = "GET") -> Series:
    return series("http_requests_total", app="shop", method=method, route=route, status=status)


def test_metrics_of_endpoints_sum_what_has_their_labels() -> None:
    sample = Sample({requests("/a", "2xx"): 3, requests("/a", "5xx"): 1, requests("/b", "5xx"): 4}, {}, {})

    def value(name: str, *of: str) -> float | None:
        metric = request_metric(name, "shop", *of)
        assert metric is not None
        return metric.value(sample, 0)

    assert (value("requests"), value("errors"), value("error_rate")) == (8, 5, 5 / 8)
    assert (value("requests", "GET", "/a"), value("errors", "GET", "/a")) == (4, 1)
    assert value("error_rate", "GET", "/c") is None


def test_an_age_grows_from_the_time_that_the_gauge_shows() -> None:
    metric = queue_metric("oldest_age", "shop/orders")
    assert metric is not None
    (due,) = metric.needs
    assert metric.value(Sample({}, {due: 100.0}, {}), 160_000) == 60
    assert metric.value(Sample({}, {due: 300.0}, {}), 160_000) == 0
    assert metric.value(Sample({}, {due: 0.0}, {}), 160_000) == 0
    assert metric.value(Sample(), 160_000) is None


# Declarations


def declared(**options: object) -> object:
    app = App("shop")
    jobs = app.queue("jobs")
    return app.alarm("late", jobs.depth, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "above= or below="),
        ({"above": 1, "below": 1}, "above= or below="),
        ({"above": 1, "for_": "90s"}, "whole minutes"),
        ({"above": 1, "for_": 0}, "whole minutes"),
        ({"above": 1, "for_": "5m", "datapoints": (3, 4)}, "for_= has 5 minutes"),
        ({"above": 1, "datapoints": (6, 5)}, "m of the last n"),
        ({"above": 1, "datapoints": (0, 5)}, "m of the last n"),
        ({"above": 1, "for_": "2d"}, "m of the last n"),
        ({"above": 1, "missing": "whatever"}, "missing="),
    ],
)
def test_conditions_that_cannot_be_are_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(DeclarationError, match=said):
        declared(**options)


def test_for_and_datapoints_say_the_window() -> None:
    app = App("shop")
    depth = app.queue("jobs").depth
    one = app.alarm("one", depth, above=1).condition
    five = app.alarm("five", depth, above=1, for_="5m").condition
    three = app.alarm("three", depth, above=1, for_="5m", datapoints=(3, 5)).condition
    assert [(c.datapoints, c.window) for c in (one, five, three)] == [(1, 1), (5, 5), (3, 5)]


def test_metrics_are_found_by_queue_function_name_and_endpoint() -> None:
    app = App("shop")
    jobs = app.queue("jobs")

    @app.on(app.topic("news"))
    async def tell(event: Event[dict[str, object]]) -> None: ...

    found = [
        app.metric("depth", jobs),
        app.metric("error_rate", tell),
        app.metric("dead_letters", "tell"),
        app.metric("depth", "other/queue"),
        app.metric("errors"),
        app.metric("duration_p99", "GET /orders/{id}"),
    ]
    assert [metric.of for metric in found] == [
        "shop/jobs",
        "shop/tell",
        "shop/tell",
        "other/queue",
        "/shop",
        "GET /shop/orders/{id}",
    ]
    assert all(isinstance(metric, Metric) for metric in found)
    with pytest.raises(DeclarationError, match="no metric 'requests'"):
        app.metric("requests", jobs)
    with pytest.raises(DeclarationError, match="no handler"):
        app.metric("error_rate", declared)


def test_built_in_alarms_are_tuned_and_switched_off() -> None:
    plain = {alarm.name: alarm for alarm in built_in_alarms({})}
    assert len(plain) == 5
    tuned = {
        alarm.name: alarm
        for alarm in built_in_alarms(
            {
                "dead-letters": False,
                "oldest-message": Tuning(above="2h", ignore=("shop/slow",)),
                "handler-failing": Tuning(for_="10m"),
            }
        )
    }
    assert "dead-letters" not in tuned
    assert tuned["oldest-message"].condition.threshold == 7200
    assert tuned["oldest-message"].ignore == {"shop/slow"}
    assert (tuned["handler-failing"].condition.datapoints, tuned["handler-failing"].condition.window) == (10, 10)
    assert tuned["handler-failing"].condition.missing == "ignore"
    assert tuned["no-consumer"] == plain["no-consumer"]
    with pytest.raises(DeclarationError, match="no built-in alarm 'typo'"):
        built_in_alarms({"typo": True})
