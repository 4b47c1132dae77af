"""A disk for blobs that records what is done to it, and what a power cut may leave of that.

POSIX promises two things: what was written to a file is there after its fsync, and a name in a folder after the fsync
of that folder. All else may be there or not. An image is made of a prefix of the record in one of four ways: names and
bytes each as flushed last, or as they stood. This port sees what `LocalBlobs` asks of the system; what the
system asks of the disk, and a disk that lies about flushes, are not covered.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

from headwater.objects.local import Disk

Step = tuple[str, Path, Path | bytes | None]


class RecordingDisk(Disk):
    """Does everything, and records it. `leave_out` is a kind of step that it neither does nor records."""

    def __init__(self, leave_out: str = "") -> None:
        self.steps: list[Step] = []
        self._leave_out = leave_out

    def create(self, path: Path) -> BinaryIO:
        self.steps.append(("create", path, None))
        return super().create(path)

    def write(self, file: BinaryIO, data: bytes) -> None:
        self.steps.append(("write", Path(file.name), data))
        super().write(file, data)

    def flush(self, file: BinaryIO) -> None:
        if self._leave_out != "flush":
            super().flush(file)
            self.steps.append(("flush", Path(file.name), None))

    def rename(self, old: Path, new: Path) -> None:
        self.steps.append(("rename", old, new))
        super().rename(old, new)

    def make_folder(self, path: Path) -> None:
        super().make_folder(path)
        self.steps.append(("make_folder", path, None))

    def flush_folder(self, path: Path) -> None:
        if self._leave_out not in ("flush_folder", f"flush_folder {path.name}"):
            super().flush_folder(path)
            self.steps.append(("flush_folder", path, None))

    def remove(self, path: Path) -> None:
        self.steps.append(("remove", path, None))
        super().remove(path)


@dataclass
class _File:
    content: bytes = b""
    flushed: bytes = b""


@dataclass
class _Folder:
    names: dict[str, _File | _Folder] = field(default_factory=dict)
    flushed: dict[str, _File | _Folder] = field(default_factory=dict)


State = Literal["flushed", "present"]


class _Model:
    def __init__(self, base: Path) -> None:
        self._base = base
        self.root = _Folder()

    def apply(self, step: Step) -> None:
        kind, path, more = step
        folder = self._folder(path.parent) if path != self._base else self.root
        match kind:
            case "create":
                folder.names[path.name] = _File()
            case "make_folder":
                folder.names[path.name] = _Folder()
            case "remove":
                folder.names.pop(path.name, None)
            case "rename":
                assert isinstance(more, Path)
                self._folder(more.parent).names[more.name] = folder.names.pop(path.name)
            case "flush_folder":
                flushed = self._folder(path)
                flushed.flushed = dict(flushed.names)
            case _:
                file = folder.names[path.name]
                assert isinstance(file, _File)
                if kind == "write":
                    assert isinstance(more, bytes)
                    file.content += more
                else:
                    file.flushed = file.content

    def _folder(self, path: Path) -> _Folder:
        found: _File | _Folder = self.root
        for name in path.relative_to(self._base).parts:
            assert isinstance(found, _Folder)
            found = found.names[name]
        assert isinstance(found, _Folder)
        return found


def images(steps: list[Step], base: Path, place: Path) -> Iterator[tuple[int, str]]:
    """For each prefix of the steps, write what a cut may leave of `base` to `place`: (steps done, which image)."""
    model = _Model(base)
    for done in range(len(steps) + 1):
        if done:
            model.apply(steps[done - 1])
        for number, (names, content) in enumerate((n, c) for n in STATES for c in STATES):
            target = place / f"{done}-{number}"
            _write(model.root, target, names, content)
            yield done, target.name


def image_after(steps: list[Step], base: Path, place: Path, names: State, content: State) -> None:
    """Write what one cut after these steps leaves of `base` to `place`."""
    model = _Model(base)
    for step in steps:
        model.apply(step)
    _write(model.root, place, names, content)


STATES: tuple[State, State] = ("flushed", "present")


def _write(folder: _Folder, place: Path, names: State, content: State) -> None:
    place.mkdir(parents=True, exist_ok=True)
    for name, entry in (folder.flushed if names == "flushed" else folder.names).items():
        if isinstance(entry, _Folder):
            _write(entry, place / name, names, content)
        else:
            (place / name).write_bytes(entry.flushed if content == "flushed" else entry.content)
