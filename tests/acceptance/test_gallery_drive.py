"""The drive in small: real processes, strikes and kills; and that it sees apps which break their promises."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.gallery_drive import Options, drive


async def test_each_ten_is_one_sheet_in_order_whatever_is_killed(tmp_path: Path) -> None:
    struck = 0
    for folder in folders(tmp_path):
        facts = await drive(Options(albums=5, seed=2, rate=40, strikes=5, kill_s=1.6), folder)
        assert facts["problems"] == []
        assert facts["sheets"] == 10
        struck = min(facts["service_kills"], facts["attempts_cut_off"] + facts["late_commits_refused"])
        if struck:
            break
    assert struck


@pytest.mark.parametrize(
    ("broken", "strikes", "found"), [("apart", 2, "sheets drawn are"), ("at-least", 0, "sheets ordered are")]
)
async def test_an_app_that_breaks_a_promise_is_found_out(tmp_path: Path, broken: str, strikes: int, found: str) -> None:
    problems: list[str] = []
    for folder in folders(tmp_path):
        options = Options(albums=2, seed=3, strikes=strikes, aim=1.0, kill_s=0, broken=broken)
        problems = (await drive(options, folder))["problems"]
        if any(found in problem for problem in problems):
            break
    assert any(found in problem for problem in problems)


def folders(tmp_path: Path) -> Iterator[Path]:
    """Of a few drives: a strike needs luck to come at the right moment."""
    for n in range(5):
        (folder := tmp_path / str(n)).mkdir()
        yield folder
