"""Images, good ones and one of each fault; and an album as its owner sees it."""

import io
import random
import struct
import zlib
from collections.abc import Sequence
from typing import Any, Self

import httpx
from PIL import Image

from apps.gallery.app import app
from headwater.testing import Harness

ROLES = ["images.read", "images.write"]
SIZE = (60, 40)
UPRIGHT, LYING = 1, 6
"""EXIF orientations; a lying image has its top at the right."""


def picture(seed: int, format: str = "PNG", size: tuple[int, int] = SIZE, mode: str = "RGB", **options: Any) -> bytes:
    """A picture of one colour, another for each seed."""
    red, green, blue = random.Random(seed).randbytes(3)
    return encode(Image.new("RGB", size, (red, green, blue)).convert(mode), format, **options)


def encode(image: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def noise(seed: int) -> Image.Image:
    return Image.frombytes("RGB", SIZE, random.Random(seed).randbytes(SIZE[0] * SIZE[1] * 3))


def cut_off(format: str) -> bytes:
    """The first two thirds of a file, header and all."""
    content = encode(noise(7), format)
    return content[: len(content) * 2 // 3]


def damaged() -> bytes:
    """A PNG whose image data are not what their checksum says."""
    content = bytearray(encode(noise(8), "PNG"))
    content[len(content) // 2] ^= 0xFF
    return bytes(content)


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def bomb(side: int) -> bytes:
    """A few bytes that say they are a PNG of so many pixels on each side."""
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(1000))), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def text_bomb() -> bytes:
    """A PNG with a compressed comment of 100 MB."""
    content = encode(noise(9), "PNG")
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(1_000_000)) for _ in range(100)) + packer.flush()
    return content[:33] + chunk(b"zTXt", b"comment\0\0" + packed) + content[33:]


def animated(format: str) -> bytes:
    """Black, then white."""
    frames = [Image.new("RGB", SIZE, colour) for colour in ("black", "white")]
    return encode(frames[0], format, save_all=True, append_images=frames[1:], duration=100)


def halves(orientation: int = UPRIGHT, format: str = "JPEG") -> bytes:
    """Red on the left, blue on the right, when it is upright."""
    image = Image.new("RGB", SIZE, "blue")
    image.paste((255, 0, 0), (0, 0, SIZE[0] // 2, SIZE[1]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    if orientation == LYING:
        image = image.transpose(Image.Transpose.ROTATE_90)
    return encode(image, format, exif=exif, quality=95)


class Owner:
    """A user with images; names are given without the prefix."""

    def __init__(self, harness: Harness, subject: str = "ann") -> None:
        self._harness = harness
        self.client: httpx.AsyncClient = harness.client(app, token={"sub": subject, "roles": ROLES})

    async def upload(self, name: str, content: bytes) -> None:
        answer = await self.client.put(f"/uploads/{name}", content=content)
        assert answer.status_code in (200, 201), answer.text

    async def remove(self, name: str) -> None:
        assert (await self.client.delete(f"/uploads/{name}")).status_code == 204

    async def fill(self, seeds: Sequence[int], album: str = "summer") -> Self:
        """One image after the other, `{seed}.png`, each recorded before the next."""
        for seed in seeds:
            await self.upload(f"{album}/{seed}.png", picture(seed))
            await self._harness.run_until_idle()
        return self

    async def album(self, name: str = "summer") -> dict[str, Any]:
        answer = await self.client.get(f"/albums/{name.replace('/', '%2F')}")
        if answer.status_code == 404:
            return {"images": [], "sheets": []}
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def names(self, album: str = "summer") -> list[str]:
        return [image["key"].rpartition("/")[2] for image in (await self.album(album))["images"]]

    async def refusals(self) -> dict[str, str]:
        """Reasons by key."""
        await self._harness.run_until_idle()
        answer = await self.client.get("/refused")
        assert answer.status_code == 200, answer.text
        return {row["key"]: row["reason"] for row in answer.json()["items"]}

    async def sheet(self, n: int, album: str = "summer") -> Image.Image | None:
        """As the album links it; None when it does not."""
        path = f"/gallery/sheets/{album}/{n}.png"
        linked = path in (await self.album(album))["sheets"]
        answer = await self.client.get(path.removeprefix("/gallery"))
        assert (answer.status_code == 200) == linked, f"{path} is answered with {answer.status_code}"
        return Image.open(io.BytesIO(answer.content)) if linked else None


def colours(sheet: Image.Image | None) -> list[Any]:
    """Of the middles of the ten places."""
    assert sheet is not None
    return [sheet.getpixel((16 + 272 * column + 128, 16 + 272 * row + 128)) for row in range(2) for column in range(5)]


def colour(seed: int) -> tuple[int, ...]:
    return tuple(random.Random(seed).randbytes(3))
