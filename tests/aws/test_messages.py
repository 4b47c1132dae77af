from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.aws.deliver import batches, entries, schedule_of, send_of
from headwater.aws.messages import (
    MAX_BODY,
    Address,
    body_of,
    deduplication_id,
    group_id,
    is_too_large,
    marker_of,
    read_body,
)
from headwater.aws.names import Names
from headwater.catalog import Destination, QueueSpec
from headwater.codec import encode_json
from headwater.events import Caller, Envelope

JOBS, FIFO = QueueSpec(name="shop/jobs"), QueueSpec(name="shop/fifo", fifo=True)
NOW_MS = 1_795_000_000_000
IN_XML = re.compile("[\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]*")
IN_GROUP = re.compile(r"[A-Za-z0-9!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]{1,128}")

texts = st.text(max_size=8) | st.sampled_from(["\ufffe", "\\uffff", "\0", ""])
documents = st.dictionaries(
    texts, texts | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
)
images = st.none() | documents.map(encode_json) | st.just(b"null")
envelopes = st.builds(
    Envelope,
    id=st.just("id-0"),
    source=st.just("shop/topic"),
    type=st.sampled_from(["message", "modified"]),
    subject=texts,
    time_ms=st.integers(0, 2**42),
    data=images,
    old=images,
    key=st.none() | st.tuples(texts, texts | st.integers(-5, 5)),
    version=texts,
    expired=st.booleans(),
    attributes=st.dictionaries(texts, texts, max_size=2),
    caller=st.none() | st.builds(Caller, subject=texts, roles=st.frozensets(texts, max_size=2)),
    cause=st.none() | texts,
    trace=texts,
    depth=st.integers(0, 40),
    schema=st.integers(1, 3),
)
addresses = st.builds(Address, group=st.none() | texts, turn=texts, by_topic=st.booleans(), ready_ms=st.integers(0, 9))


@settings(max_examples=300)
@given(envelopes, addresses)
def test_a_body_tells_all_of_an_event(event: Envelope, address: Address) -> None:
    body = body_of(event, address)
    assert IN_XML.fullmatch(body), "SQS refuses other characters"
    arrived = read_body(body, queue="shop/jobs", id="other")
    assert (arrived.event, arrived.address) == (event, address)
    assert isinstance(json.loads(body), dict)


@pytest.mark.parametrize(
    ("body", "data"),
    [('{"b": 1, "a": [1.0]}', {"a": [1.0], "b": 1}), ("plain text", "plain text"), ('{"id": "x"}', {"id": "x"})],
)
def test_a_body_that_is_not_ours_is_an_event_of_its_queue(body: str, data: Any) -> None:
    arrived = read_body(body, queue="shop/jobs", id="m-1", sent_ms=7)
    event = arrived.event
    assert (event.id, event.source, event.type, event.time_ms) == ("m-1", "shop/jobs", "message", 7)
    assert event.data == encode_json(data)
    assert arrived.address == Address()


@given(st.lists(texts | st.text("ab ~", max_size=200), min_size=2, max_size=6, unique=True))
def test_groups_stay_different(groups: list[str]) -> None:
    ids = [group_id(group) for group in groups]
    assert len(set(ids)) == len(groups)
    assert all(IN_GROUP.fullmatch(id) for id in ids)


def test_a_plain_group_can_be_read() -> None:
    assert group_id("customer/7") == "customer/7"


def test_a_redriven_message_is_another_one() -> None:
    assert deduplication_id("e", "q") == deduplication_id("e", "q")
    assert len({deduplication_id("e", "q"), deduplication_id("e", "r"), deduplication_id("e", "q", "t")}) == 3
    assert marker_of("e/q") != marker_of("e/q", "t")


def event(id: str = "e", data: Any = None) -> Envelope:
    return Envelope(id=id, source="shop/topic", type="message", data=encode_json(data), time_ms=NOW_MS)


@pytest.mark.parametrize(
    ("spec", "delay_ms", "late_ms", "expected"),
    [
        (JOBS, 0, 0, (0, 0, 0)),
        (JOBS, 1, 0, (1, 0, 0)),
        (JOBS, 900_000, 0, (900, 0, 0)),
        (JOBS, 5_000, 2_000, (3, 0, 0)),
        (JOBS, 5_000, 9_000, (0, 0, 0)),
        (JOBS, 900_001, 0, (0, NOW_MS + 900_001, 0)),
        (JOBS, 900_001, 1_001, (899, 0, 0)),
        (FIFO, 0, 0, (0, 0, 0)),
        (FIFO, 2_000, 0, (0, 0, NOW_MS + 2_000)),
        (FIFO, 9_000_000, 0, (0, 0, NOW_MS + 9_000_000)),
        (QueueSpec(name="shop/fifo", fifo=True, delay_ms=3_000), 3_000, 0, (0, 0, 0)),
    ],
)
def test_delays(spec: QueueSpec, delay_ms: int, late_ms: int, expected: tuple[int, int, int]) -> None:
    """`expected`: held back by SQS for so many seconds, sent by a schedule at, held back by the consumer until."""
    send = send_of(event(), Destination(spec.name, "g" if spec.fifo else None, delay_ms), spec, "", NOW_MS + late_ms)
    ready_ms = read_body(send.body, queue=spec.name, id="").address.ready_ms
    assert (send.delay_s, send.at_ms, ready_ms) == expected
    (entry,) = entries([send])
    assert entry.get("DelaySeconds", 0) == expected[0]
    assert ("MessageGroupId" in entry) == spec.fifo


def test_a_large_event_leaves_its_images() -> None:
    large = event(data="x" * MAX_BODY)
    send = send_of(large, Destination("shop/jobs", None, 0), JOBS, "", NOW_MS)
    assert send.stored
    assert not is_too_large(send.body)
    arrived = read_body(send.body, queue="shop/jobs", id="")
    assert (arrived.address.stored, arrived.event.id, arrived.event.data) == (True, "e", None)


sends = st.lists(
    st.tuples(st.sampled_from(["a", "b", None]), st.sampled_from([10, 100_000, 200_000])), max_size=30
).map(
    lambda items: [
        send_of(
            event(str(n), "x" * size),
            Destination("shop/jobs" if group is None else "shop/fifo", group, 0),
            JOBS if group is None else FIFO,
            "",
            NOW_MS,
        )
        for n, (group, size) in enumerate(items)
    ]
)


@settings(max_examples=100)
@given(sends)
def test_batches_keep_order_and_limits(waiting: list[Any]) -> None:
    found = list(batches(waiting))
    for batch in found:
        assert len({send.queue for send in batch}) == 1
        assert len(batch) <= 10
        assert sum(len(send.body.encode()) for send in batch) <= MAX_BODY
        groups = [send.group for send in batch if send.group is not None]
        assert len(groups) == len(set(groups)), "one that fails must not be overtaken"
    for queue in ("shop/jobs", "shop/fifo"):
        assert [s for batch in found for s in batch if s.queue == queue] == [s for s in waiting if s.queue == queue]


def test_a_schedule_sends_once_and_goes() -> None:
    send = send_of(event(), Destination("shop/jobs", None, 3_600_500), JOBS, "", NOW_MS)
    schedule = schedule_of(send, Names("demo"), "arn:queue", "arn:role")
    assert schedule["ScheduleExpression"] == "at(2026-11-18T12:06:41)", "not before its time"
    assert schedule["ActionAfterCompletion"] == "DELETE"
    assert schedule["Target"] == {"Arn": "arn:queue", "RoleArn": "arn:role", "Input": send.body}
    assert schedule["Name"] == schedule_of(send, Names("demo"), "arn:queue", "arn:role")["Name"]
    assert re.fullmatch(r"[0-9A-Za-z_.-]{1,64}", schedule["Name"])
