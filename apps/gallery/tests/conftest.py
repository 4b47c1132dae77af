"""The running gallery, and a user of it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from apps.gallery.app import app
from apps.gallery.tests.pictures import Owner
from headwater.testing import Harness


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    async with Harness(app, store=tmp_path / "store") as running:
        yield running


@pytest.fixture
def ann(harness: Harness) -> Owner:
    return Owner(harness)
