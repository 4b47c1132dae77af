"""What Pillow does for the gallery: tells whether an upload can be shown, and draws contact sheets.

A file is examined by making the very tile that a sheet would show, so what was examined can be drawn. What an image is,
its bytes say; names and content types are not asked.
"""

import io
import warnings
from collections.abc import Iterable
from pathlib import PurePosixPath

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

FORMATS = {"GIF": {".gif"}, "JPEG": {".jpg", ".jpeg"}, "PNG": {".png"}, "WEBP": {".webp"}}
MAX_PIXELS = 50_000_000
COLUMNS, ROWS = 5, 2
TILE, GAP = 256, 16
WHITE = (255, 255, 255)

Image.MAX_IMAGE_PIXELS = MAX_PIXELS
warnings.simplefilter("error", Image.DecompressionBombWarning)  # up to twice the limit Pillow only warns


class Unusable(Exception):
    """No sheet can show it; the text says why."""


def examine_image(content: bytes, name: str) -> list[str]:
    """What is noteworthy about an image that can be shown; raises `Unusable`."""
    return _read(content, name)[1]


def draw_sheet(contents: Iterable[bytes]) -> bytes:
    """A contact sheet of up to ten images, as PNG; one image at a time is in memory. Raises `Unusable`."""
    pitch = TILE + GAP
    sheet = Image.new("RGB", (COLUMNS * pitch + GAP, ROWS * pitch + GAP), WHITE)
    for place, content in enumerate(contents):
        tile = _read(content)[0]
        row, column = divmod(place, COLUMNS)
        left, top = GAP + column * pitch, GAP + row * pitch
        sheet.paste(tile, (left + (TILE - tile.width) // 2, top + (TILE - tile.height) // 2))
    drawn = io.BytesIO()
    sheet.save(drawn, "PNG")
    return drawn.getvalue()


def _read(content: bytes, name: str = "") -> tuple[Image.Image, list[str]]:
    """The tile, in RGB, and the notes."""
    try:
        with Image.open(io.BytesIO(content), formats=list(FORMATS)) as image:
            notes = [*_note_format(image, name), *_turn(image)]
            return _shrink(image), notes
    except UnidentifiedImageError:
        raise Unusable("it is no GIF, JPEG, PNG or WebP image") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise Unusable(f"it has more than {MAX_PIXELS:,} pixels") from None
    except MemoryError:
        raise
    except Exception as error:  # decoders raise many kinds for broken files
        raise Unusable(f"it is broken: {error}") from error


def _note_format(image: Image.Image, name: str) -> list[str]:
    format = "JPEG" if image.format == "MPO" else str(image.format)  # several JPEGs in one file, as phones make them
    notes = []
    if name and PurePosixPath(name).suffix.lower() not in FORMATS[format]:
        notes.append(f"it is a {format} image, whatever its name says")
    if image.format != "MPO" and getattr(image, "is_animated", False):
        notes.append("it is animated, sheets show its first frame")
    return notes


def _turn(image: Image.Image) -> list[str]:
    """Decode it, upright."""
    image.draft("RGB", (TILE, TILE))  # a JPEG is decoded at a fraction of its size
    image.load()
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        ImageOps.exif_transpose(image, in_place=True)
    except Exception:  # EXIF data may be any bytes
        return ["its EXIF data are broken"]
    return ["it is turned upright by its EXIF orientation"] if orientation in range(2, 9) else []


def _shrink(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits of grey: converting would cut them off instead of scaling
        image = image.point(lambda level: level / 256).convert("L")
    mode = "RGBA" if image.has_transparency_data else "RGB"
    tile = image if image.mode == mode else image.convert(mode)
    tile.thumbnail((TILE, TILE))
    if mode == "RGBA":
        opaque = Image.new("RGBA", tile.size, WHITE)
        opaque.alpha_composite(tile)
        tile = opaque
    return tile.convert("RGB")
