"""When the vendor has deleted, nothing is left here but the proof; and SQL tells of deletions."""

from __future__ import annotations

import re
from pathlib import Path

from apps.erasure.app import customers
from apps.erasure.tests.conftest import Play
from apps.erasure.vendor.faults import Kind

README = Path(__file__).parents[1] / "README.md"
NAME, ADDRESS = "Quibbleworth", "quibbleworth@people.example"


def files_with(play: Play, text: str) -> list[str]:
    """The store's files that have the text somewhere."""
    folder = play.harness._folder
    assert folder is not None
    return [path.name for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


async def test_name_and_address_leave_the_store_and_the_proof_stays(play: Play) -> None:
    await play.create("c0")
    play.misbehave(Kind.STUCK)
    headers = {"Idempotency-Key": "made-once"}
    body = {"id": "c1", "name": NAME, "email": ADDRESS}
    assert (await play.clerk.post("/customers", json=body, headers=headers)).status_code == 201
    await play.revoke("c1")
    await play.pass_time(days=3, hours=1)
    assert files_with(play, NAME) != []
    assert files_with(play, ADDRESS) != []
    (overdue,) = await play.harness.sql("SELECT subject, text FROM headwater_mails")
    assert "c1" in overdue[0]

    play.behave()
    await play.pass_time(hours=2)
    (erasure,) = await customers.erasures()
    assert erasure.state == "done"
    assert await customers.get("c1") is None
    assert await customers.history("c1") == []
    assert files_with(play, NAME) == []
    assert files_with(play, ADDRESS) == []
    assert await play.harness.sql("SELECT subject, text FROM headwater_mails") == [("redacted", "redacted")]
    assert await play.harness.sql("SELECT data FROM events WHERE data LIKE '%Name of c0%'") != []

    op = await play.op("c1")
    assert (op.state, op.external_id, op.request.customer) == ("completed", "del-000001", "c1")
    assert op.requested_ms < op.overdue_ms < op.ended_ms


async def test_deletions_by_sql(play: Play) -> None:
    await play.create("done", "late", "new", "unknown-1")
    await play.revoke("done", "unknown-1")
    await play.pass_time(hours=5)
    play.misbehave(Kind.STUCK)
    await play.revoke("late")
    await play.pass_time(days=3)
    await play.revoke("new")

    async def subjects(condition: str) -> list[str]:
        rows = await play.harness.sql(f"SELECT subject FROM erasure_deletions WHERE {condition} ORDER BY requested_ms")
        return [subject for (subject,) in rows]

    assert await subjects("standing = 'open'") == ["new"]
    assert await subjects("standing = 'overdue'") == ["late"]
    assert await subjects("standing <> ''") == ["late", "new"]
    assert await subjects("state = 'completed'") == ["done"]
    assert await subjects("state = 'failed'") == ["unknown-1"]


async def test_the_examples_of_the_readme_run(play: Play) -> None:
    await play.create("done", "new")
    await play.revoke("done")
    await play.pass_time(hours=5)
    play.misbehave(Kind.BROKEN)
    await play.revoke("new")
    statements = re.findall(r'headwater sql "(.+)"', README.read_text("utf-8"))
    answers = [await play.harness.sql(statement) for statement in statements]
    assert [row[0] for row in answers[0]] == ["new"]
    assert [row[0] for row in answers[1]] == ["done"]
    assert answers[2:] == [[], [("new", 0, 500, "answered 500")], []]
