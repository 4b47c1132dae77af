"""Images that users upload become albums, and each ten images of an album a contact sheet.

A sheet shows one ten of the album as it is now: when an image of the ten goes or becomes another, its sheet goes in the
same commit and, if the ten is still full, is drawn anew.
"""

from typing import Annotated, Any
from urllib.parse import quote, unquote

from pydantic import BaseModel, Field

from apps.gallery.images import Unusable, draw_sheet, examine_image
from headwater import App, Change, Discard, Event, ObjectInfo, Removed, Retry, Scale, attempt, require, wait

TEN = 10
EXAMINATIONS = 8
LONGEST_KEY = 1000
LARGEST_ALBUM = 100_000


class Image(BaseModel):
    """An upload that can be shown; `notes` is what had to be done for it."""

    key: str
    sha256: str
    notes: list[str] = []


class Album(BaseModel):
    """In the order of recording; `sheets` are the paths of the sheets that are drawn, in order."""

    owner: str
    name: str
    images: list[Image] = []
    sheets: list[str] = []


class Refusal(BaseModel):
    """An upload that is in no album, and why."""

    owner: str
    key: str
    sha256: str
    reason: str
    notes: list[str] = []


class Verdict(BaseModel):
    """What one upload was found to be; without an etag, that the object was deleted."""

    key: str
    etag: str = ""
    sha256: str = ""
    notes: list[str] = []
    reason: str = ""


class Job(BaseModel):
    """A sheet to be drawn; `album` is the prefix of its uploads."""

    album: str
    sheet: Annotated[int, Field(ge=1)]
    images: list[Image]


class Drawn(Job):
    etag: str


class Entry(BaseModel):
    """What an album is to take note of: one of the two."""

    verdict: Verdict | None = None
    drawn: Drawn | None = None


app = App("gallery")
uploads = app.bucket("uploads", max_size=20_000_000)
sheets = app.bucket("sheets")
albums = app.table("albums", Album, key=("owner", "name"))
refused = app.table("refused", Refusal, key=("owner", "key"), indexes={"by-content": ("sha256", "key")}, images="none")
entries = app.queue("entries", Entry, fifo=True)
renders = app.queue("renders", Job, fifo=True, visibility="5m", max_receives=20)

reader, writer = require("images.read"), require("images.write")
app.expose(uploads, "/uploads", read=reader, write=writer, own_prefix=True)
app.expose(sheets, "/sheets", read=reader, own_prefix=True)
app.expose(albums, "/albums", methods=["GET"], read=reader, owner="owner")
app.expose(refused, "/refused", methods=["GET"], read=reader, owner="owner")


def album_of(key: str) -> str:
    """The prefix `sub/…album…` of an upload `sub/…album…/name`."""
    return key.rpartition("/")[0]


def split_album(album: str) -> tuple[str, str]:
    """(owner, name); the bucket escapes slashes in a subject."""
    prefix, _, name = album.partition("/")
    return unquote(prefix), name


# Uploads


@app.on(uploads.created, run_in="process", scale=Scale(max=4), timeout="1m", max_receives=EXAMINATIONS)
def examine(event: Event[ObjectInfo]) -> None:
    upload = event.data
    if not album_of(upload.key):
        raise Discard("it is below nobody's prefix")
    verdict = Verdict(key=upload.key, etag=upload.etag, sha256=upload.sha256)
    try:
        check_name(upload.key)
        if event.attempt == EXAMINATIONS:  # workers die of it; a dead letter would not be seen by its owner
            raise Unusable(f"{EXAMINATIONS - 1} attempts to examine it have failed")
        verdict.notes = examine_image(wait(uploads.get(upload)), upload.key)
    except Unusable as why:
        verdict.reason = str(why)
    wait(entries.send(Entry(verdict=verdict), group=album_of(upload.key)))


def check_name(key: str) -> None:
    if not split_album(album_of(key))[1]:
        raise Unusable("it is in no album: upload it as album/name")
    if len(key.encode()) > LONGEST_KEY:
        raise Unusable(f"its name is too long, {LONGEST_KEY} bytes are possible")


@app.on(uploads.deleted)
async def withdraw(event: Removed[ObjectInfo]) -> None:
    if album_of(event.old.key):
        await entries.send(Entry(verdict=Verdict(key=event.old.key)), group=album_of(event.old.key))


@app.on(entries, batch=50)
async def record(events: list[Event[Entry]]) -> None:
    """All that writes an album, in order, so that nothing conflicts; in a batch it may grow by several images."""
    for event in events:
        async with attempt(event):
            if event.data.verdict is not None:
                await record_verdict(event.data.verdict)
            if event.data.drawn is not None:
                await link_sheet(event.data.drawn)


async def record_verdict(verdict: Verdict) -> None:
    """Bring album and refusals to what the upload is now."""
    present = await uploads.head(verdict.key)
    if (present.etag if present else "") != verdict.etag:
        raise Discard("it was replaced or deleted since, and that comes next")
    owner, name = split_album(album_of(verdict.key))
    await refused.delete(owner, verdict.key)
    before = await albums.get(owner, name) if name else None
    album = before or Album(owner=owner, name=name)
    reason = verdict.reason or objection(album, verdict)
    if present is not None and reason:
        refusal = Refusal(owner=owner, reason=reason, **verdict.model_dump(include={"key", "sha256", "notes"}))
        await refused.put(refusal)
    image = Image(key=verdict.key, sha256=verdict.sha256, notes=verdict.notes)
    await save(album, await arrange(album, verdict.key, None if reason or present is None else image))


def objection(album: Album, verdict: Verdict) -> str:
    others = [image for image in album.images if image.key != verdict.key]
    if any(image.sha256 == verdict.sha256 for image in others):
        return "the album has this image already"
    if len(others) == len(album.images) and len(album.model_dump_json().encode()) > LARGEST_ALBUM:
        return "the album is full"
    return ""


async def arrange(album: Album, key: str, image: Image | None) -> list[Image]:
    """The album's images with this one in its place, or without it; then a duplicate of it moves up."""
    images = [image if old.key == key and image else old for old in album.images if old.key != key or image]
    if image is not None and image not in images:
        images.append(image)
    for gone in (old for old in album.images if old.key == key and (image is None or old.sha256 != image.sha256)):
        twin = await find_duplicate(gone)
        if twin is not None:
            await refused.delete(twin.owner, twin.key)
            images.append(Image(key=twin.key, sha256=twin.sha256, notes=twin.notes))
    return images


async def find_duplicate(image: Image) -> Refusal | None:
    """An upload to the album that was refused because this image was there."""
    cursor = None
    while True:
        page = await refused.query(
            image.sha256, f"{album_of(image.key)}/", index="by-content", limit=1000, cursor=cursor
        )
        for row in page.items:
            if album_of(row.key) == album_of(image.key) and row.key != image.key:
                return row
        if (cursor := page.cursor) is None:
            return None


async def save(album: Album, images: list[Image]) -> None:
    """Put the album; the sheets of tens that are no more what they were go with the same commit."""
    stale = [n for n in full_tens(album.images) if ten(album.images, n) != ten(images, n)]
    for n in stale:
        await sheets.delete(f"{album_of(album.images[0].key)}/{n}.png")
    gone = {path_of(album.name, n) for n in stale}
    if images:
        kept = [path for path in album.sheets if path not in gone]
        await albums.put(album.model_copy(update={"images": images, "sheets": kept}))
    elif album.images:
        await albums.delete(album.owner, album.name)


# Sheets


def full_tens(images: list[Image]) -> range:
    return range(1, len(images) // TEN + 1)


def ten(images: list[Image], n: int) -> list[Image]:
    return images[(n - 1) * TEN : n * TEN]


def filled_tens(change: Change[Album]) -> list[int]:
    """Full tens that were not full before, or were others: the first when 9 images become 10, the second at 20."""
    old = change.old.images if change.old else []
    new = change.new.images if change.new else []
    return [n for n in full_tens(new) if ten(old, n) != ten(new, n)]


def fills_tens(change: Any) -> bool:
    return bool(filled_tens(change))


@app.on(albums, when=fills_tens)
async def order_sheets(change: Change[Album]) -> None:
    for n in filled_tens(change):
        images = ten(change.data.images, n)
        album = album_of(images[0].key)
        await renders.send(Job(album=album, sheet=n, images=images), group=album)


@app.on(renders, run_in="process", scale=Scale(max=4), timeout="5m")
def render(event: Event[Job]) -> None:
    job = event.data
    wait(check_wanted(job))
    content = draw_sheet(wait(read_upload(image)) for image in job.images)
    sheet = wait(sheets.put(f"{job.album}/{job.sheet}.png", content, content_type="image/png"))
    wait(entries.send(Entry(drawn=Drawn(**job.model_dump(), etag=sheet.etag)), group=job.album))


async def check_wanted(job: Job) -> None:
    album = await albums.get(*split_album(job.album), validate=False)  # `link_sheet` looks again
    if album is None or ten(album.images, job.sheet) != job.images:
        raise Discard("the album has changed since")
    if path_of(album.name, job.sheet) in album.sheets:
        raise Discard("this sheet is there")


async def read_upload(image: Image) -> bytes:
    upload = await uploads.head(image.key)
    if upload is None or upload.sha256 != image.sha256:
        raise Retry("2s", f"{image.key} was replaced or deleted, which the album does not know yet")
    return await uploads.get(upload)


async def link_sheet(sheet: Drawn) -> None:
    key = f"{sheet.album}/{sheet.sheet}.png"
    present = await sheets.head(key)
    if present is None or present.etag != sheet.etag:
        raise Discard("it was removed or drawn anew")
    album = await albums.get(*split_album(sheet.album))
    if album is None or ten(album.images, sheet.sheet) != sheet.images:
        await sheets.delete(key)
        return
    paths = {*album.sheets, path_of(album.name, sheet.sheet)}
    album.sheets = [path for n in full_tens(album.images) if (path := path_of(album.name, n)) in paths]
    await albums.put(album)


def path_of(album: str, n: int) -> str:
    """Where the owner gets the sheet."""
    return f"/{app.name}/sheets/{quote(album)}/{n}.png"
