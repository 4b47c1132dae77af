"""Simulated power loss: record what SQLite asks of the disk, then rebuild what a disk could hold.

`RecordingVFS` sits between SQLite and the real files. It passes every call through and appends a record of
each write, truncation, sync, creation and deletion to its `Journal`, where the test also marks what it was
promised ("commit 17 was acknowledged"). `images` then cuts the power at many points of that journal, yields
the disk images possible there and, with each, the marks made before: the promises that must have survived.

    vfs = RecordingVFS("cut", root=tmp_path)          # SQLite's files below tmp_path are recorded
    connection = apsw.Connection(str(tmp_path / "store.db"), vfs="cut")
    ...; connection.execute("COMMIT"); vfs.journal.mark(17)
    for number, image in enumerate(images(vfs.journal, limit=200, seed=1)):
        image.write_to(tmp_path / f"image-{number}")  # then open the database in there, and check

The disk
- A file's content is durable up to its last completed sync; a sync covers what was written before it began.
- Content in flight is stored by sectors of 512 bytes, each on its own: a sector holds its synced bytes or
  those after any one of the later writes to it, in their order. A write never harms the bytes beside it.
- A truncation happens whole or not at all, and in order with the file's other truncations.
- Growth is separate from content: a file may have grown without its data (zeros or garbage in its place), or
  hold the data and not have grown.
- A directory entry, made or removed, is durable when its directory was synced: SQLite's unix VFS does so at
  the first sync of each journal or WAL handle, and on deletion when asked to. Syncing a file alone does not
  store its name. Entries in flight happen in order for each name, independently between names.

Not simulated: a disk that ignores flush, damage to synced sectors, failed system calls. The shared memory of
a WAL (`-shm`) is gone after a power cut, and is not recorded. Memory-mapped reads are off under this VFS, as
are SQLite's promises about the device other than power-safe overwrite.
"""

import os
import random
import threading
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import apsw

if TYPE_CHECKING:
    from typing_extensions import Buffer

SECTOR = 512
BASE_VFS = "unix"

# What this module's disk grants; SQLite must not rely on more (atomic writes, ordered writes, safe appends).
_GRANTED = apsw.SQLITE_IOCAP_POWERSAFE_OVERWRITE | apsw.SQLITE_IOCAP_SUBPAGE_READ
_SYNCS_DIRECTORY = apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_SUPER_JOURNAL | apsw.SQLITE_OPEN_WAL
_WHOLE = -1  # the place of an operation that is stored as a whole: a truncation, a directory entry

Variant = Literal["none", "all", "torn", "late"]
VARIANTS: tuple[Variant, ...] = ("none", "all", "torn", "torn", "late")
NOTHING_IN_FLIGHT: tuple[Variant, ...] = ("none",)


class FileId(NamedTuple):
    """A file: its path below the recorded root, and a count that tells it from earlier files of that name."""

    name: str
    generation: int


@dataclass(frozen=True, slots=True)
class Existing:
    """A file that was there before the recording began, taken as durable."""

    file: FileId
    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Create:
    file: FileId


@dataclass(frozen=True, slots=True)
class Delete:
    file: FileId


@dataclass(frozen=True, slots=True)
class Write:
    file: FileId
    offset: int
    data: bytes = field(repr=False)

    def __str__(self) -> str:
        return f"Write({self.file.name}, offset {self.offset}, {len(self.data)} bytes)"

    def split(self) -> Iterator[tuple[int, int, bytes]]:
        """Yield sector, offset and bytes of each part of this write that lies in one sector."""
        end = self.offset + len(self.data)
        for sector in range(self.offset // SECTOR, -(-end // SECTOR)):
            low, high = max(self.offset, sector * SECTOR), min(end, (sector + 1) * SECTOR)
            yield sector, low, self.data[low - self.offset : high - self.offset]


@dataclass(frozen=True, slots=True)
class Truncate:
    file: FileId
    size: int


@dataclass(frozen=True, slots=True)
class Sync:
    """A completed sync of a file; it stored the operations among the first `covers` records."""

    file: FileId
    flags: int
    covers: int


@dataclass(frozen=True, slots=True)
class DirectorySync:
    """A completed sync of a directory (relative to the root); `covers` as in `Sync`."""

    directory: str
    covers: int


@dataclass(frozen=True, slots=True)
class Mark:
    payload: object


Change = Write | Truncate
Operation = Create | Delete | Write | Truncate | Sync | DirectorySync
Record = Existing | Operation | Mark


class Journal:
    """The stream of records, in the order in which the operations completed. Safe to use from any thread."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self._lock = threading.Lock()
        self._present: dict[str, FileId] = {}
        self._generations: Counter[str] = Counter()

    def append(self, record: Record) -> int:
        """Append a record and return its index."""
        with self._lock:
            self.records.append(record)
            return len(self.records) - 1

    def mark(self, payload: object) -> None:
        """Note a promise at this moment; every image of a later power cut carries it."""
        self.append(Mark(payload))

    def identify(self, name: str, existing: Path | None) -> FileId:
        """Return the file now called `name`, which it records when new: found at `existing`, or created."""
        with self._lock:
            if name not in self._present:
                self._generations[name] += 1
                file = self._present[name] = FileId(name, self._generations[name])
                self.records.append(Existing(file, existing.read_bytes()) if existing else Create(file))
            return self._present[name]

    def delete(self, file: FileId) -> int:
        """Record that the file has lost its name, and return the record's index."""
        with self._lock:
            self._present.pop(file.name, None)
            self.records.append(Delete(file))
            return len(self.records) - 1


class RecordingFile(apsw.VFSFile):
    """A file of the unix VFS that records what changes it, after the real operation has succeeded."""

    def __init__(self, name: str | apsw.URIFilename, flags: list[int], journal: Journal) -> None:
        super().__init__(BASE_VFS, name, flags)
        self._journal = journal
        self._directory_sync_due = bool(flags[0] & _SYNCS_DIRECTORY and flags[0] & apsw.SQLITE_OPEN_CREATE)
        self._file = FileId("", 0)

    def attach(self, file: FileId) -> None:
        """Say which file this handle is open on, before SQLite gets it."""
        self._file = file

    def xWrite(self, data: "Buffer", offset: int) -> None:
        super().xWrite(data, offset)
        self._journal.append(Write(self._file, offset, bytes(data)))

    def xTruncate(self, newsize: int) -> None:
        super().xTruncate(newsize)
        self._journal.append(Truncate(self._file, newsize))

    def xSync(self, flags: int) -> None:
        covers = len(self._journal.records)
        super().xSync(flags)
        self._journal.append(Sync(self._file, flags, covers))
        if self._directory_sync_due:
            self._directory_sync_due = False
            self._journal.append(DirectorySync(os.path.dirname(self._file.name), covers))

    def xDeviceCharacteristics(self) -> int:
        return super().xDeviceCharacteristics() & _GRANTED

    def xFileControl(self, op: int, ptr: int) -> bool:
        # Growth by chunks would happen below this layer, unrecorded.
        return op == apsw.SQLITE_FCNTL_CHUNK_SIZE or super().xFileControl(op, ptr)


class RecordingVFS(apsw.VFS):
    """The unix VFS, registered under `name`, that records SQLite's files below `root`.

    Temporary files and files elsewhere are passed through unrecorded. With `makedefault` it also serves
    connections that name no VFS. Call `unregister` when done; open connections keep working.
    """

    def __init__(self, name: str, root: Path, *, makedefault: bool = False) -> None:
        self.name = name
        self.journal = Journal()
        self._root = root.resolve()
        self._opening = threading.Lock()
        super().__init__(name, BASE_VFS, makedefault=makedefault)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        path = Path(name.filename() if isinstance(name, apsw.URIFilename) else name or "")
        if name is None or not path.is_relative_to(self._root):
            return apsw.VFSFile(BASE_VFS, name, flags)
        with self._opening:
            existing = path if path.exists() else None
            file = RecordingFile(name, flags, self.journal)
            file.attach(self.journal.identify(self._relative(path), existing))
        return file

    def xDelete(self, filename: str, syncdir: bool) -> None:
        path = Path(filename)
        if not path.is_relative_to(self._root) or not path.exists():
            super().xDelete(filename, syncdir)
            return
        with self._opening:
            file = self.journal.identify(self._relative(path), path)
            super().xDelete(filename, syncdir)
            index = self.journal.delete(file)
        if syncdir:
            self.journal.append(DirectorySync(os.path.dirname(file.name), index + 1))

    def _relative(self, path: Path) -> str:
        return str(path.relative_to(self._root))


@dataclass(frozen=True)
class Image:
    """What the disk may hold after a power cut: content by path relative to the recorded root.

    The first `point` records of the journal had happened; `acknowledged` are the payloads of the marks among
    them, in order. The same journal, arguments and seed give the same image.
    """

    point: int
    variant: Variant
    files: Mapping[str, bytes] = field(repr=False)
    acknowledged: tuple[object, ...]
    last: Record | None

    def write_to(self, directory: Path) -> None:
        """Write the files below `directory`, which is created; raise FileExistsError if it is not empty."""
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise FileExistsError(f"{directory} is not empty: an image describes a whole disk")
        for name, content in self.files.items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def __str__(self) -> str:
        return f"power cut after {self.point} records, the last {self.last}; in flight: {self.variant}"


def images(
    journal: Journal,
    *,
    every: int = 1,
    limit: int | None = None,
    seed: int = 0,
    variants: Sequence[Variant] = VARIANTS,
) -> Iterator[Image]:
    """Yield the images of a power cut before each operation, and after the last one.

    `every` takes one in so many of these points, `limit` at most so many, spread at random; a point lies
    after all marks made so far, where most is promised. At each there is an image for each variant of what
    happened to the operations in flight: "none" of them, "all", "torn" (any subset by sectors), "late" (the
    later ones without the earlier); repeat a variant for more random images. Where nothing is in flight all
    are alike, and one is yielded as "none". Images are computed from the journal alone, in memory.
    """
    records = tuple(journal.records)
    disk = _Disk(records)
    for point in _choose_points(records, every, limit, seed):
        disk.advance(point)
        in_flight = disk.in_flight()
        for number, variant in enumerate(variants if in_flight else NOTHING_IN_FLIGHT):
            rng = random.Random(f"{seed}/{point}/{number}")
            survivors = _choose_survivors(in_flight, variant, rng)
            files = disk.compose(survivors, rng if variant in ("torn", "late") else None)
            last = records[point - 1] if point else None
            yield Image(point, variant, files, tuple(disk.marks), last)


def _choose_points(records: Sequence[Record], every: int, limit: int | None, seed: int) -> list[int]:
    points = [index for index, record in enumerate(records) if not isinstance(record, Existing | Mark)]
    points.append(len(records))
    rng = random.Random(seed)
    chosen = points[rng.randrange(every) :: every]
    return chosen if limit is None or limit >= len(chosen) else sorted(rng.sample(chosen, limit))


class _Part(NamedTuple):
    """A part of an operation that is stored or lost as one: a sector of a write, or the whole."""

    record: int
    place: int


# Parts that are stored in order: those of one sector of a file, a file's truncations, a name's entries.
_InFlight = dict[tuple[FileId | str, int], list[_Part]]


def _choose_survivors(in_flight: _InFlight, variant: Variant, rng: random.Random) -> set[_Part]:
    lines = list(in_flight.values())
    match variant:
        case "none":
            return set()
        case "all":
            return {part for line in lines for part in line}
        case "torn":
            chance = rng.choice((0.1, 0.5, 0.9))
            lengths = [len(line) if rng.random() < chance else rng.randrange(len(line)) for line in lines]
            return {part for line, length in zip(lines, lengths, strict=True) for part in line[:length]}
        case "late":
            cut = rng.choice(sorted({part for line in lines for part in line}))
            return {part for line in lines if line[-1] >= cut for part in line}


class _Disk:
    """What is durable and what is in flight after the first records of a journal."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.marks: list[object] = []
        self._records = records
        self._point = 0
        self._content: defaultdict[FileId, bytearray] = defaultdict(bytearray)
        self._changes: defaultdict[FileId, list[tuple[int, Change]]] = defaultdict(list)
        self._names: dict[str, FileId | None] = {}
        self._entries: defaultdict[str, list[tuple[int, FileId | None]]] = defaultdict(list)
        # Present from the start, although SQLite opens some files (a WAL) only when it first needs them.
        for record in records:
            if isinstance(record, Existing):
                self._content[record.file] = bytearray(record.content)
                self._names[record.file.name] = record.file

    def advance(self, point: int) -> None:
        """Let the records up to `point` happen."""
        for index in range(self._point, point):
            self._apply(index, self._records[index])
        self._point = point

    def _apply(self, index: int, record: Record) -> None:
        match record:
            case Mark(payload):
                self.marks.append(payload)
            case Create(file):
                self._entries[file.name].append((index, file))
            case Delete(file):
                self._entries[file.name].append((index, None))
            case Write(file) | Truncate(file):
                self._changes[file].append((index, record))
            case Sync(file, _, covers):
                covered = bisect_left(self._changes[file], covers, key=lambda change: change[0])
                _replay(self._content[file], [change for _, change in self._changes[file][:covered]])
                del self._changes[file][:covered]
            case DirectorySync(directory, covers):
                self._sync_directory(directory, covers)
            case Existing():
                pass

    def _sync_directory(self, directory: str, covers: int) -> None:
        for name, entries in self._entries.items():
            covered = bisect_left(entries, covers, key=lambda entry: entry[0])
            if covered and os.path.dirname(name) == directory:
                self._names[name] = entries[covered - 1][1]
                del entries[:covered]

    def in_flight(self) -> _InFlight:
        """Return the parts of the operations that are not durable."""
        parts: _InFlight = defaultdict(list)
        for name, entries in self._entries.items():
            for index, _ in entries:
                parts[name, _WHOLE].append(_Part(index, _WHOLE))
        for file, changes in self._changes.items():
            for index, change in changes:
                places = (sector for sector, _, _ in change.split()) if isinstance(change, Write) else (_WHOLE,)
                for place in places:
                    parts[file, place].append(_Part(index, place))
        return parts

    def compose(self, survivors: set[_Part], rng: random.Random | None) -> dict[str, bytes]:
        """Return the files by name if of what is in flight only `survivors` are stored; `rng` draws sizes."""
        files = {}
        for name in sorted(self._names.keys() | self._entries.keys()):
            file = self._names.get(name)
            for index, entry in self._entries[name]:
                file = entry if _Part(index, _WHOLE) in survivors else file
            if file is not None:
                files[name] = self._compose_file(file, survivors, rng)
        return files

    def _compose_file(self, file: FileId, survivors: set[_Part], rng: random.Random | None) -> bytes:
        data = bytearray(self._content[file])
        changes = self._changes[file]
        if not changes:
            return bytes(data)
        settled = size = len(data)
        garbage = rng if rng and rng.random() < 0.5 else None
        for index, change in changes:
            if isinstance(change, Truncate):
                size = change.size
                if _Part(index, _WHOLE) in survivors:
                    settled = size
                    _resize(data, size)
                continue
            size = max(size, change.offset + len(change.data))
            for sector, offset, part in change.split():
                if _Part(index, sector) in survivors:
                    _put(data, offset, part, garbage)
        if rng:
            _resize(data, _choose_size(settled, len(data), max(size, len(data)), rng), garbage)
        return bytes(data)


def _choose_size(settled: int, stored: int, grown: int, rng: random.Random) -> int:
    between = settled + SECTOR * rng.randrange((grown - settled) // SECTOR + 1)
    return rng.choice((settled, stored, grown, between))


def _replay(data: bytearray, changes: Sequence[Change]) -> None:
    for change in changes:
        if isinstance(change, Truncate):
            _resize(data, change.size)
        else:
            _put(data, change.offset, change.data)


def _put(data: bytearray, offset: int, part: bytes, garbage: random.Random | None = None) -> None:
    _resize(data, max(len(data), offset), garbage)
    data[offset : offset + len(part)] = part


def _resize(data: bytearray, size: int, garbage: random.Random | None = None) -> None:
    growth = size - len(data)
    if growth > 0:
        data += garbage.randbytes(growth) if garbage else bytes(growth)
    else:
        del data[size:]
