"""Staff files dropped into a bucket become one document per department; only the newest file counts.

A file is the whole staff. One that is wrong (no CSV, too many rows that do not fit, too many departments gone) changes
nothing: it is a dead letter at once and a failed row of `loads`, since the same bytes would only fail again.
"""

from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field
from pydantic_settings import BaseSettings

from headwater import (
    App,
    Discard,
    Event,
    InvalidValue,
    LoadRefused,
    ObjectInfo,
    Undeliverable,
    UnknownResource,
    csv,
    email,
    require,
    step,
)

REJECTS_KEPT = 100


class Settings(BaseSettings):
    drop_folder: Path = Path(".headwater/drops")
    contact: str | None = None


class Employee(BaseModel):
    employee: Annotated[str, Field(min_length=1, max_length=100)]
    name: str
    title: str
    email: str
    phone: str
    room: str
    since: date


class Row(Employee):
    """A line of a staff file; department and employee are its key."""

    department: Annotated[str, Field(min_length=1, max_length=200)]


class Department(BaseModel):
    department: str
    employees: list[Employee]


class Reject(BaseModel):
    line: int
    column: str
    value: str
    reason: str


class Load(BaseModel):
    """What became of a dropped file; the id is that of its event."""

    id: str
    file: str
    sha256: str
    dropped: datetime
    state: Literal["loaded", "unchanged", "failed"]
    inserted: int = 0
    modified: int = 0
    unchanged: int = 0
    vanished: int = 0
    seconds: float = 0.0
    reason: str = ""
    rejected: int = 0
    rejects: list[Reject] = []


class Served(BaseModel):
    """The file that is served."""

    dataset: str
    file: str
    sequencer: str


app = App("directory", settings=Settings, http="apps.directory.api")
drops = app.bucket("drops", max_size=1 << 30, expire="90d")
departments = app.table("departments", Department, key="department")
loads = app.table("loads", Load, key="id", indexes={"by-state": ("state", "id")}, images="none", ttl="400d")
served = app.table("served", Served, key="dataset", images="none")

drops.watch(app.late(lambda settings: settings.drop_folder), prefix="staff/", delete=True)
app.expose(drops, "/drops", write=require("staff.write"))
app.expose(departments, "/departments", methods=["GET"], read=require(plan=("internal", "subscriber")))


@app.on(drops.created, match={"key": [{"prefix": "staff/", "suffix": ".csv"}]}, name="load-staff", concurrency=1)
async def load_staff(event: Event[ObjectInfo]) -> None:
    file = event.data
    await refuse_older(file)
    load = Load(id=event.id, file=file.key, sha256=file.sha256, dropped=event.time, state="failed")
    try:
        await load_file(file, load)
    except (InvalidValue, LoadRefused) as error:
        load.reason = error.message

        async def record() -> str:
            return await loads.put(load)

        await step("record the failure", record)
        raise Undeliverable(load.reason) from error
    except UnknownResource as error:
        raise Discard("the file was replaced or deleted before it was read") from error
    await served.put(Served(dataset="staff", file=file.key, sequencer=file.sequencer))
    await loads.put(load)


async def refuse_older(file: ObjectInfo) -> None:
    """A file that is retried or redriven must not undo what a newer one has brought."""
    newest = await served.get("staff")
    if newest is not None and newest.sequencer > file.sequencer:
        raise Discard(f"{newest.file} is newer and was loaded before")


async def load_file(file: ObjectInfo, load: Load) -> None:
    """Load and fill in the counts; the rejects also when it raises."""
    async with drops.open(file) as body:
        rows = csv.read(body, Row, max_rejected=0.01)
        try:
            summary = await departments.load(
                rows.group(Department, by="department", into="employees"),
                missing="expire",
                grace="7d",
                max_removed=0.2,
                source=file.key,
                source_sha256=file.sha256,
            )
        finally:
            load.rejected = rows.rejects.count
            kept = rows.rejects.kept[:REJECTS_KEPT]
            load.rejects = [Reject(line=r.line, column=r.column, value=r.value, reason=r.reason) for r in kept]
    load.state = "unchanged" if summary.state == "unchanged" else "loaded"
    load.inserted, load.modified, load.unchanged = summary.inserted, summary.modified, summary.unchanged
    load.vanished, load.seconds = summary.vanished, summary.seconds


app.alarm(
    "staff-files",
    app.metric("error_rate", load_staff),
    above=0,
    missing="ignore",
    notify=email(app.late(lambda settings: settings.contact), digest="1h", subject="Staff files"),
)
