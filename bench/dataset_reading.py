"""Reading a file of rows: CSV, grouped into canonical documents, against plain polars."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator
from datetime import date
from importlib.metadata import version
from pathlib import Path

import polars as pl
from pydantic import BaseModel

from bench.report import Report, Stopwatch, peak_mb, scratch, versions
from headwater import csv

_PIECE = 256 << 10
_TITLES = ("Engineer", "Clerk", "Manager", "Analyst")


class Employee(BaseModel):
    employee: str
    name: str
    title: str
    pay: int
    since: date
    office: str
    active: bool


class Row(Employee):
    department: str


class Department(BaseModel):
    department: str
    employees: list[Employee]


def write_rows(path: Path, rows: int, departments: int, *, changed_every: int = 0) -> set[str]:
    """Eight columns, about 50 bytes a row, departments in random order.

    With `changed_every` each so manieth row differs from the file without; the departments of these rows.
    """
    rng, touched = random.Random(4), set[str]()
    with path.open("w") as file:
        file.write("department,employee,name,title,pay,since,office,active\n")
        for n in range(rows):
            day = f"20{n % 24:02}-0{n % 9 + 1}-1{n % 9}"
            department, pay = f"d{rng.randrange(departments):05}", 30_000 + n % 60_000
            if changed_every and n % changed_every == 0:
                touched.add(department)
                pay += 1
            file.write(
                f"{department},e{n:07},N{n % 9999},{_TITLES[n % 4]},{pay},{day},R{n % 300},"
                f"{'true' if n % 3 else 'false'}\n"
            )
    return touched


async def _pieces(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            yield piece


def plain_documents(path: Path) -> list[tuple[str, bytes]]:
    """Read, group, encode, and nothing else: no model, no check, no canonical form. (department, document) each."""
    rows = pl.read_csv(path)
    rest = [name for name in rows.columns if name != "department"]
    groups = rows.group_by("department").agg(pl.struct(rest).alias("employees"))
    body = pl.struct("department", "employees").struct.json_encode().cast(pl.Binary)
    bodies = groups.select("department", body.alias("body"))
    return bodies.rows()


async def reading(n: int = 1_000_000) -> Report:
    """`n` rows of 20,000 departments (fewer for a small `n`) to documents; `rss_mb` is the peak of this process."""
    departments = max(1, min(20_000, n // 50))
    with scratch() as folder:
        path = folder / "rows.csv"
        write_rows(path, n, departments)
        floor_s, seconds, documents, size = [], [], 0, 0
        for _ in range(3):
            documents = size = 0
            with Stopwatch() as watch:
                rows = csv.read(_pieces(path), Row).group(Department, by="department", into="employees")
                async for batch in rows.documents("department"):
                    documents += len(batch)
                    size += sum(len(document.body) for document in batch)
            seconds.append(watch.seconds)
            peak = peak_mb()
            if n <= 2_000_000:
                begun = time.perf_counter()
                plain_documents(path)
                floor_s.append(time.perf_counter() - begun)
            else:
                break
        file_mb = round(path.stat().st_size / 2**20, 1)
    best, bound = min(seconds), min(floor_s, default=None)
    return Report(
        bench="reading",
        engine="none",
        durability="none",
        n=n,
        rate_s=round(n / best),
        floor_s=round(n / bound) if bound else None,
        ratio=round(bound / best, 3) if bound else None,
        rss_mb=peak,
        details={
            "seconds": round(best, 3),
            "floor_seconds": round(bound, 3) if bound else None,
            "file_mb": file_mb,
            "documents": documents,
            "document_mb": round(size / 2**20, 1),
        },
        versions={**versions(), "polars": version("polars")},
    )
