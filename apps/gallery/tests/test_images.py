"""Which uploads can be shown, which cannot and why, and how a sheet shows them."""

import io
import warnings
from collections.abc import Iterator

import pytest
from PIL import Image

from apps.gallery.images import Unusable, draw_sheet, examine_image
from apps.gallery.tests import pictures
from apps.gallery.tests.pictures import LYING, SIZE, Owner, colours, encode, picture
from headwater.testing import Harness

WHITE = (255, 255, 255)
BROKEN = {
    "text": (b"these are words", "it is no GIF, JPEG, PNG or WebP image"),
    "nothing": (b"", "it is no GIF, JPEG, PNG or WebP image"),
    "another format": (picture(1, "BMP"), "it is no GIF, JPEG, PNG or WebP image"),
    "header alone": (picture(1)[:20], "it is broken: "),
    "JPEG cut off": (pictures.cut_off("JPEG"), "it is broken: "),
    "PNG cut off": (pictures.cut_off("PNG"), "it is broken: "),
    "GIF cut off": (pictures.cut_off("GIF"), "it is broken: "),
    "WebP cut off": (pictures.cut_off("WEBP"), "it is "),
    "damaged": (pictures.damaged(), "it is broken: "),
    "somewhat too large": (pictures.bomb(8_000), "it has more than 50,000,000 pixels"),
    "bomb": (pictures.bomb(100_000), "it has more than 50,000,000 pixels"),
    "bomb in a comment": (pictures.text_bomb(), "it is "),
}
GOOD: dict[str, tuple[bytes, str, list[str]]] = {
    "PNG": (picture(1), "a.png", []),
    "JPEG": (picture(1, "JPEG"), "a.JPG", []),
    "GIF": (picture(1, "GIF"), "a.gif", []),
    "WebP": (picture(1, "WEBP"), "a.webp", []),
    "CMYK": (picture(1, "JPEG", mode="CMYK"), "a.jpeg", []),
    "palette": (picture(1, mode="P"), "a.png", []),
    "black and white": (picture(1, mode="1"), "a.png", []),
    "one pixel": (picture(1, size=(1, 1)), "a.png", []),
    "a line": (picture(1, size=(10_000, 1)), "a.png", []),
    "two JPEGs in one": (pictures.animated("MPO"), "a.jpg", []),
    "PNG named JPEG": (picture(1), "a.jpg", ["it is a PNG image, whatever its name says"]),
    "JPEG named text": (picture(1, "JPEG"), "a.txt", ["it is a JPEG image, whatever its name says"]),
    "no extension": (picture(1), "a", ["it is a PNG image, whatever its name says"]),
    "animated GIF": (pictures.animated("GIF"), "a.gif", ["it is animated, sheets show its first frame"]),
    "animated PNG": (pictures.animated("PNG"), "a.png", ["it is animated, sheets show its first frame"]),
    "animated WebP": (pictures.animated("WEBP"), "a.webp", ["it is animated, sheets show its first frame"]),
    "lying JPEG": (pictures.halves(LYING), "a.jpg", ["it is turned upright by its EXIF orientation"]),
    "broken EXIF": (
        picture(1, exif=b"Exif\0\0nonsense"),
        "a.png",
        ["its EXIF data are broken"],
    ),
}


@pytest.fixture(autouse=True)
def lenient() -> Iterator[None]:
    """Pillow warns of much in broken files; as outside of tests, that is no error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


@pytest.mark.parametrize("case", BROKEN)
def test_what_cannot_be_shown_is_refused_with_a_reason(case: str) -> None:
    content, reason = BROKEN[case]
    with pytest.raises(Unusable) as refused:
        examine_image(content, "a.png")
    assert str(refused.value).startswith(reason)
    assert "0x" not in str(refused.value)


@pytest.mark.parametrize("case", GOOD)
def test_what_can_be_shown_is_noted_and_drawn(case: str) -> None:
    content, name, notes = GOOD[case]
    assert examine_image(content, name) == notes
    assert draw_sheet([content]).startswith(b"\x89PNG")


def sheet_of(*contents: bytes) -> Image.Image:
    return Image.open(io.BytesIO(draw_sheet(contents)))


def test_a_sheet_has_two_rows_of_five() -> None:
    sheet = sheet_of(*(picture(seed) for seed in range(10)))
    assert colours(sheet) == [pictures.colour(seed) for seed in range(10)]
    assert sheet.size == (1376, 560)


def test_an_image_keeps_its_shape_in_the_middle_of_its_place() -> None:
    wide, tall = sheet_of(picture(1, size=(512, 64))), sheet_of(picture(1, size=(64, 512)))
    assert wide.getpixel((16 + 2, 16 + 128)) == tall.getpixel((16 + 128, 16 + 2)) == pictures.colour(1)
    assert wide.getpixel((16 + 128, 16 + 2)) == tall.getpixel((16 + 2, 16 + 128)) == WHITE


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_a_lying_image_is_shown_upright(format: str) -> None:
    upright, turned = sheet_of(pictures.halves(format=format)), sheet_of(pictures.halves(LYING, format))
    for x in (16 + 128 - 20, 16 + 128 + 20):
        shown, wanted = (sheet.getpixel((x, 16 + 128)) for sheet in (turned, upright))
        assert isinstance(shown, tuple)
        assert isinstance(wanted, tuple)
        assert max(abs(a - b) for a, b in zip(shown, wanted, strict=True)) < 40


def test_of_an_animation_the_first_frame_is_shown() -> None:
    for format in ("GIF", "PNG", "WEBP"):
        assert max(colours(sheet_of(pictures.animated(format)))[0]) < 10


def test_transparent_is_white() -> None:
    assert colours(sheet_of(encode(Image.new("RGBA", SIZE, (255, 0, 0, 0)), "PNG")))[0] == WHITE
    assert colours(sheet_of(encode(Image.new("LA", SIZE, (0, 0)), "PNG")))[0] == WHITE


def test_grey_of_16_bits_keeps_its_levels() -> None:
    assert colours(sheet_of(encode(Image.new("I;16", SIZE, 0x4000), "PNG")))[0] == (64, 64, 64)


async def test_the_owner_sees_why(harness: Harness, ann: Owner) -> None:
    for case, (content, _) in BROKEN.items():
        await ann.upload(f"summer/{case}.png", content)
    refusals = await ann.refusals()
    assert {key.removeprefix("ann/summer/").removesuffix(".png") for key in refusals} == BROKEN.keys()
    for case, (_, reason) in BROKEN.items():
        assert refusals[f"ann/summer/{case}.png"].startswith(reason)
    assert await ann.names() == []
    for number, (content, name, _) in enumerate(GOOD.values()):
        await ann.upload(f"all/{number}/{name}", content)
    await harness.run_until_idle()
    for number, (_, name, notes) in enumerate(GOOD.values()):
        (image,) = (await ann.album(f"all/{number}"))["images"]
        assert (image["key"], image["notes"]) == (f"ann/all/{number}/{name}", notes)


async def test_what_cannot_be_shown_does_not_count(harness: Harness, ann: Owner) -> None:
    await ann.fill(range(9))
    await ann.upload("summer/words.png", b"these are words")
    await harness.run_until_idle()
    assert (await ann.album())["sheets"] == []
    await ann.upload("summer/words.png", picture(9))
    assert await ann.refusals() == {}
    assert colours(await ann.sheet(1)) == [pictures.colour(seed) for seed in range(10)]
