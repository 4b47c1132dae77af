"""From a revocation to a deletion at the vendor and the end of the customer here, under the virtual clock."""

from __future__ import annotations

import pytest

from apps.erasure.app import app, customers, poll_now
from apps.erasure.tests.conftest import SETTINGS, Play
from apps.erasure.vendor.faults import Kind
from headwater.testing import Harness


async def test_a_revocation_is_deleted_at_the_vendor_and_forgotten_here(play: Play) -> None:
    await play.create("c1", "c2")
    await play.revoke("c1")
    op = await play.op("c1")
    assert (op.state, op.external_id) == ("started", "del-000001")
    await play.pass_time(hours=3)
    assert (await play.op("c1")).state == "pending"
    assert await play.known("c1")
    await play.pass_time(hours=1)
    assert (await play.op("c1")).state == "completed"
    assert not await play.known("c1")
    assert await play.known("c2")
    assert play.at_vendor == [("c1", "done")]
    assert play.subjects == []


async def test_only_a_flip_from_granted_to_revoked_asks_for_a_deletion(play: Play) -> None:
    body = {"id": "c1", "name": "Ann", "consent": "revoked"}
    assert (await play.clerk.post("/customers", json=body)).status_code == 201
    await play.create("c2")
    await play.clerk.patch("/customers/c1", json={"name": "Anna"})
    await play.clerk.patch("/customers/c2", json={"name": "Ben"})
    await play.harness.run_until_idle()
    assert play.vendor.deletions == {}
    await play.clerk.put("/customers/c2", json={"name": "Ben", "consent": "revoked"})
    await play.harness.run_until_idle()
    assert play.at_vendor == [("c2", "pending")]


async def test_polls_are_hourly_and_a_person_may_poll_by_the_same_topic(play: Play) -> None:
    await play.create("c1", "c2", "c3")
    play.misbehave(Kind.STUCK)
    await play.revoke("c1", "c2", "c3")
    polls = []
    for _ in range(24):
        await play.pass_time(hours=1)
        polls.append(play.vendor.calls["poll"])
    assert polls == [3 * hour for hour in range(1, 25)]
    await play.pass_time(minutes=10)
    await poll_now.publish({})
    await play.harness.run_until_idle()
    assert play.vendor.calls["poll"] == 75


async def test_three_days_late_is_told_once_with_operation_and_customer(play: Play) -> None:
    await play.create("c1")
    play.misbehave(Kind.STUCK)
    await play.revoke("c1")
    id = (await play.op("c1")).id
    await play.pass_time(days=2, hours=23, minutes=59)
    assert play.subjects == []
    await play.pass_time(minutes=1)
    assert play.subjects == [f"The deletion of c1 is overdue (operation {id})"]
    assert id in play.harness.mail[0].text
    await play.pass_time(days=4)
    assert len(play.subjects) == 1
    assert (await play.op("c1")).standing == "overdue"
    play.behave()
    await play.pass_time(hours=1)
    assert (await play.op("c1")).state == "completed"
    assert not await play.known("c1")


async def test_many_that_are_overdue_are_one_mail_and_a_digest_that_names_each(play: Play) -> None:
    ids = [f"c{n}" for n in range(20)]
    await play.create(*ids)
    play.misbehave(Kind.STUCK)
    await play.revoke(*ids)
    await play.pass_time(days=3, minutes=20)
    first, digest = play.harness.mail
    told = [id for id in ids if f"of {id} is overdue" in first.text + first.subject + digest.text]
    assert told == ids
    assert digest.subject.startswith("19 more: ")


async def test_without_the_contact_or_the_vendor_the_app_does_not_start() -> None:
    for missing in ("vendor_url", "vendor_token", "technical_contact"):
        settings = {name: value for name, value in SETTINGS.items() if name != missing}
        with pytest.raises(Exception, match=missing):
            async with Harness(app, settings={"erasure": settings}):
                pass


async def test_only_clerks_see_customers_and_nobody_deletes_one(play: Play) -> None:
    await play.create("c1")
    assert (await play.harness.client(app).get("/customers/c1")).status_code == 401
    reader = play.harness.client(app, token={"sub": "r", "roles": ["customers.read"]})
    assert (await reader.get("/customers/c1")).status_code == 200
    assert (await reader.patch("/customers/c1", json={"consent": "revoked"})).status_code == 403
    assert (await play.clerk.delete("/customers/c1")).status_code == 405
    named = {"id": "ann@people.example", "name": "Ann"}
    assert (await play.clerk.post("/customers", json=named)).status_code == 422


# Consent granted again


CALLS = "erasure/deletions-calls"


async def test_granted_before_the_vendor_knows_is_never_started(play: Play) -> None:
    await play.create("c1")
    engine = play.harness.supervisor.engine
    await engine.pause(CALLS, True)
    await play.revoke("c1")
    await play.grant("c1")
    await engine.pause(CALLS, False)
    await play.pass_time(days=4)
    assert await play.state("c1") == "cancelled"
    assert play.vendor.calls == {"start": 0, "poll": 0, "cancel": 0}
    assert await play.known("c1")
    assert play.subjects == []


async def test_granted_and_revoked_before_the_vendor_hears_of_it_goes_on(play: Play) -> None:
    await play.create("c1")
    await play.revoke("c1")
    engine = play.harness.supervisor.engine
    await engine.pause(CALLS, True)
    await play.grant("c1")
    await play.revoke("c1")
    await engine.pause(CALLS, False)
    await play.pass_time(hours=5)
    assert play.at_vendor == [("c1", "done")]
    assert play.vendor.calls["cancel"] == 0
    assert not await play.known("c1")


async def test_granted_while_the_vendor_has_it_pending_cancels(play: Play) -> None:
    await play.create("c1")
    await play.revoke("c1")
    await play.grant("c1")
    assert await play.state("c1") == "cancelled"
    assert play.at_vendor == [("c1", "cancelled")]
    await play.pass_time(days=4)
    assert await play.known("c1")
    assert play.subjects == []


async def test_granted_when_it_is_done_and_not_yet_polled_keeps_the_customer_too(play: Play) -> None:
    play.vendor.work_s = 3.5 * 3600
    await play.create("c1")
    await play.revoke("c1")
    await play.pass_time(hours=3, minutes=45)
    assert play.at_vendor == [("c1", "done")]
    await play.grant("c1")
    await play.pass_time(hours=1)
    assert await play.known("c1")
    assert len(play.mails("had granted the consent again")) == 1


async def test_granted_too_late_keeps_the_customer_here_and_tells_the_contact(play: Play) -> None:
    await play.create("c1")
    await play.revoke("c1")
    await play.pass_time(hours=3)
    await play.grant("c1")
    op = await play.op("c1")
    assert (op.state, op.cancel_refused) == ("pending", True)
    await play.pass_time(hours=2)
    assert await play.state("c1") == "completed"
    customer = await customers.get("c1")
    assert customer is not None
    assert (customer.name, customer.consent) == ("Name of c1", "granted")
    assert play.subjects == [f"c1 was deleted, and had granted the consent again (operation {op.id})"]


async def test_revoked_granted_and_revoked_is_one_deletion_or_a_second_after_a_cancelled_one(play: Play) -> None:
    await play.create("early", "late")
    await play.revoke("late")
    await play.pass_time(hours=3)
    await play.grant("late")
    await play.revoke("late")
    await play.revoke("early")
    await play.grant("early")
    await play.revoke("early")
    await play.pass_time(hours=5)
    assert play.at_vendor == [("late", "done"), ("early", "cancelled"), ("early", "done")]
    assert not await play.known("late")
    assert not await play.known("early")
    assert play.subjects == []


async def test_granted_again_after_a_deletion_a_revocation_deletes_again(play: Play) -> None:
    await play.create("c1")
    await play.revoke("c1")
    await play.pass_time(hours=3)
    await play.grant("c1")
    await play.pass_time(hours=2)
    await play.revoke("c1")
    await play.pass_time(hours=5)
    assert play.at_vendor == [("c1", "done"), ("c1", "done")]
    assert not await play.known("c1")


async def test_a_cancellation_whose_answer_was_lost_is_repeated(play: Play) -> None:
    await play.create("c1")
    await play.revoke("c1")
    play.misbehave(Kind.LOST_ANSWER, on=["cancel"], times=1)
    await play.grant("c1")
    assert await play.state("c1") == "started"
    await play.pass_time(hours=1)
    assert await play.state("c1") == "cancelled"
    assert await play.known("c1")


async def test_cancelled_at_the_vendor_and_revoked_again_meanwhile_is_requested_anew(play: Play) -> None:
    await play.create("c1")
    await play.revoke("c1")
    play.misbehave(Kind.LOST_ANSWER, on=["cancel"], times=1)
    await play.grant("c1")
    await play.revoke("c1")
    await play.pass_time(hours=6)
    assert play.at_vendor == [("c1", "cancelled"), ("c1", "done")]
    assert not await play.known("c1")
    assert play.subjects == []


async def test_what_the_vendor_cancels_of_its_own_accord_is_told(play: Play) -> None:
    await play.create("c1")
    await play.revoke("c1")
    play.vendor.deletions["del-000001"].cancelled = True
    await play.pass_time(days=4)
    op = await play.op("c1")
    assert op.state == "cancelled"
    assert play.subjects == [f"c1 is not deleted: the vendor has cancelled (operation {op.id})"]
    assert await play.known("c1")


async def test_a_flip_that_overtakes_another_changes_nothing(play: Play) -> None:
    """The handlers of the two flips have queues of their own: the later flip may be handled first."""
    await play.create("c1")
    engine = play.harness.supervisor.engine
    await engine.pause("erasure/regrant", True)
    await play.revoke("c1")
    await play.clerk.patch("/customers/c1", json={"consent": "granted"})
    await play.clerk.patch("/customers/c1", json={"consent": "revoked"})
    await play.harness.run_until_idle()
    await engine.pause("erasure/regrant", False)
    await play.pass_time(hours=6)
    assert play.at_vendor == [("c1", "done")]
    assert not await play.known("c1")
