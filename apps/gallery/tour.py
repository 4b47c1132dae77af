"""The gallery's part of the tour: ten images become a sheet, drawn by a worker; what cannot be shown; whose it is."""

import asyncio
import io
from collections.abc import Callable, Sequence
from typing import Any

import httpx
from PIL import Image

from apps.play import PAUSE_S, Admin, Command, Play, Step, check, expect

ALBUM, SHEET = "/gallery/albums/summer", "/gallery/sheets/summer/1.png"
LYING = 6
PAGES = ["/gallery/docs"]


def steps(http: httpx.AsyncClient, admin: Admin, command: Command) -> list[Step]:
    play = GalleryTour(http, admin, command)
    return [
        play.nine_images_bring_no_sheet,
        play.the_tenth_brings_one,
        play.what_cannot_be_shown_does_not_count,
        play.another_user_sees_nothing_of_it,
        play.a_deleted_image_is_on_no_sheet,
    ]


class GalleryTour(Play):
    def __init__(self, http: httpx.AsyncClient, admin: Admin, command: Command) -> None:
        super().__init__(http, admin, command)
        self._tokens: dict[str, str] = {}

    async def nine_images_bring_no_sheet(self) -> Sequence[str]:
        for user in ("ann", "bob"):
            roles = ("--role", "images.read", "--role", "images.write")
            self._tokens[user] = (await self._command("token", user, *roles)).strip()
        await asyncio.gather(*(self._upload(f"{n}.jpg", photograph(n, "JPEG")) for n in range(1, 10)))
        album = await self._until(lambda album: len(album["images"]) == 9)
        check(album["sheets"] == [], f"the album is {album}")
        return ["PUT /gallery/uploads/summer/1.jpg … 9.jpg as ann", "GET /gallery/albums/summer: 9 images, no sheet"]

    async def the_tenth_brings_one(self) -> Sequence[str]:
        await self._upload("10.jpg", photograph(10, "JPEG", LYING))
        album = await self._until(lambda album: album["sheets"] == [SHEET])
        notes = [image["notes"] for image in album["images"]]
        check(notes == [[]] * 9 + [["it is turned upright by its EXIF orientation"]], f"the notes are {notes}")
        sheet = expect(await self._get("ann", SHEET), 200)
        with Image.open(io.BytesIO(sheet.content)) as image:
            size = f"{image.width} x {image.height}"
        scaled = (await self._admin("scalings", queue="gallery/renders"))["scalings"]
        return [
            f"GET /gallery/albums/summer: 10 images, one of them {notes[-1][0].removeprefix('it is ')}",
            f"GET {SHEET}: {size} pixels",
            f"headwater scale history gallery/renders: {scaled[-1]['wanted']} worker, for {scaled[-1]['reason']}",
        ]

    async def what_cannot_be_shown_does_not_count(self) -> Sequence[str]:
        files = {
            "words.png": b"no image at all",
            "cut-off.jpg": photograph(11, "JPEG")[:600],
            "copy.jpg": photograph(1, "JPEG"),
        }
        for name, content in files.items():
            await self._upload(name, content)
        rows = await self._until_refused(len(files))
        count = len((await self._album())["images"])
        check(count == 10, f"the album has {count} images")
        return ["GET /gallery/refused:", *(f"  {row['key']}: {row['reason']}" for row in rows)]

    async def another_user_sees_nothing_of_it(self) -> Sequence[str]:
        for path in (ALBUM, SHEET, "/gallery/uploads/summer/1.jpg"):
            expect(await self._get("bob", path), 404)
            expect(await self._http.get(path), 401)
        return [f"GET {ALBUM} and GET {SHEET} as bob: 404, without a token: 401"]

    async def a_deleted_image_is_on_no_sheet(self) -> Sequence[str]:
        expect(await self._http.delete("/gallery/uploads/summer/9.jpg", headers=self._bearer("ann")), 204)
        await self._until(lambda album: album["sheets"] == [])
        expect(await self._get("ann", SHEET), 404)
        await self._upload("12.png", photograph(12, "PNG"))
        await self._until(lambda album: album["sheets"] == [SHEET])
        expect(await self._get("ann", SHEET), 200)
        return [
            f"DELETE /gallery/uploads/summer/9.jpg: GET {SHEET}: 404",
            "PUT another one: 200, a sheet of the new ten",
        ]

    async def _upload(self, name: str, content: bytes) -> None:
        path = f"/gallery/uploads/summer/{name}"
        expect(await self._http.put(path, content=content, headers=self._bearer("ann")), 201)

    async def _get(self, user: str, path: str) -> httpx.Response:
        return await self._http.get(path, headers=self._bearer(user))

    def _bearer(self, user: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._tokens[user]}"}

    async def _album(self) -> dict[str, Any]:
        answer = await self._get("ann", ALBUM)
        return {"images": [], "sheets": []} if answer.status_code == 404 else dict(expect(answer, 200).json())

    async def _until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Look at the album again and again; the step's time-out ends it."""
        while True:
            album = await self._album()
            if wanted(album):
                return album
            await asyncio.sleep(PAUSE_S)

    async def _until_refused(self, count: int) -> list[dict[str, Any]]:
        while True:
            rows: list[dict[str, Any]] = expect(await self._get("ann", "/gallery/refused"), 200).json()["items"]
            if len(rows) == count:
                return rows
            await asyncio.sleep(PAUSE_S)


def photograph(n: int, format: str, orientation: int = 1) -> bytes:
    """A sun that rises from one image to the next."""
    sky = Image.linear_gradient("L").resize((320, 240))
    image = Image.merge("RGB", (sky, sky, Image.new("L", sky.size, 200)))
    image.paste((255, 200, 40), (130, 210 - 16 * n, 190, 270 - 16 * n))
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    image.save(file, format, exif=exif)
    return file.getvalue()
