"""The ledger: the records of one kind of operation, and the transitions between their states.

Each method adds to a unit of work: the record where it changes, the progress, and the operation's next message. They
are the same for the app, for the handler that calls the third party, and for a person at the admin API.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from headwater.catalog import IndexSpec, QueueSpec, RouteSpec, TableSpec
from headwater.codec import codec_for, encode_json
from headwater.engine import Engine, Query, Record
from headwater.errors import ConditionFailed, Conflict, InvalidValue
from headwater.events import Key, KeyPart
from headwater.ids import new_id
from headwater.loads import ALARMS
from headwater.operations.outcomes import Outcome
from headwater.operations.tracked import (
    ContractChange,
    Deadline,
    Due,
    Progress,
    State,
    Tracked,
    decode_raw,
    with_statistics,
)
from headwater.unit import Merge, Write
from headwater.work import RERUNS, UnitOfWork, back_off

TRIES = 1_000_000
"""Of the messages: an operation ends by its record, never in the dead letters."""
KEPT_MS = 520 * 7 * 86_400_000
SLICE = 100
Raw = Tracked[msgspec.Raw]
_decode_progress = codec_for(Progress).decode
_decode_contract = codec_for(ContractChange).decode


class Ledger:
    """`name` is the operation's, as app/name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.opened = f"{name}-open"
        self.contracts = f"{name}-contracts"
        self.calls = f"{name}-calls"
        self.deadlines = f"{name}-deadlines"
        self.notices = f"{name}-notices"

    @property
    def queues(self) -> tuple[str, ...]:
        return self.calls, self.deadlines, self.notices

    def table_specs(self) -> dict[str, TableSpec]:
        states = (IndexSpec("by-state", "state", "requested_ms"), IndexSpec("by-standing", "standing", "requested_ms"))
        due = (IndexSpec("due", "standing", "next_ms"), IndexSpec("by-contract", "contract", "subject"))
        return {
            self.name: TableSpec(
                name=self.name, partition="subject", sort="id", indexes=states, fields=Tracked.__struct_fields__
            ),
            self.opened: TableSpec(
                name=self.opened, partition="subject", indexes=due, images="none", fields=Progress.__struct_fields__
            ),
            self.contracts: TableSpec(name=self.contracts, partition="id", fields=ContractChange.__struct_fields__),
        }

    def queue_specs(self) -> list[QueueSpec]:
        return [QueueSpec(name=name, max_receives=TRIES, retention_ms=KEPT_MS) for name in self.queues]

    def notice_routes(self) -> list[RouteSpec]:
        """A contract change has begun or ended, or nobody is affected any more."""
        common = {"source": self.contracts, "target": self.notices, "group": "$subject"}
        return [
            RouteSpec(types=("inserted", "removed"), **common),  # type: ignore[arg-type]
            RouteSpec(types=("modified",), new={"affected": [0]}, **common),  # type: ignore[arg-type]
        ]

    # Reading

    async def progress(self, unit: UnitOfWork, subject: str) -> Progress | None:
        """Where the subject's open operation stands; None when it has none."""
        found = await unit.read(self.opened, (subject, ""))
        return None if found is None else _decode_progress(found.body)

    async def record(self, unit: UnitOfWork, key: Key) -> Raw | None:
        found = await unit.read(self.name, key)
        return None if found is None else decode_raw(found.body)

    async def of_open(self, unit: UnitOfWork, progress: Progress) -> Raw:
        found = await self.record(unit, (progress.subject, progress.id))
        if found is None:
            raise InvalidValue("the operation is open, and has no record", operation="read", resource=self.name)
        return found

    async def latest(self, engine: Engine, subject: str) -> Raw | None:
        """The subject's last operation, with its present figures."""
        page = await engine.query(Query(table=self.name, partition=subject, limit=1, reverse=True))
        return await self.present(engine, decode_raw(page.records[0].body)) if page.records else None

    async def present(self, engine: Engine, tracked: Raw) -> Raw:
        """The operation with its present figures."""
        opened = await engine.read(self.opened, (tracked.subject, ""))
        progress = None if opened is None else _decode_progress(opened.body)
        return with_statistics(tracked, progress) if progress is not None and progress.id == tracked.id else tracked

    async def change_of(self, engine: Engine, subject: str) -> ContractChange | None:
        """The contract change that the subject's open operation is affected by."""
        opened = await engine.read(self.opened, (subject, ""))
        contract = "" if opened is None else _decode_progress(opened.body).contract
        found = await engine.read(self.contracts, (contract, "")) if contract else None
        return None if found is None else _decode_contract(found.body)

    # Writing

    def save(self, unit: UnitOfWork, tracked: Raw, progress: Progress) -> Raw:
        """Write a transition: an event."""
        told = with_statistics(tracked, progress)
        unit.write(Write(self.name, (told.subject, told.id), unit.next_id(), encode_json(told)))
        return told

    def keep(self, unit: UnitOfWork, progress: Progress) -> None:
        unit.write(Write(self.opened, (progress.subject, ""), unit.next_id(), encode_json(progress)))

    def wake(
        self, unit: UnitOfWork, progress: Progress, now_ms: int, delay_ms: int = 0, *, paced: bool = False
    ) -> None:
        """Have the operation called after a delay; a message that was on its way has no effect any more."""
        progress.token += 1
        progress.next_ms = now_ms + delay_ms
        due = Due(subject=progress.subject, id=progress.id, token=progress.token, paced=paced)
        self._send(unit, self.calls, due, delay_ms)
        self.keep(unit, progress)

    def rest(self, unit: UnitOfWork, progress: Progress) -> None:
        """Have nothing called until a person decides."""
        progress.token += 1
        progress.next_ms = None
        self.keep(unit, progress)

    def end(self, unit: UnitOfWork, tracked: Raw, progress: Progress, state: State, now_ms: int, **changes: Any) -> Raw:
        """The operation has ended: its progress goes, what it was affected by, too."""
        self.leave_contract(unit, progress)
        unit.write(Write(self.opened, (progress.subject, ""), unit.next_id()))
        if tracked.overdue:
            self.alarm(unit, "operation-overdue", tracked, f"it has ended: {state}", "ok")
        if tracked.state == "in_doubt":
            self.alarm(unit, "operation-in-doubt", tracked, f"it has ended: {state}", "ok")
        progress.next_ms = None
        ended = msgspec.structs.replace(tracked, state=state, standing="", ended_ms=now_ms, **changes)
        return self.save(unit, ended, progress)

    def doubt(self, unit: UnitOfWork, tracked: Raw, progress: Progress, why: str) -> None:
        """Nobody here can tell whether the operation was started: a person has to."""
        self.rest(unit, progress)
        told = self.save(unit, msgspec.structs.replace(tracked, state="in_doubt", detail=why), progress)
        self.alarm(unit, "operation-in-doubt", told, why)

    def alarm(
        self, unit: UnitOfWork, name: str, tracked: Raw, detail: str, state: Literal["alarm", "ok"] = "alarm"
    ) -> None:
        self.tell(unit, name, f"{self.name}/{tracked.subject}", f"{detail} (operation {tracked.id})", state)

    def tell(self, unit: UnitOfWork, name: str, resource: str, detail: str, state: Literal["alarm", "ok"]) -> None:
        alarm = {"name": name, "resource": resource, "detail": detail, "state": state}
        unit.publish(ALARMS, encode_json(alarm), {})

    def leave_contract(self, unit: UnitOfWork, progress: Progress) -> None:
        """Count the operation no more as affected by a contract change."""
        if progress.contract:
            unit.merge(self.contracts, (progress.contract, ""), Merge({"id": progress.contract}, {"affected": -1}))
            progress.contract = ""

    async def meet_contract(self, unit: UnitOfWork, progress: Progress, outcome: Outcome, now_ms: int) -> None:
        """Count the operation as affected by this contract change. The count is blind: nobody waits for another."""
        if progress.contract == outcome.fingerprint:
            return
        self.leave_contract(unit, progress)
        progress.contract = outcome.fingerprint
        key = (outcome.fingerprint, "")
        present = await unit.read(self.contracts, key, validate=False)
        seen: dict[str, Any] = {"id": outcome.fingerprint}
        if present is None or not _decode_contract(present.body).problem:
            seen |= {
                "operation": self.name,
                "call": outcome.fingerprint.partition("-")[0],
                "problem": outcome.error,
                "status": outcome.status,
                "answer": outcome.answer,
                "headers": outcome.headers,
                "subject": progress.subject,
                "operation_id": progress.id,
                "seen_ms": now_ms,
            }
        unit.merge(self.contracts, key, Merge(seen, {"affected": 1}))

    def _send(self, unit: UnitOfWork, queue: str, message: Due | Deadline, delay_ms: int) -> None:
        unit.send(queue, encode_json(message), group=None, dedup="", delay_ms=delay_ms, unordered=True)

    # What an app or a person asks for

    async def request(self, unit: UnitOfWork, subject: str, request: bytes, overdue_ms: int) -> str:
        """Start an operation, or join the open one; its id."""
        now_ms = await unit.engine.now_ms()
        progress = await self.progress(unit, subject)
        if progress is not None:
            tracked = await self.of_open(unit, progress)
            if tracked.cancel_requested_ms:
                progress.rejoined, progress.stopping = True, False
                self.save(unit, msgspec.structs.replace(tracked, cancel_requested_ms=0), progress)
                self.keep(unit, progress)
            return progress.id
        tracked = Tracked(
            subject=subject,
            id=new_id(),
            request=msgspec.Raw(request),
            requested_ms=now_ms,
            deadline_ms=now_ms + overdue_ms,
        )
        progress = Progress(subject=subject, id=tracked.id)
        self.wake(unit, progress, now_ms)
        self.save(unit, tracked, progress)
        self._send(unit, self.deadlines, Deadline(subject=subject, id=tracked.id), overdue_ms)
        return tracked.id

    async def cancel(self, unit: UnitOfWork, subject: str, *, force: bool = False) -> bool:
        """End what the third party cannot know of, else ask it to stop; False when nothing is open."""
        progress = await self.progress(unit, subject)
        if progress is None:
            return False
        now_ms = await unit.engine.now_ms()
        tracked = await self.of_open(unit, progress)
        wish = {"cancel_requested_ms": tracked.cancel_requested_ms or now_ms}
        if force or not (progress.may_run or tracked.external_id):
            detail = "by a person, whatever the third party does" if force else "before it was started"
            self.end(unit, tracked, progress, "cancelled", now_ms, detail=detail, **wish)
        elif not tracked.cancel_requested_ms:
            self.save(unit, msgspec.structs.replace(tracked, **wish), progress)
            if tracked.external_id:
                self.wake(unit, progress, now_ms)
            else:
                self.keep(unit, progress)
        return True

    async def poll(self, unit: UnitOfWork, subject: str) -> bool:
        """Have the subject's open operation called now; False when nothing is open or a person has to decide."""
        progress = await self.progress(unit, subject)
        if progress is None or (await self.of_open(unit, progress)).state == "in_doubt":
            return False
        self.wake(unit, progress, await unit.engine.now_ms())
        return True

    async def retry(self, unit: UnitOfWork, subject: str, external_id: str = "") -> str:
        """What a person decides: of one in doubt, that it was started with this id or is to be started (again); an
        ended one is requested anew. The operation's id. Raises `ConditionFailed` for an open one that is in no doubt.
        """
        progress = await self.progress(unit, subject)
        if progress is None:
            return await self._request_anew(unit, subject, external_id)
        tracked, now_ms = await self.of_open(unit, progress), await unit.engine.now_ms()
        if tracked.state != "in_doubt":
            hint = "`headwater op poll` has it called now"
            raise ConditionFailed(f"the operation is {tracked.state}", operation="retry", resource=subject, hint=hint)
        changes: dict[str, Any] = {"state": "requested", "detail": ""}
        if external_id:
            changes = {"state": "started", "detail": "", "external_id": external_id, "started_ms": now_ms}
        else:
            progress.may_run = False
        self.alarm(unit, "operation-in-doubt", tracked, "a person has decided", "ok")
        progress.failures = 0
        self.wake(unit, progress, now_ms)
        self.save(unit, msgspec.structs.replace(tracked, **changes), progress)
        return tracked.id

    async def _request_anew(self, unit: UnitOfWork, subject: str, external_id: str) -> str:
        last = await self.latest(unit.engine, subject)
        if last is None or external_id or last.state == "completed":
            why = "has completed" if last and last.state == "completed" else "is not in doubt" if last else "is unknown"
            raise ConditionFailed(f"the operation {why}", operation="retry", resource=f"{self.name} {subject}")
        return await self.request(unit, subject, bytes(last.request), last.deadline_ms - last.requested_ms)

    async def poll_due(self, engine: Engine) -> int:
        """Have all operations called now that wait for their next call, in slices; how many.

        What is called meanwhile, and waits for its next call again, is beyond `high` or marked with this sweep's time.
        """
        now_ms = await engine.now_ms()
        polled = 0
        for standing in ("open", "overdue"):
            waiting = Query(table=self.opened, index="due", partition=standing, limit=SLICE)
            last = await engine.query(msgspec.structs.replace(waiting, limit=1, reverse=True))
            if not last.records:
                continue
            high = _decode_progress(last.records[0].body).next_ms
            after: tuple[KeyPart, ...] | None = (standing, now_ms + 1, "", "")
            while after is not None:
                page = await engine.query(msgspec.structs.replace(waiting, high=high, after=after))
                polled += await self._wake_slice(engine, page.records, now_ms)
                after = page.next
        return polled

    async def _wake_slice(self, engine: Engine, records: Sequence[Record], now_ms: int) -> int:
        for again in range(RERUNS + 1):
            unit = UnitOfWork(engine)
            for record in records:
                progress = await self.progress(unit, record.key[0])
                if progress is not None and (progress.next_ms or 0) > now_ms and progress.swept_ms != now_ms:
                    progress.swept_ms = now_ms
                    self.wake(unit, progress, now_ms)
            woken = len(unit.own_writes(self.opened))
            try:
                if woken:
                    await unit.commit()
            except Conflict:
                await back_off(again)
            else:
                return woken
        return 0
