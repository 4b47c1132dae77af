"""The running directory, and its drop folder."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from apps.directory.app import app
from headwater.testing import Harness

CONTACT = "hr@staff.example"
PLANS = {"internal": {}, "subscriber": {"rate": 1, "burst": 3, "quota": 10, "period": "day"}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "drops"


@pytest.fixture
async def harness(folder: Path) -> AsyncIterator[Harness]:
    settings = {"directory": {"drop_folder": folder, "contact": CONTACT}}
    async with Harness(app, settings=settings, plans=PLANS) as running:
        yield running
