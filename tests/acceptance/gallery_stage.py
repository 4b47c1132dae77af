"""The gallery drive's service and its worker processes, and the images: each of another colour."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import random
import signal
from collections import Counter
from pathlib import Path

from PIL import Image

from tests.acceptance.driven_service import ROOT, DrivenService

APP = ROOT / "apps/gallery/app.py"
SIZE = (64, 48)
COLUMNS, ROWS = 5, 2
LEVELS, STEP = 24, 10
VISIBILITY_S = 2.0
WORK_VISIBLY = """
import asyncio, contextvars, os, time
from pathlib import Path


def work_visibly(seconds):
    Path("at-work").write_text(str(os.getpid()))
    time.sleep(seconds)


async def apart(work):
    return await asyncio.get_running_loop().create_task(work, context=contextvars.Context())


app = App("gallery")
"""
DRIVEN = {
    'visibility="5m"': f'visibility="{VISIBILITY_S:g}s"',
    'timeout="1m", max_receives': f'visibility="{VISIBILITY_S:g}s", timeout="1m", max_receives',
    'app = App("gallery")\n': WORK_VISIBLY,
    "    content = draw_sheet(": "    work_visibly(0.2)\n    content = draw_sheet(",
}
"""What the drive changes: leases short enough to be outlived; a sheet takes as long as one of large images, and is seen
to be drawn."""
BROKEN = {
    "apart": {
        "    work_visibly(0.2)\n": "",
        "wait(sheets.put(": "wait(apart(sheets.put(",
        'content_type="image/png"))\n': 'content_type="image/png")))\n    work_visibly(0.5)\n',
    },
    "at-least": {"for n in full_tens(new) if ten(old, n) != ten(new, n)": "for n in full_tens(new)"},
}
"""Apps that break their promise: a sheet is committed apart from its job; it is ordered when there are at least ten
images instead of when they become ten."""


def changed(source: str, changes: dict[str, str]) -> str:
    for old, new in changes.items():
        if source.count(old) != 1:
            raise RuntimeError(f"the app has {old!r} {source.count(old)} times")
        source = source.replace(old, new)
    return source


class Gallery(DrivenService):
    """The app as it is driven, perhaps with a promise that it breaks."""

    def prepare(self, broken: str) -> None:
        source = changed(APP.read_text("utf-8"), DRIVEN | BROKEN.get(broken, {}))
        (self.folder / "gallery_driven.py").write_text(source, "utf-8")
        self.configure("gallery_driven", 'drain = "10s"\n')

    def workers(self) -> list[int]:
        """The process ids of its workers."""
        if self.process is None:
            return []
        found: list[int] = []
        for thread in Path(f"/proc/{self.process.pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += map(int, thread.read_text().split())
        return found


class Striker:
    """Kills workers, and stops some for longer than their leases; the share `aim` of them while they draw a sheet."""

    def __init__(self, gallery: Gallery, chance: random.Random, *, aim: float) -> None:
        self.struck: Counter[str] = Counter()
        self._gallery = gallery
        self._random = chance
        self._aim = aim
        self._stopped: set[int] = set()

    async def strike(self) -> None:
        """Perhaps nobody: when none is there, or none begins to draw within a second."""
        aimed = self._random.random() < self._aim
        pid = await self._one_at_work() if aimed else self._random.choice([0, *self._gallery.workers()])
        if pid in self._stopped or pid not in self._gallery.workers():
            return
        with contextlib.suppress(ProcessLookupError):
            if self._random.random() < 0.7:
                os.kill(pid, signal.SIGKILL)
                self.struck["killed"] += 1
            else:
                await self._stop_for_a_while(pid)

    async def _one_at_work(self) -> int:
        """A worker that has begun to draw just now, or 0."""
        sign = self._gallery.folder / "at-work"
        sign.unlink(missing_ok=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                while not (sign.exists() and (text := sign.read_text())):  # noqa: ASYNC110 files tell nothing
                    await asyncio.sleep(0.01)
            await asyncio.sleep(self._random.uniform(0, 0.2))
            return int(text)
        return 0

    async def _stop_for_a_while(self, pid: int) -> None:
        os.kill(pid, signal.SIGSTOP)
        self._stopped.add(pid)
        self.struck["stopped"] += 1
        try:
            await asyncio.sleep(VISIBILITY_S * self._random.uniform(1.1, 1.6))
        finally:
            self._stopped.discard(pid)
            os.kill(pid, signal.SIGCONT)


# Images


def make_image(number: int, name: str) -> bytes:
    """One colour, which tells the number."""
    content = io.BytesIO()
    image = Image.new("RGB", SIZE, (_level(number), _level(number // LEVELS), _level(number // LEVELS**2)))
    image.save(content, "JPEG" if name.endswith(".jpg") else "PNG", **({"quality": 95} if name.endswith("jpg") else {}))
    return content.getvalue()


def _level(digit: int) -> int:
    return digit % LEVELS * STEP + STEP


def read_sheet(content: bytes) -> list[int]:
    """The numbers of the images that a contact sheet shows, row by row."""
    with Image.open(io.BytesIO(content)) as sheet:
        shown = sheet.convert("RGB")
    cells = [(column, row) for row in range(ROWS) for column in range(COLUMNS)]
    return [
        _number_of(shown, shown.width * (2 * column + 1) // (2 * COLUMNS), shown.height * (2 * row + 1) // (2 * ROWS))
        for column, row in cells
    ]


def _number_of(sheet: Image.Image, x: int, y: int) -> int:
    """-1 where the colour is of no image."""
    colour = sheet.getpixel((x, y))
    assert isinstance(colour, tuple)
    digits = [round(level / STEP) - 1 for level in colour]
    if not all(0 <= digit < LEVELS for digit in digits):
        return -1
    return digits[0] + digits[1] * LEVELS + digits[2] * LEVELS**2
