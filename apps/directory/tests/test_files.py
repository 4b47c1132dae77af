"""Files that are written strangely, wrong, or cut off: what is loaded, what is refused, and who learns of it."""

import base64
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from apps.directory.app import REJECTS_KEPT, app, departments, drops, loads
from apps.directory.tests.staff import HEADER, drop, many, names, sample, staff
from headwater import InvalidValue
from headwater.testing import Harness

QUEUE = "directory/load-staff"
TWO = staff({"Küche": ["Zoë", "Ann"], "Garden": ["Bo"]})
COMMENTED = TWO.replace(",Zoë,", ',"Zoë,\r\ncalled ""Zo""",')


async def failed(harness: Harness, content: str | bytes) -> str:
    """Drop what is to fail, at once, once, and without effect; the reason."""
    before = {row.department: row for row in (await departments.query(limit=1000)).items}
    letters = len(await harness.dead_letters(QUEUE))
    load = await drop(harness, content)
    assert (load.state, load.inserted, load.modified) == ("failed", 0, 0)
    (letter,) = (await harness.dead_letters(QUEUE))[letters:]
    assert (letter.receives, letter.reason) == (1, f"Undeliverable: {load.reason}")
    assert letter.event.id == load.id
    assert {row.department: row for row in (await departments.query(limit=1000)).items} == before
    await harness.advance(hours=1)
    assert [row.id for row in (await loads.query(reverse=True)).items].count(load.id) == 1
    assert len(await harness.dead_letters(QUEUE)) == letters + 1
    return load.reason


# Strange, but whole


@pytest.mark.parametrize(
    "content",
    [
        TWO.encode(),
        TWO.encode("utf-8-sig"),
        TWO.encode("latin-1"),
        TWO.encode("utf-16"),
        TWO.replace(",", ";").encode(),
        TWO.replace(",", "\t").encode(),
        TWO.replace("\n", "\r\n").encode(),
        TWO.replace("\n", "\r").encode(),
        TWO.replace("\n", ",\n").encode(),
        TWO.replace("\n", "\n\n").encode().rstrip(),
        TWO.replace(",Zoë,", ',"Zoë",').encode(),
        f"id,{TWO}".replace("\n", "\n1,").removesuffix("1,").encode(),
    ],
    ids=["plain", "bom", "latin-1", "utf-16", ";", "tab", "crlf", "cr", "comma-at-end", "blank", "quotes", "more"],
)
async def test_however_it_is_written_it_is_the_same(harness: Harness, content: bytes) -> None:
    load = await drop(harness, content)
    assert (load.state, load.inserted, load.rejected) == ("loaded", 2, 0), load.reason
    kitchen = await departments.get("Küche")
    assert kitchen is not None
    assert [(e.employee, e.name, e.since.isoformat()) for e in kitchen.employees] == [
        ("Küche-0", "Zoë", "2024-02-29"),
        ("Küche-1", "Ann", "2024-02-29"),
    ]


async def test_a_name_may_have_line_breaks_delimiters_and_quotes(harness: Harness) -> None:
    assert (await drop(harness, COMMENTED)).rejected == 0
    kitchen = await departments.get("Küche")
    assert kitchen is not None
    assert [e.name for e in kitchen.employees] == ['Zoë,\r\ncalled "Zo"', "Ann"]


async def test_a_few_rows_that_do_not_fit_are_told_by_line(harness: Harness) -> None:
    wrong = many(100).replace("D007-1,Bo,Clerk,Bo@staff.example,555,1,2024-02-29", "D007-1,Bo,Clerk,,,,soon")
    load = await drop(harness, wrong)
    assert (load.state, load.inserted, load.rejected) == ("loaded", 100, 1)
    assert [(r.line, r.column, r.value) for r in load.rejects] == [(17, "since", "soon")]
    one = await departments.get("D007")
    assert one is not None
    assert [e.name for e in one.employees] == ["Ann"]


# Wrong


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "columns that are missing"),
        (b"PK\x03\x04\x14\x00\x06\x00\x08\x00!\x00", "every other byte is NUL"),
        (HEADER.replace(",room", "") + "\nA,1,n,t,e,p,2024-01-01\n", "columns that are missing: room"),
        (HEADER.replace("room", "name") + "\n", "columns that occur twice: name"),
        (many(3).replace("2024-02-29", "soon"), "6 of 6 rows do not fit"),
        (many(3).replace("\nD001,", "\n,"), "line 4, department"),
        (many(3) + "D002,9," + '"no end', "quote"),
        (many(3).replace("Ann", "Zoë").encode() + b"\xff", "is not utf-8"),
        (staff({"Big": ["n" * 1000] * 450}), "bytes, 409600 are allowed"),
    ],
    ids=["empty", "png", "zip", "column", "twice", "rejects", "no-key", "quote", "bytes", "big"],
)
async def test_a_wrong_file_is_one_dead_letter_with_its_reason(
    harness: Harness, content: str | bytes, reason: str
) -> None:
    await drop(harness, many(3))
    assert reason in await failed(harness, content)


async def test_a_first_file_without_rows_changes_nothing(harness: Harness) -> None:
    assert (await drop(harness, HEADER + "\n")).state == "unchanged"
    assert await names() == []


async def test_a_file_cut_off_between_two_rows_would_remove_too_much(harness: Harness) -> None:
    text = many(20)
    await drop(harness, text)
    half = "\n".join(text.splitlines()[: 1 + 2 * 15]) + "\n"
    assert "would remove at least 5 of the 20 rows" in await failed(harness, half)
    assert (await drop(harness, "\n".join(text.splitlines()[: 1 + 2 * 16]) + "\n")).vanished == 4


async def test_a_file_cut_off_within_a_row_is_rejected(harness: Harness) -> None:
    await drop(harness, sample("staff.csv"))
    assert "1 of 13 rows do not fit" in await failed(harness, sample("staff-cut-off.csv"))


async def test_an_upload_that_is_cut_off_makes_no_object(harness: Harness) -> None:
    editor = harness.client(app, token={"sub": "hr", "roles": ["staff.write"]})
    whole = sample("staff.csv")
    digest = base64.b64encode(hashlib.sha256(whole).digest()).decode()
    headers = {"Repr-Digest": f"sha-256=:{digest}:"}
    assert (await editor.put("/drops/staff/staff.csv", content=whole[:900], headers=headers)).status_code == 422

    async def breaking() -> AsyncIterator[bytes]:
        yield whole[:900]
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await editor.put("/drops/staff/staff.csv", content=breaking())
    with pytest.raises(InvalidValue, match="SHA-256"):
        await drops.put("staff/staff.csv", whole[:900], sha256=hashlib.sha256(whole).hexdigest())
    await harness.run_until_idle()
    assert (await drops.list()).items == []
    assert (await loads.query()).items == []
    assert (await editor.put("/drops/staff/staff.csv", content=whole, headers=headers)).status_code == 201
    await harness.run_until_idle()
    assert len(await names()) == 6
    assert (await harness.client(app).put("/drops/staff/staff.csv", content=whole)).status_code == 401
    assert (await editor.get("/drops/staff/staff.csv")).status_code == 403


# Who learns of it


@pytest.fixture
def internal(harness: Harness) -> httpx.AsyncClient:
    return harness.client(app, key="internal")


async def listed(client: httpx.AsyncClient, **params: Any) -> list[dict[str, Any]]:
    answer = await client.get("/loads", params=params)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["items"])


async def test_loads_and_failures_are_listed_newest_first(harness: Harness, internal: httpx.AsyncClient) -> None:
    for content in (many(4), many(4, "Chef"), many(4, "Chef"), many(4).replace("2024-02-29", "soon"), many(4)):
        await drop(harness, content)
    rows = await listed(internal)
    assert [row["state"] for row in rows] == ["loaded", "failed", "unchanged", "loaded", "loaded"]
    newest = rows[0]
    assert newest["sha256"] == hashlib.sha256(many(4).encode()).hexdigest()
    assert (newest["file"], newest["modified"], newest["vanished"]) == ("staff/staff.csv", 4, 0)
    assert newest["dropped"].startswith("2026-01-01T00:00:00")
    (failure,) = await listed(internal, state="failed")
    assert failure["rejected"] == 8
    assert failure["rejects"][0] == {
        "line": 2,
        "column": "since",
        "value": "soon",
        "reason": "Input should be a valid date or datetime, input is too short",
    }
    page = (await internal.get("/loads", params={"limit": 2})).json()
    assert [row["id"] for row in page["items"]] == [row["id"] for row in rows[:2]]
    assert [row["id"] for row in await listed(internal, cursor=page["cursor"])] == [row["id"] for row in rows[2:]]
    assert (await internal.get("/loads", params={"state": "lost"})).status_code == 422


async def test_many_rejects_are_counted_and_the_first_ones_kept(harness: Harness) -> None:
    load = await drop(harness, many(300).replace("2024-02-29", "x" * 5000))
    assert (load.rejected, len(load.rejects)) == (600, REJECTS_KEPT)
    assert [reject.line for reject in load.rejects[:3]] == [2, 3, 4]


async def redrive(harness: Harness) -> None:
    (letter,) = await harness.dead_letters(QUEUE)
    await harness.redrive(letter)
    await harness.run_until_idle()


async def test_a_failed_file_fails_again_until_a_newer_one_settles_it(harness: Harness) -> None:
    await drop(harness, many(6))
    await failed(harness, many(6).replace("2024-02-29", "soon"))
    await redrive(harness)
    assert len(await harness.dead_letters(QUEUE)) == 1
    await harness.advance(seconds=1)
    await drop(harness, many(6, "Chef"))
    await redrive(harness)
    assert await harness.dead_letters(QUEUE) == []
    assert [row.state for row in (await loads.query()).items] == ["loaded", "failed", "loaded"]


async def test_a_file_that_is_gone_before_it_is_read_is_passed_over(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await harness.supervisor.engine.pause(QUEUE, paused=True)
    await drops.put("staff/staff.csv", many(3).encode())
    await drops.delete("staff/staff.csv")
    await harness.advance(hours=3)
    await harness.supervisor.engine.pause(QUEUE, paused=False)
    await harness.advance(minutes=10)
    assert (await loads.query()).items == []
    assert await harness.dead_letters(QUEUE) == []
    assert await names() == []
