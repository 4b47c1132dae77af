"""Objects of a store that several hosts have open."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from headwater import App, Event, ObjectInfo
from headwater.blobs import blob_id
from headwater.config import Config
from headwater.engine import Features
from headwater.errors import DeclarationError
from headwater.objects.local import LocalBlobs
from headwater.runtime.places import place_of_objects
from headwater.runtime.webhooks import WebhookRules
from tests.cluster.conftest import Gather

SHARED = Features(engine="postgres", max_unit_operations=1)
SOLE = Features(engine="sqlite", max_unit_operations=1, single_process=True)
STORE = "postgresql://host/database"


def apps() -> list[App[None]]:
    app: App[None] = App("shop")
    app.bucket("files")
    return [app]


@pytest.mark.parametrize("objects", ["", "folder", "file:///folder"])
def test_a_folder_of_one_host_is_refused(objects: str) -> None:
    config = Config(store=STORE, objects=objects)
    with pytest.raises(DeclarationError) as caught:
        place_of_objects(config, SHARED, apps())
    assert "objects_shared" in caught.value.hint
    assert place_of_objects(config, SHARED, [App("plain")]) is None


def test_a_folder_that_is_said_to_be_shared_and_one_of_a_single_process_are_taken() -> None:
    shared = Config(store=STORE, objects="f", objects_shared=True)
    assert isinstance(place_of_objects(shared, SHARED, apps()), LocalBlobs)
    assert isinstance(place_of_objects(Config(), SOLE, apps()), LocalBlobs)


async def one(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def test_opening_a_shared_folder_leaves_what_another_process_is_writing(tmp_path: Path) -> None:
    for shared in (True, False):
        first, second = (LocalBlobs(tmp_path, shared=shared) for _ in range(2))
        await first.open("owner")
        young, old = (tmp_path / "tmp" / name for name in ("young", "old"))
        for file in (young, old):
            file.write_bytes(b"half")
        os.utime(old, (0, 0))
        await second.open("owner")
        assert (young.exists(), old.exists()) == (shared, False)
        await first.close()
        await second.close()


async def test_what_another_server_may_still_commit_is_not_collected(gather: Gather) -> None:
    async with gather(apps, 2) as crew:
        await crew.pass_time(5)
        (collector,) = crew.holders("garbage")
        (other,) = [member for member in crew.members if member is not collector]
        held, free = (blob_id(crew.clock.wall_ms()) for _ in range(2))
        for id in (held, free):
            await other.blobs.write(id, one(b"bytes"), limit=100)
        holder = Holder()
        other.uncommitted.hold(holder, held)
        await crew.pass_time(2 * 3600, step=30)
        assert await other.blobs.ids("", 10) == [held]
        holder.closed = True
        await crew.pass_time(3600, step=30)
        assert await other.blobs.ids("", 10) == []


class Holder:
    closed = False


async def test_servers_that_watch_one_folder_put_each_file_once(gather: Gather, tmp_path: Path) -> None:
    put: list[str] = []

    def apps() -> list[App[None]]:
        app: App[None] = App("shop")
        files = app.bucket("files")
        files.watch(tmp_path / "drop", settle="1s")

        @app.on(files.created)
        async def created(event: Event[ObjectInfo]) -> None:
            put.append(event.data.key)

        return [app]

    async with gather(apps, 3) as crew:
        for name in "abcdef":
            (tmp_path / "drop" / name).write_text(name, "utf-8")
        for _ in range(4):
            await asyncio.gather(*(folder.look() for member in crew.members for folder in member.drop_folders))
            await crew.pass_time(2)
        assert sorted(put) == list("abcdef")


async def test_a_server_with_another_secret_key_is_refused(gather: Gather, tmp_path: Path) -> None:
    async with gather(apps, 1) as crew:
        for key, said in ((tmp_path / "other.key", "secret key"), (tmp_path / "copied.key", "")):
            late = crew.make(apps(), webhooks=WebhookRules(key_file=key))
            if said:
                with pytest.raises(DeclarationError, match=said):
                    await late.start()
                key.write_text("x" * 10)
                key.unlink()
                (tmp_path / "copied.key").write_bytes((tmp_path / "secret.key").read_bytes())
                (tmp_path / "copied.key").chmod(0o600)
            else:
                await crew.join(late)
        assert not (tmp_path / "other.key").exists(), "no key is made beside that of the store"


async def test_servers_that_start_at_once_agree_on_what_marks_their_places(gather: Gather) -> None:
    async with gather(apps, 0) as crew:
        crew.members += [crew.make(apps()) for _ in range(4)]
        await asyncio.gather(*(member.start() for member in crew.members))
        assert len({await member.system.owner() for member in crew.members}) == 1
