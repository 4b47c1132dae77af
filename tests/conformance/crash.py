"""The death of the process that owns a SQLite store, played inside the test's process."""

from __future__ import annotations

import shutil

from headwater.engines.sqlite.engine import SqliteEngine
from tests.conformance.sharing import SharedEngine
from tests.conformance.workbench import Store


async def crash(store: Store) -> None:
    """Go on with the files as a kill at this moment leaves them: no lease was given back, the board stands."""
    engine = store.engine.owned if isinstance(store.engine, SharedEngine) else store.engine
    assert isinstance(engine, SqliteEngine)
    await store.barrier()
    folder = engine.folder
    image = folder.with_name("killed")
    shutil.copytree(folder, image)
    await store.engine.close()
    shutil.rmtree(folder)
    image.rename(folder)
    store.engine = store.make(store.clock)
    await store.engine.open()
