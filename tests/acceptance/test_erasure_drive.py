"""The drive in small: real processes, faults and kills; and that it sees a service which breaks its promise."""

from __future__ import annotations

from pathlib import Path

from tests.acceptance.erasure_drive import Options, drive

STARTS = ({"kind": "lost-answer", "share": 0.5, "seconds": 1.0, "on": ["start"]},)


async def test_each_customer_is_deleted_once_and_each_alert_is_told_once(tmp_path: Path) -> None:
    facts = await drive(Options(customers=60, seed=2), tmp_path)
    assert facts["problems"] == []
    assert facts["kills"] >= 1
    assert facts["deleted"] >= 54
    assert facts["told"]["failed"] == 3


async def test_a_vendor_that_forgets_keys_leaves_doubts_and_no_second_deletion(tmp_path: Path) -> None:
    faults = ({"kind": "broken", "share": 0.5, "on": ["start"]}, {"kind": "lost-answer", "share": 0.5, "seconds": 1.0})
    facts = await drive(Options(customers=20, seed=3, forgetful=True, faults=faults), tmp_path)
    assert facts["problems"] == []
    assert facts["told"]["in_doubt"] >= 1


async def test_a_service_that_starts_twice_is_found_out(tmp_path: Path) -> None:
    """The positive control: an idempotency key made anew for each attempt."""
    options = Options(customers=12, seed=4, kills=False, faults=STARTS, random_keys=True)
    facts = await drive(options, tmp_path)
    assert any("started more than once" in problem for problem in facts["problems"])
