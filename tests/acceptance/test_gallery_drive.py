"""The drive in small: real processes, strikes and kills; and that it sees apps which break their promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.gallery_drive import Options, drive


async def test_each_ten_is_one_sheet_in_order_whatever_is_killed(tmp_path: Path) -> None:
    facts = await drive(Options(albums=5, seed=2, rate=40, strikes=5, kill_s=1.6, patience_s=60), tmp_path)
    assert facts["problems"] == []
    assert facts["sheets"] == 10
    assert facts["service_kills"] >= 1
    assert facts["attempts_cut_off"] + facts["late_commits_refused"] >= 1


@pytest.mark.parametrize(
    ("broken", "strikes", "found"), [("apart", 2, "sheets drawn are"), ("at-least", 0, "sheets ordered are")]
)
async def test_an_app_that_breaks_a_promise_is_found_out(tmp_path: Path, broken: str, strikes: int, found: str) -> None:
    options = Options(albums=2, seed=3, strikes=strikes, aim=1.0, kill_s=0, broken=broken, patience_s=60)
    facts = await drive(options, tmp_path)
    assert any(found in problem for problem in facts["problems"])
