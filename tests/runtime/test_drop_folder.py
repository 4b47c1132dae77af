"""Drop folders: each file once, when it is complete, and never what lies outside."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic_settings import BaseSettings
from structlog.testing import capture_logs

from headwater import App, ObjectInfo
from headwater.app import App as AnyApp
from headwater.buckets import Bucket, Watch
from headwater.clock import SystemClock
from headwater.events import Event
from headwater.pytest_plugin import StartHarness
from headwater.runtime import drop_folder
from headwater.runtime.drop_folder import DropFolder, FileChanged, FileState
from headwater.testing import Harness
from tests.patience import PATIENCE_S


class Inbox:
    """An app with a watched folder; `put` are the keys of its events."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder = folder
        self.app: AnyApp[Any] = App("inbox")
        self.bucket: Bucket = self.app.bucket("files", max_size=1000)
        self.bucket.watch(folder, prefix="in/", **options)
        self.put: list[str] = []

        @self.app.on(self.bucket.created)
        async def note(event: Event[ObjectInfo]) -> None:
            self.put.append(event.data.key)

    async def keys(self) -> list[str]:
        return [info.key for info in (await self.bucket.list()).items]


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    return Inbox(tmp_path / "drop")


@pytest.fixture
async def h(harness: StartHarness, inbox: Inbox) -> Harness:
    return await harness(inbox.app)


async def test_a_file_is_put_under_the_prefix_and_its_path(h: Harness, inbox: Inbox) -> None:
    (inbox.folder / "2026" / "may").mkdir(parents=True)
    (inbox.folder / "2026" / "may" / "a b.csv").write_bytes(b"1;2")
    (inbox.folder / "plain").write_bytes(b"")
    await h.advance(seconds=5)
    assert await inbox.keys() == ["in/2026/may/a b.csv", "in/plain"]
    info = await inbox.bucket.head("in/2026/may/a b.csv")
    assert info is not None
    assert info.content_type == "text/csv"
    assert await inbox.bucket.get("in/2026/may/a b.csv") == b"1;2"
    assert (inbox.folder / "plain").exists()
    await h.advance(minutes=5)
    assert inbox.put == ["in/2026/may/a b.csv", "in/plain"]


async def test_a_file_that_grows_is_awaited(h: Harness, inbox: Inbox) -> None:
    path = inbox.folder / "growing"
    for n in range(1, 6):
        path.write_bytes(b"x" * n)
        await h.advance(seconds=2)
        assert inbox.put == []
    await h.advance(seconds=2)
    assert inbox.put == ["in/growing"]
    assert await inbox.bucket.get("in/growing") == b"xxxxx"


async def test_a_file_whose_time_changes_is_awaited_and_put_again(h: Harness, inbox: Inbox) -> None:
    path = inbox.folder / "same-size"
    path.write_bytes(b"1")
    await h.advance(seconds=2)
    path.write_bytes(b"2")
    os.utime(path, ns=(5, 5))
    await h.advance(seconds=2)
    assert inbox.put == []
    await h.advance(seconds=2)
    assert await inbox.bucket.get("in/same-size") == b"2"
    path.write_bytes(b"3")
    await h.advance(seconds=5)
    assert await inbox.bucket.get("in/same-size") == b"3"
    assert inbox.put == ["in/same-size"] * 2


@pytest.mark.parametrize("name", [".hidden", "a.tmp", "a.csv.part", ".folder/a", "b.part/c"])
async def test_unfinished_and_hidden_names_are_passed_over(h: Harness, inbox: Inbox, name: str) -> None:
    path = inbox.folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"x")
    await h.advance(seconds=10)
    assert inbox.put == []
    path.rename(inbox.folder / "done")
    await h.advance(seconds=10)
    assert inbox.put == ["in/done"]


async def test_a_file_is_put_once_over_restarts(h: Harness, inbox: Inbox) -> None:
    (inbox.folder / "a").write_bytes(b"x")
    await h.advance(seconds=5)
    for begin_again in (h.restart, h.crash, h.restart):
        await begin_again()
        await h.advance(seconds=5)
    assert inbox.put == ["in/a"]
    (inbox.folder / "a").write_bytes(b"yy")
    await h.restart()
    await h.advance(seconds=5)
    assert inbox.put == ["in/a", "in/a"]


async def test_files_are_deleted_when_asked_for(harness: StartHarness, tmp_path: Path) -> None:
    inbox = Inbox(tmp_path / "drop", delete=True)
    h = await harness(inbox.app)
    (inbox.folder / "sub").mkdir()
    (inbox.folder / "sub" / "a").write_bytes(b"x")
    await h.advance(seconds=5)
    assert inbox.put == ["in/sub/a"]
    assert list((inbox.folder / "sub").iterdir()) == []


async def test_a_file_that_was_put_before_a_crash_is_deleted_after_it(harness: StartHarness, tmp_path: Path) -> None:
    inbox = Inbox(tmp_path / "drop", delete=True)
    h = await harness(inbox.app)
    path = inbox.folder / "a"
    path.write_bytes(b"x")
    state = FileState.of(path.stat())
    await inbox.bucket.put("in/a", b"x", metadata={drop_folder.STATE: str(state)})
    await h.advance(seconds=5)
    assert not path.exists()
    assert inbox.put == ["in/a"]


async def test_links_out_of_the_folder_are_refused(h: Harness, inbox: Inbox, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x").write_bytes(b"secret")
    (tmp_path / "drop-beside").mkdir()
    (tmp_path / "drop-beside" / "y").write_bytes(b"secret")
    (inbox.folder / "file").symlink_to(secret)
    (inbox.folder / "relative").symlink_to("../secret")
    (inbox.folder / "folder").symlink_to(tmp_path / "outside")
    (inbox.folder / "beside").symlink_to("../drop-beside/y")
    (inbox.folder / "dangling").symlink_to("nothing")
    (inbox.folder / "itself").symlink_to("itself")
    (inbox.folder / "inside").write_bytes(b"fine")
    (inbox.folder / "link").symlink_to("inside")
    with capture_logs() as logs:
        await h.advance(seconds=20)
    assert inbox.put == ["in/inside", "in/link"]
    refused = sorted(entry["file"] for entry in logs if "leads out" in entry.get("error", ""))
    assert refused == ["beside", "file", "folder", "relative"]


async def test_what_is_no_file_is_passed_over(h: Harness, inbox: Inbox) -> None:
    os.mkfifo(inbox.folder / "pipe")
    (inbox.folder / "a").write_bytes(b"x")
    await h.advance(seconds=10)
    assert inbox.put == ["in/a"]


@pytest.mark.parametrize("swap", ["link", "folder", "pipe", "content"])
async def test_a_file_that_is_swapped_after_the_look_is_not_put(h: Harness, inbox: Inbox, swap: str) -> None:
    """Between looking and opening anything may happen; only the very state that had settled is put."""
    outside = inbox.folder.parent / "outside"
    outside.mkdir()
    inner = inbox.folder / "sub"
    inner.mkdir()
    for place in (outside, inner):
        (place / "a").write_bytes(b"x")
        os.utime(place / "a", ns=(7, 7))
    state = FileState.of((inner / "a").stat())
    if swap == "folder":
        inner.rename(inbox.folder / "elsewhere")
        inner.symlink_to(outside)
    else:
        (inner / "a").unlink()
        if swap == "link":
            (inner / "a").symlink_to(outside / "a")
        elif swap == "pipe":
            os.mkfifo(inner / "a")
        else:
            (inner / "a").write_bytes(b"y")
    with pytest.raises((FileChanged, OSError)):
        drop_folder._open(inbox.folder, "sub/a", state).close()


@pytest.mark.parametrize("swapped", ["sub", "sub/a"])
async def test_no_link_is_followed_that_appears_at_the_last_moment(
    h: Harness, inbox: Inbox, monkeypatch: pytest.MonkeyPatch, swapped: str
) -> None:
    """When all has been looked at and before it is opened."""
    outside = inbox.folder.parent / "outside"
    for place in (outside, inbox.folder / "sub"):
        place.mkdir()
        (place / "a").write_bytes(b"x")
        os.utime(place / "a", ns=(7, 7))
    state = FileState.of((outside / "a").stat())

    def swap(*_: str) -> bool:
        (inbox.folder / swapped).rename(inbox.folder / "elsewhere")
        (inbox.folder / swapped).symlink_to(outside / swapped[4:])
        return True

    monkeypatch.setattr(drop_folder, "_is_below", swap)
    with pytest.raises(OSError, match=r"symbolic links|Not a directory"):
        drop_folder._open(inbox.folder, "sub/a", state).close()


async def test_a_file_that_changes_while_it_is_read_is_not_put(h: Harness, inbox: Inbox) -> None:
    path = inbox.folder / "a"
    path.write_bytes(b"x" * 600)
    reading = drop_folder._read(inbox.folder, "a", FileState.of(path.stat()))
    assert len(await anext(reading)) == 600
    path.write_bytes(b"y" * 600)
    with pytest.raises(FileChanged):
        await anext(reading)


async def test_what_cannot_be_stored_is_told_and_holds_up_nothing(h: Harness, inbox: Inbox) -> None:
    (inbox.folder / "a-large").write_bytes(b"x" * 1001)
    (inbox.folder / os.fsdecode(b"b-\xff")).write_bytes(b"x")
    (inbox.folder / ("c" * 200)).mkdir()
    deep = inbox.folder
    for _ in range(6):
        deep = deep / ("d" * 200)
        deep.mkdir()
    (deep / "long").write_bytes(b"x")
    (inbox.folder / "e").write_bytes(b"x")
    await h.advance(seconds=20)
    assert inbox.put == ["in/e"]
    (inbox.folder / "a-large").write_bytes(b"x" * 1000)
    await h.advance(seconds=10)
    assert inbox.put == ["in/e", "in/a-large"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
async def test_unreadable_files_are_tried_again(h: Harness, inbox: Inbox) -> None:
    path = inbox.folder / "a"
    path.write_bytes(b"x")
    path.chmod(0)
    await h.advance(seconds=10)
    assert inbox.put == []
    path.chmod(0o600)
    await h.advance(seconds=10)
    assert inbox.put == ["in/a"]


async def test_a_failed_read_is_tried_again(h: Harness, inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    failing: Callable[..., Any] = _denied
    right = drop_folder._open
    monkeypatch.setattr(drop_folder, "_open", failing)
    (inbox.folder / "a").write_bytes(b"x")
    await h.advance(seconds=10)
    assert inbox.put == []
    monkeypatch.setattr(drop_folder, "_open", right)
    await h.advance(seconds=10)
    assert inbox.put == ["in/a"]


def _denied(*_: Any) -> Any:
    raise PermissionError(13, "Permission denied")


async def test_a_folder_that_goes_and_comes_again(h: Harness, inbox: Inbox) -> None:
    inbox.folder.rename(inbox.folder.with_name("away"))
    await h.advance(seconds=10)
    inbox.folder.mkdir()
    (inbox.folder / "a").write_bytes(b"x")
    await h.advance(seconds=10)
    assert inbox.put == ["in/a"]


class Settings(BaseSettings):
    drop: str


async def test_the_folder_may_be_a_setting(harness: StartHarness, tmp_path: Path) -> None:
    app = App("late", settings=Settings)
    bucket = app.bucket("files")
    bucket.watch(app.late(lambda settings: settings.drop), settle="0s")
    h = await harness(app, settings={"late": {"drop": str(tmp_path / "made" / "here")}})
    (tmp_path / "made" / "here" / "a").write_bytes(b"x")
    await h.advance(seconds=3)
    assert await bucket.get("a") == b"x"


@pytest.mark.parametrize("told", [True, False])
async def test_in_real_time_by_what_the_system_tells_or_by_looking(
    harness: StartHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    """Without looking from time to time only what the system tells can wake it, and the other way round."""
    monkeypatch.setattr(drop_folder, "LOOK_S", 1000.0 if told else 0.05)
    app: AnyApp[Any] = App("real")
    bucket = app.bucket("files")
    await harness(app)
    tmp_path.joinpath("drop").mkdir()
    watched = DropFolder(bucket, Watch(tmp_path / "drop", "", 50, False), tmp_path / "drop", SystemClock())
    if not told:
        monkeypatch.setattr(watched, "_listen", _deaf)
    watched.start()
    try:
        end = time.monotonic() + PATIENCE_S
        n = 0
        while (await bucket.head("a0")) is None:
            assert time.monotonic() < end
            if n < 3:  # the watcher of the system may not be there yet for the first ones
                (tmp_path / "drop" / f"a{0 if n == 2 else n + 1}").write_bytes(b"x")
            n += 1
            await asyncio.sleep(0.3)
    finally:
        await watched.stop()


async def _deaf() -> None:
    await asyncio.Event().wait()
