from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.crew import Crew

Gather = Callable[..., Crew]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def gather(postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gather:
    """Makes a crew on the test's store."""
    monkeypatch.setattr("headwater.engines.postgres.queues._SHARE", 0)  # virtual time runs ahead of kept counts

    def make(make_apps: Any, count: int = 2, **options: Any) -> Crew:
        return Crew(postgres_url, tmp_path, make_apps, count, **options)

    return make
