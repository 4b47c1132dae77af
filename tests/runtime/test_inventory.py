"""Objects compared with their bytes: what is missing is named, what belongs to nobody is counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from headwater import App
from headwater.blobs import blob_id
from headwater.pytest_plugin import StartHarness
from headwater.runtime import inventory
from headwater.runtime.admin import Admin
from headwater.testing import Harness


class Depot:
    def __init__(self) -> None:
        self.app: App[Any] = App("depot")
        self.files = self.app.bucket("files")
        self.kept = self.app.bucket("kept", versions=True)


async def checked(h: Harness) -> dict[str, Any]:
    answer = await Admin(h.supervisor.engine, h.supervisor).call("check", {})
    assert isinstance(answer, dict)
    return answer


@pytest.fixture
def depot() -> Depot:
    return Depot()


@pytest.fixture
async def h(harness: StartHarness, depot: Depot, monkeypatch: pytest.MonkeyPatch) -> Harness:
    monkeypatch.setattr(inventory, "PAGE", 2)
    h = await harness(depot.app)
    for n in range(5):
        await depot.files.put(f"f{n}", b"%d" % n)
        await depot.kept.put("k", b"%d" % n)
    return h


def path_of(h: Harness, blob: str) -> Path:
    (found,) = (h.supervisor.blobs.folder).glob(f"*/{blob}")  # type: ignore[attr-defined]
    return Path(found)


async def test_a_sound_store_is_sound(h: Harness) -> None:
    assert await checked(h) == {"sound": True, "damage": [], "unreferenced_blobs": 0}


async def test_missing_bytes_are_damage_of_objects_and_of_versions(h: Harness, depot: Depot) -> None:
    (oldest,) = (await depot.kept.versions("k")).items[-1:]
    lost = await depot.files.head("f3")
    assert lost is not None
    for info in (oldest, lost):
        path_of(h, info.blob).unlink()
    answer = await checked(h)
    assert answer["sound"] is False
    assert sorted(answer["damage"]) == [
        f"depot/files 'f3': its bytes are missing (blob {lost.blob})",
        f"depot/kept.versions 'k': its bytes are missing (blob {oldest.blob})",
    ]


async def test_bytes_of_nobody_are_counted_once_they_are_old(h: Harness, depot: Depot) -> None:
    await depot.files.put("f0", b"in place of the first")
    for _ in range(2):
        await h.supervisor.blobs.write(blob_id(h.clock.wall_ms()), _stream(), limit=9)
    assert (await checked(h))["unreferenced_blobs"] == 0, "somebody may be about to refer to them"
    h.clock.move_to(h.clock.monotonic() + 3_700)
    assert await checked(h) == {"sound": True, "damage": [], "unreferenced_blobs": 3}


async def _stream() -> Any:
    yield b"x"
