"""What functions tell of themselves: X-Ray's header, metrics as lines of the log, and how long they may take."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.functions.invocation import MOST_VALUES, Invocation, metric_line
from headwater.functions.xray import read_xray, write_xray
from headwater.tracing import TraceContext

TRACE = "5759e988bd862e3fe1be46a994272793"


def test_the_header_of_x_ray() -> None:
    header = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1"
    assert read_xray(header) == TraceContext(TRACE, "53995c3f42cd8ad8", True)
    assert write_xray(TRACE, "53995c3f42cd8ad8", sampled=True) == header


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("Self=1-x; Root=1-5759e988-bd862e3fe1be46a994272793", TraceContext(TRACE, TRACE[16:], False)),
        ("Root=1-5759e988-bd862e3fe1be46a994272793;Parent=0000000000000000", TraceContext(TRACE, TRACE[16:], False)),
        ("", None),
        ("Root=2-5759e988-bd862e3fe1be46a994272793", None),
        ("Root=1-5759e988-000000000000000000000000", None),
        ("Root=1-5759E988-bd862e3fe1be46a994272793", None),
        ("Root;;=", None),
    ],
)
def test_odd_headers_of_x_ray(header: str, found: TraceContext | None) -> None:
    assert read_xray(header) == found


@given(st.from_regex(r"[0-9a-f]{31}1", fullmatch=True), st.from_regex(r"[0-9a-f]{15}1", fullmatch=True), st.booleans())
def test_what_is_written_is_read(trace: str, span: str, sampled: bool) -> None:
    assert read_xray(write_xray(trace, span, sampled=sampled)) == TraceContext(trace, span, sampled)


def test_a_line_of_metrics() -> None:
    line = json.loads(metric_line({"Stack": "s", "Queue": "shop/orders"}, {"attempts": 2}, [0.25, 1], 1700000000000))
    (described,) = line["_aws"]["CloudWatchMetrics"]
    assert line["_aws"]["Timestamp"] == 1700000000000
    assert (described["Namespace"], described["Dimensions"]) == ("Headwater", [["Stack", "Queue"]])
    assert described["Metrics"] == [{"Name": "attempts", "Unit": "Count"}, {"Name": "duration", "Unit": "Seconds"}]
    assert (line["Queue"], line["attempts"], line["duration"]) == ("shop/orders", 2, [0.25, 1])


@pytest.mark.parametrize("many", [1, MOST_VALUES, MOST_VALUES + 1, 10_000])
def test_a_line_has_no_more_durations_than_it_may(many: int) -> None:
    told = json.loads(metric_line({}, {}, [1.0] * many, 0))["duration"]
    assert 0 < len(told) <= MOST_VALUES


def test_without_durations_there_is_no_such_metric() -> None:
    assert "duration" not in metric_line({}, {"ticks": 1}, [], 0)


@pytest.mark.parametrize(("left_ms", "margin_s"), [(60_000, 2.0), (10_000, 1.0), (500, 0.2)])
def test_some_time_is_kept_for_the_end(left_ms: int, margin_s: float) -> None:
    class Context:
        aws_request_id = "r"

        def get_remaining_time_in_millis(self) -> int:
            return left_ms

    invocation = Invocation(Context())
    assert invocation.margin_s == pytest.approx(margin_s)
    assert invocation.left_s == pytest.approx(left_ms / 1000 - margin_s, abs=0.1)
