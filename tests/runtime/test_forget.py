"""`table.forget`: a durable erasure that ends by itself, across handlers, crashes and messages that wait."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from headwater import App, Event, Modified, Queue, Removed, Table, anyone
from headwater.applying import forgetting
from headwater.engine import Question
from headwater.erasures import Erasure, erasure_of
from headwater.errors import InvalidValue
from headwater.mail import Mail
from headwater.runtime.admin import Admin
from headwater.testing import Harness
from headwater.tracing import Span

TOKEN = "ann-7f3a-private"


class Person(BaseModel):
    id: str
    text: str = ""


class Note(BaseModel):
    person: str
    n: int
    of: str = ""


class Clinic:
    """An app with people, notes on them, a queue that nobody handles, and what its handlers have seen."""

    def __init__(self) -> None:
        self.app = App("clinic")
        self.people: Table[Person] = self.app.table("people", Person, key="id")
        self.notes: Table[Note] = self.app.table("notes", Note, key=("person", "n"), indexes={"of": "of"})
        self.parked: Queue[dict[str, Any]] = self.app.queue("parked")
        self.seen: list[Any] = []
        self.app.on(self.people)(self.follow)
        self.app.expose(self.people, "/people", read=anyone(), write=anyone())

    async def follow(self, change: Any) -> None:
        self.seen.append(change)
        if isinstance(change, Modified) and change.new.text == "fail":
            raise ValueError(f"cannot follow {change.new.id}")


@pytest.fixture
def clinic() -> Clinic:
    return Clinic()


def found(folder: Path, token: str = TOKEN) -> list[str]:
    return [path.name for path in folder.iterdir() if path.is_file() and token.encode() in path.read_bytes()]


async def live(clinic: Clinic, h: Harness) -> None:
    """A person's life: rows, changes, a failure that ends as a dead letter, an answer that is kept."""
    client = h.client(clinic.app)
    await client.post("/people", json={"id": TOKEN, "text": TOKEN * 50}, headers={"Idempotency-Key": "k"})
    await clinic.people.put(Person(id="bob", text="stays"))
    await clinic.people.put(Person(id=TOKEN, text="fail"))
    for n in range(3):
        await clinic.notes.put(Note(person=TOKEN, n=n, of=TOKEN))
    await h.run_until_idle()
    await h.advance(minutes=10)
    assert len(await h.dead_letters()) == 1


async def done(h: Harness, id: str) -> Erasure:
    erasure = await erasure_of(h.supervisor.engine, id)
    assert erasure is not None
    assert erasure.state == "done", erasure
    return erasure


async def test_a_person_is_forgotten_everywhere_and_in_the_files(clinic: Clinic, tmp_path: Path) -> None:
    async with Harness(clinic.app, store=tmp_path) as h:
        await live(clinic, h)
        trace = (await clinic.people.history("bob"))[0].trace
        system = h.supervisor.system
        (own, *_) = await clinic.people.history(TOKEN)
        mail: dict[str, Any] = {
            "queue": "q",
            "to": "ops@example.org",
            "subject": f"On {TOKEN}",
            "html": "",
            "events": [],
        }
        for id, mailed, text in (
            ("m1", own.trace, f"says {TOKEN}."),
            ("m2", trace, f"says {TOKEN}"),
            ("m3", own.trace, ""),
        ):
            row = Mail(id=id, traces=[mailed], text=text, state="sent", created_ms=0, **mail | {"subject": text})
            await system.mails.put(row)
        await system.spans.put(Span(trace=own.trace, id="s1", kind="attempt", name="x", app="clinic", error=TOKEN))
        assert "store.db-wal" in found(tmp_path)
        id = await clinic.people.forget(TOKEN, also=[(clinic.notes, "of")])
        assert await clinic.people.get(TOKEN) is None
        assert (await clinic.notes.query(TOKEN)).items == []
        await h.run_until_idle()
        await h.advance(minutes=2)
        erasure = await done(h, id)
        assert (erasure.rows, erasure.dead_letters, erasure.claims, erasure.mails) == (4, 1, 1, 1)
        assert erasure.events == 9
        assert erasure.spans >= 1
        assert TOKEN not in repr(erasure)
        removed = clinic.seen[-1]
        assert isinstance(removed, Removed)
        assert (removed.subject, removed.old, removed.expired) == (TOKEN, None, False)
        assert await clinic.people.history(TOKEN) == []
        assert len(await clinic.people.history("bob")) == 1
        mails = {row.id: row.text for row in (await system.mails.query()).items}
        assert mails == {"m1": "redacted", "m2": f"says {TOKEN}", "m3": ""}
        await system.mails.delete("m2")
        assert await h.supervisor.engine.scrub()
        assert found(tmp_path) == []
        assert found(tmp_path, "stays") == ["store.db"]
        assert await h.supervisor.engine.check() == []
    assert found(tmp_path) == []


async def test_forgetting_is_part_of_the_unit_of_work(clinic: Clinic) -> None:
    queue = clinic.app.queue("leaving", dict)
    attempts: list[int] = []

    @clinic.app.on(queue)
    async def leave(event: Event[dict[str, Any]]) -> None:
        await clinic.people.forget(event.data["id"])
        attempts.append(1)
        if len(attempts) < 3:
            raise ValueError("not yet")

    async with Harness(clinic.app) as h:
        await clinic.people.put(Person(id=TOKEN))
        await queue.send({"id": TOKEN})
        await h.run_until_idle()
        assert await clinic.people.erasures() == []
        assert await clinic.people.get(TOKEN) is not None
        await h.advance(minutes=5)
        (erasure,) = await clinic.people.erasures()
        await done(h, erasure.id)
        assert len(attempts) == 3


async def test_messages_are_delivered_first_for_a_day_and_then_withdrawn(clinic: Clinic) -> None:
    async with Harness(clinic.app) as h:
        async with clinic.app.transaction():
            await clinic.people.put(Person(id=TOKEN))
            await clinic.parked.send({"who": TOKEN})
        id = await clinic.people.forget(TOKEN)
        await h.advance(hours=23)
        erasure = await erasure_of(h.supervisor.engine, id)
        assert erasure is not None
        assert (erasure.state, erasure.waiting) == ("redacting", 1)
        assert len(await h.messages(clinic.parked)) == 1
        await h.advance(hours=2)
        erasure = await done(h, id)
        assert (erasure.messages, erasure.waiting) == (1, 0)
        assert await h.messages(clinic.parked) == []


@pytest.mark.parametrize("fails", range(1, 9))
async def test_a_crash_at_any_slice_only_delays_it(
    clinic: Clinic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: int
) -> None:
    monkeypatch.setattr(forgetting, "SLICE", 2)
    async with Harness(clinic.app, store=tmp_path) as h:
        await live(clinic, h)
        engine = h.supervisor.engine
        commit, left = engine.commit, iter(range(fails))

        def failing(work: Any) -> Any:
            if work.redactions and next(left, None) is None:
                raise ConnectionError("the process dies here")
            return commit(work)

        monkeypatch.setattr(engine, "commit", failing)
        id = await clinic.people.forget(TOKEN, also=[clinic.notes])
        await h.advance(seconds=1)
        await h.crash()
        await h.run_until_idle()
        await h.advance(minutes=10)
        erasure = await done(h, id)
        assert (erasure.events, erasure.dead_letters, erasure.claims) == (9, 1, 1), "each is counted once"
        assert found(tmp_path) == []


async def test_who_is_forgotten_can_come_back(clinic: Clinic) -> None:
    async with Harness(clinic.app) as h:
        await clinic.people.put(Person(id=TOKEN, text="old"))
        id = await clinic.people.forget(TOKEN)
        await clinic.people.put(Person(id=TOKEN, text="new"))
        await h.run_until_idle()
        await h.advance(minutes=2)
        await done(h, id)
        (change,) = await clinic.people.history(TOKEN)
        assert change.data.text == "new"
        second = await clinic.people.forget(TOKEN)
        await h.advance(minutes=2)
        assert (await done(h, second)).events == 2


async def test_what_is_forgotten_with_a_key(clinic: Clinic) -> None:
    async with Harness(clinic.app) as h:
        for n in range(3):
            await clinic.notes.put(Note(person=TOKEN, n=n, of="bob"))
        await clinic.people.forget(TOKEN, also=[clinic.notes])
        assert (await clinic.notes.query()).items == []
        with pytest.raises(InvalidValue, match="no index"):
            await clinic.people.forget(TOKEN, also=[(clinic.notes, "nothing")])
        with pytest.raises(InvalidValue, match="a key has"):
            await clinic.people.forget(TOKEN, "x")
        (first,) = await clinic.people.erasures()
        assert first.rows == 3
        await h.run_until_idle()


async def test_the_admin_operations(clinic: Clinic) -> None:
    async with Harness(clinic.app) as h:
        admin = Admin(h.supervisor.engine, h.supervisor, clock=h.clock)
        await clinic.people.put(Person(id=TOKEN))
        begun = await admin.call("forget", {"table": "clinic/people", "key": [TOKEN], "also": ["clinic/notes#of"]})
        assert TOKEN not in repr(begun)
        await h.run_until_idle()
        await h.advance(minutes=2)
        shown = await admin.call("erasure", {"id": begun["id"]})
        assert (shown["state"], shown["rows"], shown["table"]) == ("done", 1, "clinic/people")
        assert await admin.call("erasures", {"table": "clinic/people"}) == {"erasures": [shown]}
        answer = await admin.call(
            "sql", {"statement": "SELECT state FROM headwater_erasures WHERE events > :n", "parameters": {"n": 0}}
        )
        assert answer == {"columns": ["state"], "rows": [("done",)], "more": False}


async def test_secrets_of_the_server_are_hidden_from_sql(clinic: Clinic) -> None:
    async with Harness(clinic.app) as h:
        await h.client(clinic.app, key="plan").get("/people")
        key = (await h.supervisor.system.keys.query()).items[0]
        admin = Admin(h.supervisor.engine, h.supervisor, clock=h.clock)
        for view in ("headwater_keys", "events"):
            answer = await admin.call("sql", {"statement": f"SELECT * FROM {view}"})
            assert answer["rows"]
            assert key.digest not in repr(answer)
        shown = await h.supervisor.engine.ask(Question(statement="SELECT digest FROM headwater_keys"))
        assert shown.rows == [(key.digest,)]
