"""The death of a process that has a store open, played inside the test's process."""

from __future__ import annotations

import asyncio
import shutil

from headwater.engine import Engine
from headwater.engines.postgres.beats import LIFE_MS
from headwater.engines.postgres.engine import PostgresEngine
from headwater.engines.sqlite.engine import SqliteEngine
from tests.conformance.sharing import SharedEngine
from tests.conformance.workbench import Store


async def crash(store: Store) -> None:
    """Go on with what a kill at this moment leaves: no lease was given back. On PostgreSQL the time passes in which
    others take the process for alive."""
    engine = store.engine.owned if isinstance(store.engine, SharedEngine) else store.engine
    await store.barrier()
    if isinstance(engine, PostgresEngine):
        await _drop(engine)
        store.engine = store.make(store.clock)
        await store.engine.open()
        await store.advance(LIFE_MS / 1000)
        return
    await _kill(engine, store.engine)
    store.engine = store.make(store.clock)
    await store.engine.open()


async def _kill(engine: Engine, opened: Engine) -> None:
    """Put the files back as they are now, the board too, when the engine has closed them."""
    assert isinstance(engine, SqliteEngine)
    folder = engine.folder
    image = folder.with_name("killed")
    shutil.copytree(folder, image)
    await opened.close()
    shutil.rmtree(folder)
    image.rename(folder)


async def _drop(engine: PostgresEngine) -> None:
    """Nothing of the engine goes on, and its connections break off."""
    engine._closing = True
    engine._end_waiting()
    assert engine._writer is not None
    tasks = {*engine._tasks, engine._writer._task}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    engine.database.pool.terminate()
    engine.database._pool = None
