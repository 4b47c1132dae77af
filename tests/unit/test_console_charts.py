"""Charts: scales, lines that break, what a series' points mean, words for those who do not see them."""

from __future__ import annotations

import pytest

from headwater.console.charts import HEIGHT, Chart, lines_of, make_chart, path_of, title_of, top_of


@pytest.mark.parametrize(
    ("most", "top"), [(0, 1), (0.03, 0.05), (1, 1), (1.1, 2), (7, 10), (23, 25), (99, 100), (101, 200)]
)
def test_a_scale_ends_at_a_round_number(most: float, top: float) -> None:
    assert top_of(most) == pytest.approx(top)


def test_a_line_breaks_where_nothing_is_known_and_a_lonely_value_is_a_dot() -> None:
    path = path_of([1, 2, None, 3, None, None], 3)
    assert path.count("M") == 2
    assert path.count("L") == 1
    assert path.count("h0.1") == 1
    assert path_of([None, None], 1) == path_of([], 1) == ""


def test_more_is_higher() -> None:
    chart = make_chart("depth", {"value": [0, 10]}, 0)
    low, high = (float(place.split()[1]) for place in chart.curves[0].path.replace("L", "M").split("M")[1:])
    assert high < low < HEIGHT


def areas(chart: Chart) -> tuple[float, float]:
    assert chart.threshold is not None
    begin, height = chart.beyond
    return begin - chart.threshold.at, begin + height - chart.threshold.at


def test_the_area_of_an_alarm_is_on_its_side_of_the_threshold() -> None:
    above = areas(make_chart("depth", {"value": [1, 9]}, 0, threshold=5))
    below = areas(make_chart("depth", {"value": [1, 9]}, 0, threshold=5, below=True))
    assert above[0] < 0 == above[1]
    assert below[0] == 0 < below[1]


def test_the_threshold_is_within_the_scale() -> None:
    chart = make_chart("depth", {"value": [1, None]}, 0, threshold=800)
    assert chart.levels[-1].text == "1\u202f000"
    assert "last 1, at most 1; threshold above 800" in chart.summary


def test_times_are_those_of_the_minutes() -> None:
    chart = make_chart("depth", {"value": [0] * 61}, 60 * 24 * 20_000)
    assert [mark.text for mark in chart.times] == ["00:00", "00:30", "01:00"]


def point(minute: int, **figures: float) -> dict[str, object]:
    return {"time": f"1970-01-01T00:{minute:02}:00.000Z", **figures}


def test_a_gauge_stays_a_counter_does_not_and_durations_are_milliseconds() -> None:
    points = [point(1, value=4), point(3, value=5)]
    assert lines_of({"kind": "gauge", "points": points}, 0, 4) == {"value": [None, 4, 4, 5, 5]}
    assert lines_of({"kind": "counter", "points": points}, 0, 4) == {"a minute": [0, 4, 0, 5, 0]}
    timed = {"kind": "histogram", "points": [point(1, count=1, sum=0.2, p50=0.1, p95=0.2, p99=0.3)]}
    assert lines_of(timed, 0, 2)["p95 in ms"] == [None, 200, None]


def test_titles_name_what_is_measured() -> None:
    assert title_of('queue_depth{queue="shop/orders"}') == "shop/orders"
    assert (
        title_of('http_requests_total{app="shop",method="GET",route="/a/{id}",status="2xx"}') == "GET /shop/a/{id} 2xx"
    )
    assert title_of("nothing_total") == "nothing_total"
