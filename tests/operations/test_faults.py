"""What a third party does wrong, and what becomes of operations: late answers, errors, changed answers, crashes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import msgspec
import pytest

from headwater import ConditionFailed, Operation
from headwater.operations.tracked import Tracked
from headwater.runtime.admin import Admin
from headwater.testing import Harness
from tests.operations.vendor import Answer, Deletion, Vendor, alarms, make_app, record_events
from tests.patience import PATIENCE_S

Answers = tuple[int, dict[str, str], Any] | Exception


def answering(method: str, answer: Answers) -> Callable[[Vendor, str, str], Answers | None]:
    return lambda vendor, asked, path: answer if asked == method else None


async def state_of(deletions: Operation[Deletion, Answer], subject: str = "ann") -> Tracked[Deletion]:
    found = await deletions.get(subject)
    assert found is not None
    return found


ERRORS: dict[str, Answers] = {
    "500": (500, {}, "oops"),
    "502": (502, {}, "<html>"),
    "429": (429, {}, {}),
    "429 later": (429, {"retry-after": "120"}, {}),
    "503 later": (503, {"retry-after": "Fri, 02 Jan 2026 00:00:00 GMT"}, {}),
    "read time-out": httpx.ReadTimeout("slow"),
    "connect": httpx.ConnectError("refused"),
    "protocol": httpx.RemoteProtocolError("cut"),
    "404": (404, {}, {}),
    "401": (401, {}, {}),
    "302": (302, {"location": "/elsewhere"}, ""),
    "html": (200, {}, "<html>maintenance</html>"),
    "empty": (200, {}, ""),
    "renamed": (200, {}, {"state": "done"}),
    "new word": (200, {}, {"status": "archived"}),
    "wrong type": (200, {}, {"status": 3}),
    "text for a number": (200, {}, {"status": "pending", "priority": "3"}),
    "bug": KeyError("in on_poll"),
}


@pytest.mark.parametrize("fault", ERRORS)
@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_no_fault_loses_an_operation(method: str, fault: str) -> None:
    app, deletions = make_app()
    vendor = Vendor()
    vendor.bend = answering(method, ERRORS[fault])
    async with Harness(app, services={"vendor": vendor}) as h:
        await deletions.request("ann", Deletion(customer_id="ann"))
        await h.advance(hours=8)
        waiting = await state_of(deletions)
        assert waiting.state == ("requested" if method == "POST" else "started")
        assert 4 < vendor.calls[method] < 40
        vendor.bend = lambda vendor, method, path: None
        await h.advance(hours=3)
        assert (await state_of(deletions)).state == "pending"
        vendor.finish()
        await h.advance(hours=2)
        assert (await state_of(deletions)).state == "completed"
        assert len(vendor.deletions) == 1
        assert await h.dead_letters() == []


@pytest.mark.parametrize("fault", ["429 later", "503 later"])
async def test_a_pause_is_kept_by_all_operations_of_the_third_party(fault: str) -> None:
    app, deletions = make_app(concurrency=4)
    vendor = Vendor()
    pauses: dict[str, Answers] = {
        "429 later": (429, {"retry-after": "1800"}, {}),
        "503 later": (503, {"retry-after": "Thu, 01 Jan 2026 00:30:00 GMT"}, {}),
    }
    async with Harness(app, services={"vendor": vendor}) as h:
        for n in range(100):
            await deletions.request(f"c{n}", Deletion(customer_id=f"c{n}"))
        await h.run_until_idle()
        vendor.bend = answering("GET", pauses[fault])
        await deletions.poll_due()
        await h.run_until_idle()
        assert 1 <= vendor.calls["GET"] <= 8, "those under way when the first answer came are refused, too"
        asked = vendor.calls["GET"]
        await deletions.poll_due()
        await h.advance(minutes=29)
        assert vendor.calls["GET"] == asked
        vendor.bend = lambda vendor, method, path: None
        await h.advance(minutes=8)
        assert vendor.calls["GET"] >= asked + 100


async def test_calls_keep_to_the_rate() -> None:
    app, deletions = make_app(rate=10)
    vendor = Vendor()
    async with Harness(app, services={"vendor": vendor}) as h:
        for n in range(100):
            await deletions.request(f"c{n}", Deletion(customer_id=f"c{n}"))
        await h.run_until_idle()
        assert vendor.calls["POST"] == 10
        await h.advance(seconds=4)
        assert vendor.calls["POST"] == 50
        await h.advance(seconds=5)
        assert vendor.calls["POST"] == 100


async def test_calls_at_once_are_bounded() -> None:
    app, deletions = make_app(concurrency=3)
    present, most = 0, 0

    class Counting(Vendor):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            nonlocal present, most
            present += 1
            most = max(most, present)
            await asyncio.sleep(0.005)
            await super().__call__(scope, receive, send)
            present -= 1

    async with Harness(app, services={"vendor": Counting()}) as h:
        async with app.transaction():
            for n in range(40):
                await deletions.request(f"c{n}", Deletion(customer_id=f"c{n}"))
        await h.run_until_idle()
        assert most == 3


# Contract changes


async def test_a_contract_change_is_told_once_counted_and_ends() -> None:
    app, deletions = make_app()
    vendor = Vendor()
    told = record_events(app, changed=deletions.contract_changed)
    async with Harness(app, services={"vendor": vendor}) as h:
        for n in range(20):
            await deletions.request(f"c{n}", Deletion(customer_id=f"c{n}"))
        await h.advance(minutes=1)
        vendor.bend = answering("GET", (200, {"x-secret": "s3cret", "server": "v2"}, {"status": "archived"}))
        await h.advance(hours=5)
        (change,) = (await deletions.contracts.query()).items
        assert change.affected == 20
        assert (change.status, change.answer, change.call) == (200, '{"status": "archived"}', "poll")
        assert change.headers["server"] == "v2"
        assert "s3cret" not in str(change)
        assert change.problem == "status: Input should be 'pending', 'done', 'rejected' or 'cancelled'"
        assert [name for name, _ in told] == ["changed"]
        assert {one.state for one in (await deletions.query("open")).items} == {"started"}
        vendor.bend = lambda vendor, method, path: None
        await h.advance(hours=2)
        assert (await deletions.contracts.query()).items == []
        assert await alarms(h) == [("contract-changed", "alarm"), ("contract-changed", "ok")]
        vendor.bend = answering("GET", (200, {}, {"status": "archived"}))
        await h.advance(hours=2)
        assert [name for name, _ in told] == ["changed", "changed"]


async def test_it_lasts_until_the_last_affected_operation_is_right() -> None:
    app, deletions = make_app()
    vendor = Vendor()
    async with Harness(app, services={"vendor": vendor}) as h:
        for n in range(3):
            await deletions.request(f"c{n}", Deletion(customer_id=f"c{n}"))
        await h.run_until_idle()
        vendor.deletions |= {"d1": "archived", "d2": "archived"}
        await h.advance(hours=2)
        assert [change.affected for change in (await deletions.contracts.query()).items] == [2]
        vendor.deletions["d1"] = "pending"
        await h.advance(hours=2)
        assert [change.affected for change in (await deletions.contracts.query()).items] == [1]
        admin = Admin(h.supervisor.engine, h.supervisor)
        await admin.call("op-cancel", {"kind": "erasure/deletions", "subject": "c1", "force": True})
        await h.run_until_idle()
        assert (await deletions.contracts.query()).items == []


async def test_kinds_of_change_are_told_apart() -> None:
    app, deletions = make_app()
    vendor = Vendor()
    told = record_events(app, changed=deletions.contract_changed)
    kinds: list[Answers] = [
        (200, {}, {"status": "archived"}),
        (200, {}, {"status": "gone"}),
        (200, {}, {"state": "done"}),
        (404, {}, {}),
        (200, {}, "<html>"),
    ]
    async with Harness(app, services={"vendor": vendor}) as h:
        await deletions.request("ann", Deletion(customer_id="ann"))
        await h.advance(minutes=1)
        for kind in kinds:
            vendor.bend = answering("GET", kind)
            await h.advance(hours=2)
        assert len(told) == 4, "two unknown words in the same place are one kind of change"
        assert len((await deletions.contracts.query()).items) == 1


async def test_a_redeploy_that_understands_the_answers_ends_the_change() -> None:
    class Newer(Answer):
        status: Any = "pending"

    vendor = Vendor()
    app, deletions = make_app()
    async with Harness(app, services={"vendor": vendor}) as h:
        await deletions.request("ann", Deletion(customer_id="ann"))
        await h.advance(minutes=1)
        vendor.deletions["d1"] = "archived"
        await h.advance(hours=2)
        deletions._reader._decode = Newer.model_validate_json
        await h.restart()
        await h.advance(hours=2)
        assert (await state_of(deletions)).state == "pending"
        assert (await deletions.contracts.query()).items == []


async def test_what_on_answer_raises_is_told() -> None:
    app, deletions = make_app()
    vendor = Vendor()

    @deletions.on_answer
    def judge(answer: Answer) -> Any:
        return {"done": "completed"}[answer.status]

    async with Harness(app, services={"vendor": vendor}) as h:
        await deletions.request("ann", Deletion(customer_id="ann"))
        await h.advance(hours=2)
        (change,) = (await deletions.contracts.query()).items
        assert change.problem == "on_answer raised KeyError: 'pending'"
        vendor.finish()
        await h.advance(hours=1)
        assert (await state_of(deletions)).state == "completed"


# Starts


async def test_accepted_and_timed_out_is_one_deletion() -> None:
    app, deletions = make_app()
    vendor = Vendor()
    vendor.after = answering("POST", httpx.ReadTimeout("slow"))
    async with Harness(app, services={"vendor": vendor}) as h:
        await deletions.request("ann", Deletion(customer_id="ann"))
        await h.advance(minutes=5)
        assert vendor.calls["POST"] > 1
        assert (await state_of(deletions)).state == "requested"
        vendor.after = lambda vendor, method, path: None
        await h.advance(minutes=10)
        assert (await state_of(deletions)).state == "started"
        assert vendor.deletions == {"d1": "pending"}


DOUBTFUL: list[Answers] = [httpx.ReadTimeout("slow"), (500, {}, ""), (202, {}, {"name": "no id"}), KeyError("bug")]
CERTAIN: list[Answers] = [httpx.ConnectError("refused"), (429, {}, {}), (422, {}, {})]


@pytest.mark.parametrize("fault", DOUBTFUL, ids=repr)
async def test_without_idempotency_what_may_have_been_started_is_in_doubt(fault: Answers) -> None:
    app, deletions = make_app(idempotent=False)
    vendor, told = Vendor(), record_events(app, doubt=deletions.in_doubt)
    vendor.keyed = False
    vendor.after = answering("POST", fault)
    async with Harness(app, services={"vendor": vendor}) as h:
        await deletions.request("ann", Deletion(customer_id="ann"))
        await h.advance(days=1)
        assert (await state_of(deletions)).state == "in_doubt"
        assert vendor.calls == {"POST": 1}
        assert told == [("doubt", "ann")]
        assert [one.subject for one in (await deletions.query("in_doubt")).items] == ["ann"]
        assert await deletions.poll_due() == 0
        admin = Admin(h.supervisor.engine, h.supervisor)
        decision = {"kind": "erasure/deletions", "subject": "ann", "external_id": "d1"}
        vendor.finish()
        await admin.call("op-retry", decision)
        await h.run_until_idle()
        assert (await state_of(deletions)).state == "completed"
        assert vendor.calls["POST"] == 1
        doubt = [state for name, state in await alarms(h) if name == "operation-in-doubt"]
        assert doubt == ["alarm", "ok"]
        with pytest.raises(ConditionFailed):
            await admin.call("op-retry", decision)


@pytest.mark.parametrize("fault", CERTAIN, ids=repr)
async def test_without_idempotency_what_was_refused_is_started_again(fault: Answers) -> None:
    app, deletions = make_app(idempotent=False)
    vendor = Vendor()
    vendor.bend = answering("POST", fault)
    async with Harness(app, services={"vendor": vendor}) as h:
        await deletions.request("ann", Deletion(customer_id="ann"))
        await h.advance(hours=1)
        assert vendor.calls["POST"] > 1
        vendor.bend = lambda vendor, method, path: None
        await h.advance(hours=1)
        assert (await state_of(deletions)).state in ("started", "pending")
        assert len(vendor.deletions) == 1


async def test_a_person_has_one_in_doubt_started_again() -> None:
    app, deletions = make_app(idempotent=False)
    vendor = Vendor()
    vendor.bend = answering("POST", httpx.ReadTimeout("slow"))
    async with Harness(app, services={"vendor": vendor}) as h:
        id = await deletions.request("ann", Deletion(customer_id="ann"))
        await h.run_until_idle()
        vendor.bend = lambda vendor, method, path: None
        admin = Admin(h.supervisor.engine, h.supervisor)
        await admin.call("op-retry", {"kind": "erasure/deletions", "subject": "ann"})
        await h.run_until_idle()
        found = await state_of(deletions)
        assert (found.id, found.state) == (id, "started")


async def test_a_failed_one_is_requested_anew() -> None:
    app, deletions = make_app()
    vendor = Vendor()
    async with Harness(app, services={"vendor": vendor}) as h:
        id = await deletions.request("ann", Deletion(customer_id="ann"))
        await h.run_until_idle()
        vendor.finish("rejected")
        await h.advance(hours=1)
        assert (await state_of(deletions)).state == "failed"
        admin = Admin(h.supervisor.engine, h.supervisor)
        again = await admin.call("op-retry", {"kind": "erasure/deletions", "subject": "ann"})
        assert again["operation"]["id"] != id
        await h.run_until_idle()
        assert len(vendor.deletions) == 2


# Crashes: the process dies at each point of a call


class Dying(Vendor):
    """The process dies before or after the vendor has done what it was asked, at the call of a number."""

    def __init__(self, method: str, *, after: bool) -> None:
        super().__init__()
        self.method, self.when_done = method, after
        self.reached = asyncio.Event()
        self.died = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["method"] == self.method and not self.died:
            self.died = True

            async def lost(message: Any) -> None:
                pass

            if self.when_done:
                await super().__call__(scope, receive, lost)
            self.reached.set()
            await asyncio.Event().wait()
        await super().__call__(scope, receive, send)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("method", ["POST", "GET"])
@pytest.mark.parametrize("idempotent", [True, False], ids=["idempotent", "not"])
async def test_the_process_dies_during_a_call(method: str, after: bool, idempotent: bool) -> None:
    app, deletions = make_app(idempotent=idempotent)
    vendor = Dying(method, after=after)
    vendor.keyed = idempotent
    async with Harness(app, services={"vendor": vendor}) as h:
        await deletions.request("ann", Deletion(customer_id="ann"))
        if method == "GET":
            await h.run_until_idle()
            await deletions.poll("ann")
        await asyncio.wait_for(vendor.reached.wait(), PATIENCE_S)
        await h.crash()
        await h.run_until_idle()
        if method == "POST" and not idempotent:
            assert (await state_of(deletions)).state == "in_doubt"
            assert len(vendor.deletions) == int(after)
            return
        vendor.finish()
        await h.advance(hours=2)
        assert (await state_of(deletions)).state == "completed"
        assert len(vendor.deletions) == 1
        assert sum(bool(queue) for queue in await h.messages("erasure/deletions-calls")) == 0


async def test_an_answer_is_not_asked_for_again_after_a_conflict() -> None:
    app, deletions = make_app()
    reached, go_on = asyncio.Event(), asyncio.Event()

    class Slow(Vendor):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await super().__call__(scope, receive, send)
            if scope["method"] == "GET":
                reached.set()
                await go_on.wait()

    vendor = Slow()
    async with Harness(app, services={"vendor": vendor}) as h:
        await deletions.request("ann", Deletion(customer_id="ann"))
        await h.run_until_idle()
        vendor.finish()
        commit = h.supervisor.engine.commit
        meddled = 0

        def meddling(unit: Any) -> Any:
            """Just before the answer is noted somebody else writes the record."""
            nonlocal meddled
            if unit.settles and any(write.table.endswith("-open") for write in unit.writes) and meddled < 2:
                meddled += 1
                unit.reads = [msgspec.structs.replace(read, version="another") for read in unit.reads]
            return commit(unit)

        h.supervisor.engine.commit = meddling  # type: ignore[method-assign, assignment]
        await deletions.poll("ann")
        await reached.wait()
        go_on.set()
        await h.run_until_idle()
        assert meddled == 2
        assert (await state_of(deletions)).state == "completed"
        assert vendor.calls["GET"] == 1
