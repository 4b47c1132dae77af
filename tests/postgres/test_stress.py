"""The stress test, short; at length: `python -m tests.postgres.stress --seconds 120 --seed N`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.postgres.server import Server
from tests.postgres.shop import hurry
from tests.postgres.stress import stress

SECONDS, SEED = 10.0, 7


@pytest.mark.anyio
async def test_all_is_done_once_and_in_order(
    start_postgres: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch)
    wrong, told = await stress(start_postgres(), tmp_path, SECONDS, SEED)
    assert wrong == [], told
