"""What a benchmark reports, and the figures that every one of them measures the same way."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import apsw
import msgspec


class Report(msgspec.Struct, kw_only=True):
    """One line. `ratio` is the figure as a share of the floor (for latency: the floor's share of it)."""

    bench: str
    engine: str = "sqlite"
    durability: str = "FULL"
    n: int
    rate_s: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    floor_s: float | None = None
    floor_p50_ms: float | None = None
    ratio: float | None = None
    cpu_us_per_op: float | None = None
    rss_mb: float | None = None
    fdatasync_ms: float | None = None
    details: dict[str, Any] = {}
    versions: dict[str, str] = {}


def versions() -> dict[str, str]:
    return {
        "headwater": version("headwater"),
        "python": platform.python_version(),
        "sqlite": apsw.sqlite_lib_version(),
        "cores": str(os.cpu_count()),
    }


@contextmanager
def scratch(place: Path | None = None) -> Iterator[Path]:
    """A folder on the disk of the working directory: a memory disk would make durability free."""
    folder = Path(tempfile.mkdtemp(prefix=".bench-", dir=place or Path.cwd()))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def resident_mb() -> float:
    """Memory that this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * resource.getpagesize() / 2**20, 1)


def peak_mb() -> float:
    """The most memory that this process has held."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


class Stopwatch:
    """Wall and processor time of a `with` block."""

    def __enter__(self) -> Stopwatch:
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._wall
        self.cpu_s = time.process_time() - self._cpu


def percentile(samples: list[float], share: float) -> float:
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def fdatasync_ms(folder: Path, count: int = 200) -> float:
    """Median of writing 8 KiB and flushing it."""
    samples = []
    descriptor = os.open(folder / "fdatasync", os.O_RDWR | os.O_CREAT)
    try:
        for n in range(count):
            os.pwrite(descriptor, b"x" * 8192, n * 8192)
            begun = time.perf_counter()
            os.fdatasync(descriptor)
            samples.append((time.perf_counter() - begun) * 1000)
    finally:
        os.close(descriptor)
    return round(percentile(samples, 0.5), 3)
