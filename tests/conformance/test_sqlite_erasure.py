"""Forgetting in the SQLite engine: the bytes leave the files."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from headwater.engines.sqlite.engine import SqliteEngine
from headwater.unit import new_commit
from tests.conformance.test_erasure import CATALOG, CHANGES, DESK, NEWS, TABLE, redact, request
from tests.conformance.workbench import Store, emit, write


@pytest.fixture
async def opened(store: Store) -> Store:
    return await store.open(*CATALOG)


TOKEN = "person-{:04}-private"


def found_in(folder: Path, tokens: Sequence[str]) -> dict[str, str]:
    """The tokens whose bytes are in a file of the store."""
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    return {token: name for token in tokens for name, content in files.items() if token.encode() in content}


async def churn(store: Store, rng: random.Random, people: Sequence[str], rounds: int) -> None:
    """Rows of all sizes come, change and go, so that pages are split, merged, freed and used again."""
    for n in range(rounds):
        commit = new_commit()
        for key in rng.sample(people, 8):
            size = rng.choice((0, 5, 40, 300)) if rng.random() < 0.3 else rng.randrange(10)
            gone = rng.random() < 0.1
            document = None if gone else {"id": key, "n": n, "name": key, "text": f"{key} " * size}
            write(commit, TABLE, key, document)
            if document and rng.random() < 0.2:
                emit(commit, NEWS, {"who": key, "text": f"{key} " * size})
        await store.engine.commit(commit)
    await store.drain(CHANGES)
    await store.drain(DESK)


@pytest.mark.parametrize("seed", range(3))
async def test_the_bytes_of_a_forgotten_key_leave_the_files(opened: Store, seed: int) -> None:
    assert isinstance(opened.engine, SqliteEngine)
    rng = random.Random(seed)
    people = [TOKEN.format(n) for n in range(400)]
    await churn(opened, rng, people, 150)
    gone = rng.sample(people, 60)
    folder = opened.engine.folder
    assert len(found_in(folder, people)) > 350, "the search finds what is there"
    for key in gone:
        forgotten = await request(opened, key)
        await opened.drain(CHANGES)
        await redact(opened, forgotten)
    await opened.drain(DESK)
    reading = opened.engine.reader.execute("SELECT seq FROM event")
    next(reading)
    await opened.put(TABLE, "new", {"id": "new"})
    assert not await opened.engine.scrub(), "a reader is in the way"
    reading.close()
    assert await opened.engine.scrub()
    assert found_in(folder, gone) == {}
    await churn(opened, rng, [key for key in people if key not in gone], 50)
    await opened.reopen()
    assert found_in(folder, gone) == {}, "cached pages brought them back"
    assert len(found_in(folder, people)) > 250
    assert await opened.engine.check() == []
