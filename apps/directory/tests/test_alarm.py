"""Mail: at the first failed file and at the next good one, and never otherwise."""

from pathlib import Path

from apps.directory.app import app
from apps.directory.tests.conftest import CONTACT
from apps.directory.tests.staff import drop, many
from headwater.testing import Harness

BAD = many(3).replace("2024-02-29", "soon")


async def mails(harness: Harness) -> list[tuple[str, str]]:
    """(address, subject) of each, after all that could still come."""
    await harness.advance(hours=3)
    return [(mail.to, mail.subject) for mail in harness.mail]


async def test_mail_tells_of_the_first_failure_and_of_the_recovery_only(harness: Harness) -> None:
    for n in range(20):
        assert (await drop(harness, many(3, f"Clerk {n}"))).state == "loaded"
        await harness.advance(minutes=10)
    assert await mails(harness) == []

    assert (await drop(harness, BAD)).state == "failed"
    assert await mails(harness) == [(CONTACT, "[ALARM] Staff files")]
    assert (await drop(harness, BAD + "X")).state == "failed"
    assert len(await mails(harness)) == 1

    assert (await drop(harness, many(3, "Chef"))).state == "loaded"
    assert (await mails(harness))[1:] == [(CONTACT, "[OK] Staff files")]
    assert (await drop(harness, many(3, "Cook"))).state == "loaded"
    assert len(await mails(harness)) == 2


async def test_the_very_first_file_may_fail(harness: Harness) -> None:
    await drop(harness, BAD)
    assert await mails(harness) == [(CONTACT, "[ALARM] Staff files")]


async def test_without_a_contact_nothing_is_mailed(folder: Path) -> None:
    async with Harness(app, settings={"directory": {"drop_folder": folder}}) as harness:
        await drop(harness, BAD)
        assert await mails(harness) == []
