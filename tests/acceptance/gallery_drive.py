"""The gallery app driven for real: concurrent uploads while worker processes and the service itself are killed.

    python -m tests.acceptance.gallery_drive --albums 200 --images 25

At the end each album has each image once and a sheet for each ten, ordered once, drawn once, in order, and showing the
ten images that the album says. Some albums get a file that is broken and a copy of an image, too. With `--broken` the
app breaks one of its promises: the drive must fail.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec

from tests.acceptance.driven_service import PAUSE_S, until_answered
from tests.acceptance.gallery_stage import BROKEN, Gallery, Striker, make_image, read_sheet
from tests.patience import PATIENCE_S

USERS, TEN = 8, 10
ALBUMS_AT_ONCE, UPLOADS_AT_ONCE = 8, 4
WASTE = ("broken.png", "copy.png")
"""What albums of every fifth get beside their images."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """`rate`: uploads a second. `strikes` at workers are made, with `strike_s` between them on average, the share
    `aim` of them while one draws; `kill_s`, while images are uploaded, is between kills of the service; 0 is never."""

    albums: int
    images: int = 25
    seed: int = 1
    rate: float = 100.0
    strikes: int = 1000
    strike_s: float = 1.0
    aim: float = 0.75
    kill_s: float = 7.0
    broken: str = ""
    patience_s: float = 600.0


class Album(msgspec.Struct, frozen=True):
    owner: str
    name: str
    numbers: dict[str, int]
    """Of its images, by the name of their file."""

    @property
    def wasteful(self) -> bool:
        return int(self.name.removeprefix("album-")) % 5 == 3

    @property
    def prefix(self) -> str:
        return f"{self.owner}/{self.name}"


class Drive:
    """One drive; `problems` is what did not hold."""

    def __init__(self, options: Options, gallery: Gallery) -> None:
        self.options = options
        self.gallery = gallery
        self.problems: list[str] = []
        self.random = random.Random(options.seed)
        self.striker = Striker(gallery, self.random, aim=options.aim)
        self._uploaded, self._over = asyncio.Event(), asyncio.Event()
        self._clients: dict[str, httpx.AsyncClient] = {}
        self._room = asyncio.Semaphore(ALBUMS_AT_ONCE)
        self.uploads = self.again = 0
        self.albums = [self._album(n) for n in range(options.albums)]

    def _album(self, n: int) -> Album:
        first, count = n * self.options.images, self.options.images
        names = [f"{i:02}.{'jpg' if i % 3 == 2 else 'png'}" for i in range(count)]
        return Album(f"user{n % USERS}", f"album-{n:03}", {name: first + i for i, name in enumerate(names)})

    async def run(self) -> dict[str, Any]:
        begun = time.monotonic()
        async with contextlib.AsyncExitStack() as clients:
            for user in {album.owner for album in self.albums}:
                self._clients[user] = await clients.enter_async_context(self._client(user))
            await until_answered(next(iter(self._clients.values())), "/albums")
            strikes = [
                asyncio.create_task(self._again_and_again(self._strike, self.options.strike_s, self._over)),
                asyncio.create_task(self._again_and_again(self._kill_service, self.options.kill_s, self._uploaded)),
            ]
            async with asyncio.timeout(self.options.patience_s), asyncio.TaskGroup() as uploading:
                for album in self.albums:
                    uploading.create_task(self._fill(album))
            self._uploaded.set()
            uploaded_s = time.monotonic() - begun
            await self._until_idle()
            self._over.set()
            await asyncio.gather(*strikes)
            await self._until_idle()
            facts = await self._check()
        seconds = {"uploaded_s": round(uploaded_s, 1), "seconds": round(time.monotonic() - begun, 1)}
        return {**facts, **seconds, "problems": self.problems}

    @contextlib.asynccontextmanager
    async def _client(self, user: str) -> AsyncIterator[httpx.AsyncClient]:
        token = await self.gallery.command("token", user, "--role", "images.read", "--role", "images.write")
        headers = {"Authorization": f"Bearer {token.strip()}"}
        async with httpx.AsyncClient(
            base_url=f"{self.gallery.url}/gallery", headers=headers, timeout=PATIENCE_S
        ) as client:
            yield client

    # Uploads

    async def _fill(self, album: Album) -> None:
        """Image after image of an album, some at once, in any order."""
        async with self._room:
            files = {name: make_image(number, name) for name, number in album.numbers.items()}
            if album.wasteful:
                first = next(iter(files.values()))
                files.update(zip(WASTE, (first[:60], first), strict=True))
            names = list(files)
            self.random.shuffle(names)
            waiting = iter(names)

            async def upload() -> None:
                for name in waiting:
                    each_s = ALBUMS_AT_ONCE * UPLOADS_AT_ONCE / self.options.rate
                    await asyncio.sleep(self.random.uniform(0, 2 * each_s))
                    await self._upload(album, name, files[name])

            await asyncio.gather(*(upload() for _ in range(UPLOADS_AT_ONCE)))

    async def _upload(self, album: Album, name: str, content: bytes) -> None:
        """Until it is answered; a repeated upload replaces the object by the same."""
        self.uploads += 1
        while True:
            with contextlib.suppress(httpx.TransportError):
                answer = await self._clients[album.owner].put(f"/uploads/{album.name}/{name}", content=content)
                if answer.is_success:
                    return
                if answer.status_code < 500 and answer.status_code != 429:
                    raise RuntimeError(f"the upload of {name} was answered {answer.status_code}: {answer.text}")
            self.again += 1
            await asyncio.sleep(PAUSE_S)

    # Faults

    async def _again_and_again(self, do: Callable[[], Awaitable[None]], mean_s: float, over: asyncio.Event) -> None:
        while mean_s and not over.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), self.random.uniform(0.5, 1.5) * mean_s)
                return
            await do()

    async def _strike(self) -> None:
        if self.striker.struck.total() < self.options.strikes:
            await self.striker.strike()

    async def _kill_service(self) -> None:
        self.gallery.kill()
        self.gallery.start()
        await until_answered(self._clients[self.albums[0].owner], "/albums")

    async def _until_idle(self) -> None:
        async with asyncio.timeout(self.options.patience_s):
            waiting = 1
            while waiting:
                await asyncio.sleep(0.2)
                with contextlib.suppress(httpx.TransportError):
                    ((waiting,),) = await self._sql("SELECT count(*) FROM messages WHERE queue LIKE 'gallery/%'")

    async def _sql(self, statement: str) -> list[list[Any]]:
        return await self.gallery.sql(statement)

    # What must hold

    async def _check(self) -> dict[str, Any]:
        rows = {
            (row[0], row[1]): row for row in await self._sql("SELECT owner, name, images, sheets FROM gallery_albums")
        }
        drawn = await self._sheets_by_album("source = 'gallery/sheets'", "data ->> 'key'")
        ordered = await self._sheets_by_album(
            "source = 'gallery/renders'", "(data ->> 'album') || '/' || (data ->> 'sheet')"
        )
        refused: dict[str, list[str]] = {}
        for key, reason in await self._sql("SELECT key, reason FROM gallery_refused"):
            refused.setdefault(key.rpartition("/")[0], []).append(reason)
        for album in self.albums:
            if (row := rows.get((album.owner, album.name))) is None:
                self.problems.append(f"{album.prefix}: it is not there")
                continue
            images, paths = [image["key"] for image in json.loads(row[2])], json.loads(row[3])
            self._check_images(album, images, refused.get(album.prefix, []))
            wanted = list(range(1, len(album.numbers) // TEN + 1))
            self._compare(album, "sheets ordered", ordered.get(album.prefix, []), wanted)
            self._compare(album, "sheets drawn", drawn.get(album.prefix, []), wanted)
            self._compare(
                album, "sheets of the album", paths, [f"/gallery/sheets/{album.name}/{n}.png" for n in wanted]
            )
            await self._check_sheets(album, images, paths)
        dead = await self._sql("SELECT queue, subject, reason FROM dead_letters WHERE queue LIKE 'gallery/%'")
        self.problems += [f"a dead letter: {letter}" for letter in dead]
        return await self._counts(sum(map(len, drawn.values())))

    async def _sheets_by_album(self, condition: str, sheet: str) -> dict[str, list[int]]:
        """The numbers of an album's sheets in the order of their events."""
        found: dict[str, list[int]] = {}
        for (path,) in await self._sql(f"SELECT {sheet} FROM events WHERE {condition} ORDER BY position"):
            album, _, number = path.removesuffix(".png").rpartition("/")
            found.setdefault(album, []).append(int(number))
        return found

    def _check_images(self, album: Album, images: list[str], refused: list[str]) -> None:
        numbers = sorted(self._number(album, key) for key in images)
        self._compare(album, "images", numbers, sorted(album.numbers.values()))
        self._compare(album, "refused", len(refused), len(WASTE) if album.wasteful else 0)

    def _number(self, album: Album, key: str) -> int:
        """Of the two copies of an album's first image either may be the one that it has."""
        name = key.rpartition("/")[2]
        return album.numbers[next(iter(album.numbers)) if name == WASTE[1] else name]

    async def _check_sheets(self, album: Album, images: list[str], paths: list[str]) -> None:
        for n, path in enumerate(paths):
            answer = await self._clients[album.owner].get(f"{self.gallery.url}{path}")
            shown = read_sheet(answer.raise_for_status().content)
            said = [self._number(album, key) for key in images[n * TEN : (n + 1) * TEN]]
            self._compare(album, f"images on sheet {n + 1}", shown, said)

    def _compare(self, album: Album, what: str, found: object, wanted: object) -> None:
        if found != wanted:
            self.problems.append(f"{album.prefix}: {what} are {found} instead of {wanted}")

    async def _counts(self, sheets: int) -> dict[str, Any]:
        ((interrupted,),) = await self._sql(
            "SELECT count(*) FROM failures WHERE error LIKE 'the worker process ended%'"
        )
        ((rendering,),) = await self._sql(
            "SELECT count(*) FROM failures WHERE error LIKE 'the worker process ended%' AND queue = 'gallery/renders'"
        )
        return {
            "albums": len(self.albums),
            "uploads": self.uploads,
            "uploads_tried_again": self.again,
            "sheets": sheets,
            "workers_killed": self.striker.struck["killed"],
            "workers_stopped": self.striker.struck["stopped"],
            "service_kills": self.gallery.kills,
            "attempts_cut_off": interrupted,
            "of_them_renders": rendering,
            "late_commits_refused": self.gallery.log.count("an attempt has no effect"),
        }


async def drive(options: Options, folder: Path) -> dict[str, Any]:
    gallery = Gallery(folder)
    gallery.prepare(options.broken)
    gallery.start()
    try:
        return await Drive(options, gallery).run()
    finally:
        gallery.stop()


def main() -> int:
    parser = argparse.ArgumentParser(description="Drive the gallery app with real processes, faults and kills.")
    parser.add_argument("--albums", type=int, default=200)
    parser.add_argument("--images", type=int, default=25, help="of each album")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--broken", choices=sorted(BROKEN), default="", help="a promise that the app is to break")
    given = parser.parse_args()
    options = Options(albums=given.albums, images=given.images, seed=given.seed, broken=given.broken)
    with tempfile.TemporaryDirectory(prefix="gallery-") as folder:
        facts = asyncio.run(drive(options, Path(folder)))
    print(json.dumps(facts))
    return 1 if facts["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
