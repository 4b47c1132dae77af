"""What the vendor does wrong, and what becomes of it, under the virtual clock."""

from __future__ import annotations

from typing import Any

import pytest

from apps.erasure.app import deletions
from apps.erasure.tests.conftest import SETTINGS, Play
from apps.erasure.vendor.faults import Kind

CHANGED = "The vendor's answers have changed"
RESTORED = "The vendor's answers are right again"
STRANGE = {
    Kind.RENAMED_FIELD: "status: Field required",
    Kind.NEW_WORD: "status: Input should be 'pending', 'running', 'done', 'rejected' or 'cancelled'",
    Kind.HTML: "answer: Invalid JSON",
}


@pytest.mark.parametrize("kind", STRANGE)
async def test_a_changed_answer_is_told_once_and_ends_by_itself(play: Play, kind: Kind) -> None:
    ids = [f"c{n}" for n in range(5)]
    await play.create(*ids)
    await play.revoke(*ids)
    play.misbehave(kind, on=["poll"])
    await play.pass_time(hours=30)
    (mail,) = play.harness.mail
    (change,) = (await deletions.contracts.query()).items
    assert mail.subject.startswith(f"{CHANGED} (customer {change.subject}, operation {change.operation_id}): ")
    assert STRANGE[kind] in mail.subject
    assert change.answer[:40] in mail.text.replace('\\"', '"')
    assert change.affected == 5
    assert {await play.state(id) for id in ids} == {"started"}
    assert all([await play.known(id) for id in ids])
    play.behave()
    await play.pass_time(hours=1)
    assert {await play.state(id) for id in ids} == {"completed"}
    assert not any([await play.known(id) for id in ids])
    assert [subject.partition(": ")[0] for subject in play.subjects[1:]] == [RESTORED]
    assert len(play.at_vendor) == 5


@pytest.mark.parametrize("on", ["start", "poll"])
@pytest.mark.parametrize("kind", [Kind.RATE_LIMITED, Kind.UNAVAILABLE])
async def test_retry_after_is_kept(play: Play, kind: Kind, on: str) -> None:
    await play.create("c1")
    if on == "poll":
        await play.revoke("c1")
    play.misbehave(kind, on=[on], seconds=1800, times=1)
    if on == "start":
        await play.revoke("c1")
    else:
        await play.pass_time(hours=1)
    asked = dict(play.vendor.calls)
    await play.pass_time(minutes=29)
    assert play.vendor.calls == asked
    await play.pass_time(minutes=5)
    assert play.vendor.calls != asked
    await play.pass_time(hours=6)
    assert play.at_vendor == [("c1", "done")]
    assert not await play.known("c1")
    assert play.subjects == []


ON: list[Any] = [["start"], ["poll"], ["start", "poll"]]
PASSING = [Kind.BROKEN, Kind.LOST_ANSWER, Kind.UNAVAILABLE, Kind.SLOW, Kind.RATE_LIMITED]


@pytest.mark.parametrize("on", ON, ids=["start", "poll", "both"])
@pytest.mark.parametrize("kind", PASSING)
async def test_half_a_day_of_trouble_is_one_deletion_and_no_mail(play: Play, kind: Kind, on: Any) -> None:
    await play.create("c1")
    play.misbehave(kind, on=on)
    await play.revoke("c1")
    await play.pass_time(hours=12)
    play.behave()
    await play.pass_time(hours=6)
    assert play.at_vendor == [("c1", "done")]
    assert not await play.known("c1")
    assert play.subjects == []


async def test_a_start_that_the_vendor_knows_already_is_not_made_again(play: Play) -> None:
    await play.create("c1")
    play.misbehave(Kind.LOST_ANSWER, on=["start"], times=1)
    await play.revoke("c1")
    assert await play.state("c1") == "requested"
    play.misbehave(Kind.REPEATED)
    await play.pass_time(hours=6)
    assert play.at_vendor == [("c1", "done")]
    assert (await play.op("c1")).external_id == "del-000001"
    assert play.subjects == []


async def test_what_the_vendor_rejects_is_told_and_kept(play: Play) -> None:
    await play.create("unknown-1")
    await play.revoke("unknown-1")
    await play.pass_time(hours=1)
    op = await play.op("unknown-1")
    assert op.state == "failed"
    assert play.subjects == [f"The deletion of unknown-1 has failed (operation {op.id})"]
    assert await play.known("unknown-1")


async def test_a_vendor_that_forgets_keys_deletes_twice_when_it_is_believed(play: Play) -> None:
    """Why there is the setting `vendor_idempotent`."""
    await play.create("c1")
    play.misbehave(Kind.LOST_ANSWER, on=["start"], times=1)
    await play.revoke("c1")
    play.misbehave(Kind.FORGETFUL)
    await play.pass_time(hours=6)
    assert [customer for customer, _ in play.at_vendor] == ["c1", "c1"]


@pytest.mark.parametrize("settings", [{**SETTINGS, "vendor_idempotent": False}], ids=["not idempotent"])
@pytest.mark.parametrize("kind", [Kind.LOST_ANSWER, Kind.BROKEN])
async def test_a_start_in_doubt_is_told_and_not_repeated(play: Play, kind: Kind, settings: dict[str, Any]) -> None:
    await play.create("c1")
    play.misbehave(kind, on=["start"])
    await play.revoke("c1")
    play.misbehave(Kind.FORGETFUL)
    await play.pass_time(days=2)
    op = await play.op("c1")
    assert op.state == "in_doubt"
    assert play.subjects == [f"Was the deletion of c1 started? (operation {op.id})"]
    assert play.vendor.calls["start"] == 1
    assert await play.known("c1")
    await play.pass_time(days=2)
    assert len(play.mails("is overdue")) == 1


async def test_a_crash_at_any_hour_starts_nothing_twice(play: Play) -> None:
    ids = [f"c{n}" for n in range(10)]
    await play.create(*ids)
    await play.revoke(*ids)
    for _ in range(6):
        await play.harness.crash()
        await play.pass_time(hours=1)
    assert sorted(play.at_vendor) == sorted((id, "done") for id in ids)
    assert not any([await play.known(id) for id in ids])
    assert play.subjects == []
