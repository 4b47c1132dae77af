"""The power-loss tool on its own disk model, and on raw SQLite databases whose guarantees are known."""

import random
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import apsw
import pytest

from tests.faults.power_loss import (
    SECTOR,
    Create,
    Delete,
    DirectorySync,
    FileId,
    Image,
    Journal,
    Mark,
    RecordingVFS,
    Sync,
    Truncate,
    Variant,
    Write,
    images,
)

DATA = FileId("data", 1)


def journal_of(*records: Create | Delete | Write | Truncate | Sync | DirectorySync) -> Journal:
    journal = Journal()
    for record in records:
        journal.append(record)
    return journal


def final_contents(journal: Journal, variant: Variant, name: str = "data") -> set[bytes | None]:
    """Every content that `name` had after the whole journal, over many random images of one variant."""
    end = len(journal.records)
    cuts = (cut for seed in range(40) for cut in images(journal, seed=seed, variants=[variant]))
    return {cut.files.get(name) for cut in cuts if cut.point == end}


def synced(content: bytes) -> tuple[Create, Write, Sync, DirectorySync]:
    return Create(DATA), Write(DATA, 0, content), Sync(DATA, 2, 2), DirectorySync("", 2)


def letters(content: bytes) -> str:
    return "".join(chr(letter) for letter, _ in groupby(content))


def test_synced_content_survives_every_variant() -> None:
    journal = journal_of(*synced(b"a" * 3 * SECTOR))
    for variant in ("none", "all", "torn", "late"):
        assert final_contents(journal, variant) == {b"a" * 3 * SECTOR}


def test_an_overwrite_in_flight_is_lost_stored_torn_by_sectors_or_late() -> None:
    journal = journal_of(*synced(b"a" * 4 * SECTOR), Write(DATA, 0, b"b" * 4 * SECTOR))
    assert final_contents(journal, "none") == {b"a" * 4 * SECTOR}
    assert final_contents(journal, "all") == {b"b" * 4 * SECTOR}
    torn = [content for content in final_contents(journal, "torn") if content]
    sectors = [content[at : at + SECTOR] for content in torn for at in range(0, 4 * SECTOR, SECTOR)]
    assert len(torn) > 5
    assert all(len(set(sector)) == 1 for sector in sectors)
    late = {letters(content) for content in final_contents(journal, "late") if content}
    assert late == {"b", "ab"}


def test_bytes_beside_a_write_are_never_harmed_and_a_sector_takes_its_writes_in_order() -> None:
    first, second = Write(DATA, 10, b"b" * 20), Write(DATA, 20, b"c" * 20)
    contents = final_contents(journal_of(*synced(b"a" * SECTOR), first, second), "torn")
    assert {letters(content) for content in contents if content} == {"a", "aba", "abca"}


def test_growth_and_its_data_are_stored_independently() -> None:
    journal = journal_of(*synced(b"a" * SECTOR), Write(DATA, SECTOR, b"b" * 3 * SECTOR))
    grown = final_contents(journal, "torn")
    assert {len(content) for content in grown if content} == {SECTOR * count for count in (1, 2, 3, 4)}
    assert all(content and content.startswith(b"a" * SECTOR) for content in grown)
    assert any(content and content.endswith(bytes(SECTOR)) for content in grown), "grown, data lost: zeros"
    tails = {content[-SECTOR:] for content in grown if content}
    assert tails - {b"a" * SECTOR, b"b" * SECTOR, bytes(SECTOR)}, "grown, data lost: garbage"


def test_a_truncation_in_flight_happens_whole_or_not_at_all() -> None:
    journal = journal_of(*synced(b"a" * 4 * SECTOR), Truncate(DATA, SECTOR))
    assert {len(content or b"") for content in final_contents(journal, "torn")} == {SECTOR, 4 * SECTOR}


def test_a_sync_covers_only_its_file_and_what_was_written_before_it_began() -> None:
    other = FileId("other", 1)
    base = synced(b"a" * SECTOR)
    during = journal_of(*base, Write(DATA, 0, b"b" * SECTOR), Sync(DATA, 2, covers=len(base)))
    beside = journal_of(*base, Create(other), Write(DATA, 0, b"b" * SECTOR), Sync(other, 2, covers=6))
    for journal in (during, beside):
        assert final_contents(journal, "none") == {b"a" * SECTOR}


def test_names_are_durable_only_with_their_directory() -> None:
    base = synced(b"a")
    unnamed = journal_of(*base[:3])
    assert final_contents(unnamed, "none") == {None}
    assert final_contents(unnamed, "torn") == {None, b"a"}
    deleted = journal_of(*base, Delete(DATA))
    assert final_contents(deleted, "none") == {b"a"}
    assert final_contents(deleted, "torn") == {None, b"a"}
    elsewhere = journal_of(*base, Delete(DATA), DirectorySync("below", covers=5))
    assert final_contents(elsewhere, "none") == {b"a"}
    assert final_contents(journal_of(*base, Delete(DATA), DirectorySync("", covers=5)), "torn") == {None}


def test_images_are_sampled_repeatably_and_carry_the_marks_before_them(tmp_path: Path) -> None:
    journal = journal_of(*synced(b"a"))
    for number in range(50):
        journal.append(Write(DATA, number, b"b"))
        journal.mark(number)
    sample = list(images(journal, every=2, limit=12, seed=3))
    assert sample == list(images(journal, every=2, limit=12, seed=3))
    assert len({image.point for image in sample}) == 12
    last = final_image(journal)
    assert last.acknowledged == tuple(range(50))
    last.write_to(tmp_path / "image")
    assert (tmp_path / "image" / "data").read_bytes() == b"b" * 50
    with pytest.raises(FileExistsError):
        last.write_to(tmp_path / "image")


def test_marks_from_several_threads_are_all_kept() -> None:
    journal = journal_of(*synced(b"a"))

    def mark_all(start: int) -> None:
        for number in range(start, start + 200):
            journal.mark(number)

    threads = [threading.Thread(target=mark_all, args=(start,)) for start in (0, 200, 400)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(final_image(journal).acknowledged) == set(range(600))


# A table whose whole content follows from the number of the last commit in it.

REVISED_AFTER = 5
SCHEMA = """
    CREATE TABLE entry (number INTEGER PRIMARY KEY, content BLOB NOT NULL);
    CREATE TABLE total (commits INTEGER NOT NULL);
    INSERT INTO total VALUES (0);
"""


def content_of(number: int, revision: int) -> bytes:
    rng = random.Random(f"{number}/{revision}")
    return rng.randbytes(rng.choice((20, 300, 3_000, 30_000 if number % 8 == 0 else 100)))


def write_commit(connection: apsw.Connection, number: int) -> None:
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("INSERT INTO entry VALUES (?, ?)", (number, content_of(number, 0)))
    old = number - REVISED_AFTER
    connection.execute("UPDATE entry SET content = ? WHERE number = ?", (content_of(old, 1), old))
    connection.execute("UPDATE total SET commits = ?", (number,))
    connection.execute("COMMIT")


def find_damage(image: Image, directory: Path) -> str | None:
    """Open the database of an image and say what is wrong with it, if anything."""
    shutil.rmtree(directory, ignore_errors=True)
    image.write_to(directory)
    acknowledged = max((mark for mark in image.acknowledged if isinstance(mark, int)), default=0)
    try:
        with closing(apsw.Connection(str(directory / "store.db"))) as connection:
            connection.execute("PRAGMA synchronous = OFF")
            return find_loss(connection, acknowledged)
    except apsw.Error as error:
        return f"{type(error).__name__}: {error}"


def find_loss(connection: apsw.Connection, acknowledged: int) -> str | None:
    verdict = connection.execute("PRAGMA integrity_check(1)").get
    if verdict != "ok":
        return f"integrity: {verdict}"
    if not connection.table_exists(None, "total"):
        return f"no table, {acknowledged} acknowledged" if acknowledged else None
    commits = connection.execute("SELECT max(commits) FROM total").get or 0
    if commits < acknowledged:
        return f"{acknowledged} acknowledged, {commits} stored"
    stored = {row[0]: row[1] for row in connection.execute("SELECT number, content FROM entry")}
    expected = {at: content_of(at, int(at + REVISED_AFTER <= commits)) for at in range(1, commits + 1)}
    return None if stored == expected else f"commit {commits} is not whole"


def find_all_damage(journal: Journal, directory: Path, *, limit: int) -> list[str]:
    """Describe each damaged image out of a sample; at least one image a point must have been seen."""
    found, seen = [], 0
    for image in images(journal, limit=limit, seed=7):
        seen += 1
        damage = find_damage(image, directory / "image")
        if damage:
            found.append(f"{damage} ({image})")
    assert seen >= min(limit, len(journal.records) // 2)
    return found


Register = Callable[..., RecordingVFS]


@pytest.fixture
def register(tmp_path: Path) -> Iterator[Register]:
    """Register recording VFSs named "power-loss" over the folder `disk`, unregistered at the end."""
    registered: list[RecordingVFS] = []
    (tmp_path / "disk").mkdir()

    def make(**options: bool) -> RecordingVFS:
        vfs = RecordingVFS("power-loss", tmp_path / "disk", **options)
        registered.append(vfs)
        return vfs

    yield make
    for vfs in registered:
        vfs.unregister()


def open_store(vfs: RecordingVFS, directory: Path, mode: str, synchronous: str) -> apsw.Connection:
    connection = apsw.Connection(str(directory / "disk" / "store.db"), vfs=vfs.name)
    connection.execute(f"PRAGMA journal_mode = {mode}")
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    connection.execute("PRAGMA cache_size = 10")
    connection.execute("PRAGMA wal_autocheckpoint = 0").fetchall()
    return connection


def run_workload(vfs: RecordingVFS, directory: Path, mode: str, synchronous: str, commits: int = 36) -> None:
    """Commit and mark, with checkpoints, a large spilling transaction, a vacuum and one clean reopening."""
    connection = open_store(vfs, directory, mode, synchronous)
    connection.execute("BEGIN;" + SCHEMA + "COMMIT")
    for number in range(1, commits + 1):
        write_commit(connection, number)
        vfs.journal.mark(number)
        if number % 7 == 0:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        if number % 11 == 0:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        if number == commits // 2:
            connection.execute("VACUUM")
            connection.close()
            connection = open_store(vfs, directory, mode, synchronous)
    connection.close()


@pytest.mark.parametrize(("mode", "synchronous"), [("WAL", "FULL"), ("DELETE", "EXTRA")])
def test_a_durable_database_keeps_every_acknowledged_commit(
    register: Register, tmp_path: Path, mode: str, synchronous: str
) -> None:
    vfs = register()
    run_workload(vfs, tmp_path, mode, synchronous)
    assert find_all_damage(vfs.journal, tmp_path, limit=450) == []


@pytest.mark.parametrize(
    ("mode", "synchronous"),
    # A rollback journal is deleted without syncing its directory below EXTRA: it may be back, and hot.
    [("WAL", "NORMAL"), ("WAL", "OFF"), ("DELETE", "FULL"), ("DELETE", "OFF")],
)
def test_a_database_that_syncs_too_little_loses_an_acknowledged_commit(
    register: Register, tmp_path: Path, mode: str, synchronous: str
) -> None:
    vfs = register()
    run_workload(vfs, tmp_path, mode, synchronous, commits=16)
    damage = find_all_damage(vfs.journal, tmp_path, limit=60)
    assert any("acknowledged" in line for line in damage)
    torn = any("integrity" in line or "malformed" in line or "whole" in line for line in damage)
    assert torn == (synchronous == "OFF"), damage


@pytest.mark.parametrize("name", ["store.db", "store.db-wal"])
def test_leaving_out_the_syncs_of_either_file_is_found(register: Register, tmp_path: Path, name: str) -> None:
    vfs = register()
    run_workload(vfs, tmp_path, "WAL", "FULL", commits=24)
    records = vfs.journal.records
    records[:] = [
        replace(record, covers=0) if isinstance(record, Sync) and record.file.name == name else record
        for record in records
    ]
    assert find_all_damage(vfs.journal, tmp_path, limit=100)


def final_image(journal: Journal) -> Image:
    return list(images(journal, variants=["all"]))[-1]


def read_files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if not path.name.endswith("-shm")}


@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_everything_recorded_adds_up_to_the_real_files(register: Register, tmp_path: Path, mode: str) -> None:
    vfs = register()
    run_workload(vfs, tmp_path, mode, "FULL", commits=20)
    with closing(open_store(vfs, tmp_path, mode, "FULL")) as connection:
        write_commit(connection, 21)
        assert final_image(vfs.journal).files == read_files(tmp_path / "disk")
        size = (tmp_path / "disk" / "store.db").stat().st_size
        connection.execute("DELETE FROM entry; VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        files = final_image(vfs.journal).files
        assert files == read_files(tmp_path / "disk")
        assert len(files["store.db"]) < size
        assert files.get("store.db-wal", b"") == b""


class SlowFile(apsw.VFSFile):
    """A file during whose sync something else happens."""

    def __init__(self, name: str | apsw.URIFilename | None, flags: list[int], during: Callable[[], None]):
        super().__init__("unix", name, flags)
        self.during = during

    def xSync(self, flags: int) -> None:
        super().xSync(flags)
        self.during()


class SlowDisk(apsw.VFS):
    def __init__(self, during: Callable[[], None]) -> None:
        super().__init__("slow-disk", "unix")
        self.during = during

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        return SlowFile(name, flags, self.during)


def test_what_happens_while_a_sync_runs_is_not_covered_by_it(
    register: Register, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = SlowDisk(lambda: vfs.journal.mark("during"))
    monkeypatch.setattr("tests.faults.power_loss.BASE_VFS", "slow-disk")
    vfs = register()
    with closing(open_store(vfs, tmp_path, "WAL", "FULL")) as connection:
        connection.execute(SCHEMA)
    slow.unregister()
    records = vfs.journal.records
    syncs = [(index, record) for index, record in enumerate(records) if isinstance(record, Sync)]
    assert len(syncs) > 3
    assert {records[record.covers] for _, record in syncs} == {Mark("during")}
    assert all(record.covers == index - 1 for index, record in syncs)


def test_files_from_before_the_recording_are_durable_from_its_start(register: Register, tmp_path: Path) -> None:
    first = register()
    connection = open_store(first, tmp_path, "WAL", "FULL")
    connection.execute(SCHEMA)
    write_commit(connection, 1)
    second = RecordingVFS("power-loss-again", tmp_path / "disk")
    again = open_store(second, tmp_path, "WAL", "FULL")
    second.journal.mark(1)
    write_commit(again, 2)
    second.journal.mark(2)
    again.close()
    connection.close()
    second.unregister()
    assert find_all_damage(second.journal, tmp_path, limit=40) == []
    assert all("store.db-wal" in image.files for image in images(second.journal, variants=["none"]))


def test_a_wal_is_shared_by_connections_and_nothing_is_memory_mapped(register: Register, tmp_path: Path) -> None:
    vfs = register()
    with (
        closing(open_store(vfs, tmp_path, "WAL", "FULL")) as writer,
        closing(open_store(vfs, tmp_path, "WAL", "FULL")) as reader,
    ):
        writer.execute(SCHEMA)
        assert writer.execute("PRAGMA mmap_size = 1000000").get == 0
        assert writer.execute("PRAGMA locking_mode").get == "normal"
        write_commit(writer, 1)
        assert reader.execute("SELECT commits FROM total").get == 1
        reader.execute("BEGIN; SELECT commits FROM total")
        write_commit(writer, 2)
        assert reader.execute("SELECT commits FROM total").get == 1, "the snapshot of the open read"


def test_the_vfs_serves_by_name_or_as_default_until_it_is_unregistered(register: Register, tmp_path: Path) -> None:
    vfs = register(makedefault=True)
    with closing(apsw.Connection(str(tmp_path / "disk" / "store.db"))) as connection:
        assert connection.open_vfs == "power-loss"
        connection.execute(SCHEMA)
    recorded = len(vfs.journal.records)
    with closing(apsw.Connection(str(tmp_path / "elsewhere.db"))) as connection:
        connection.execute(SCHEMA)
    assert len(vfs.journal.records) == recorded > 0
    vfs.unregister()
    assert "power-loss" not in apsw.vfs_names()
    with closing(apsw.Connection("")) as connection:
        assert connection.open_vfs == "unix"
