"""W3C trace context, and the names of spans."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.events import Envelope
from headwater.ids import new_id
from headwater.tracing import TraceContext, new_span, parent_of, read_traceparent, span_of, told, write_traceparent

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEX = "0123456789abcdef"


@pytest.mark.parametrize(
    ("header", "sampled"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-03", True),
        (f"00-{TRACE}-{SPAN}-02", False),
        (f" 00-{TRACE}-{SPAN}-01\t", True),
        (f"01-{TRACE}-{SPAN}-01", True),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-will-be-like", True),
    ],
)
def test_a_traceparent_is_read(header: str, sampled: bool) -> None:
    assert read_traceparent(header) == TraceContext(TRACE, SPAN, sampled)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "00",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-01-",
        f"01-{TRACE}-{SPAN}-01.more",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN.upper()}-01",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}0-01",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-0x",
        f"0-{TRACE}-{SPAN}-01",
        f"00_{TRACE}_{SPAN}_01",
        f"00-{TRACE[:-1]}٣-{SPAN}-01",
    ],
)
def test_an_invalid_traceparent_means_nothing(header: str) -> None:
    assert read_traceparent(header) is None


@given(st.text(HEX, min_size=32, max_size=32), st.text(HEX, min_size=16, max_size=16), st.booleans())
def test_what_is_written_is_read(trace: str, span: str, sampled: bool) -> None:
    expected = TraceContext(trace, span, sampled) if trace.strip("0") and span.strip("0") else None
    assert read_traceparent(write_traceparent(trace, span, sampled=sampled)) == expected


@given(st.text())
def test_nothing_makes_reading_fail(header: str) -> None:
    read_traceparent(header)


def test_spans_of_a_process_differ_and_are_valid() -> None:
    spans = {new_span() for _ in range(10_000)}
    assert len(spans) == 10_000
    assert all(read_traceparent(write_traceparent(TRACE, span, sampled=True)) for span in spans)


def test_the_parent_of_a_delivery_is_the_span_that_made_its_event() -> None:
    commit = new_id()
    made = Envelope(id=f"{commit}-a10", source="shop/rows", type="inserted", cause="POST /shop/rows")
    assert parent_of(made) == span_of(commit)
    assert parent_of(Envelope(id=f"{commit}-0", source="shop/rows", type="inserted")) == ""


def test_errors_are_shown_cut_and_as_text_that_can_be_stored() -> None:
    assert told(ValueError("no")) == "ValueError: no"
    assert told(ValueError("\ud800")) == "ValueError: ?"
    assert len(told(ValueError("x" * 10_000))) == 500
