"""A process that forgets a person, slice by slice, and tells each commit; and what of the person is left afterwards.

`python -m tests.faults.forgetful FOLDER LINES` prints a line after each redaction that is durable, and kills itself
after so many.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from headwater.applying import forgetting
from headwater.catalog import Catalog, IndexSpec, TableSpec
from headwater.clock import SystemClock
from headwater.codec import decode_json, encode_json
from headwater.engine import Engine
from headwater.engines.sqlite.engine import SqliteEngine
from headwater.erasures import ERASURES, FORGETTINGS, Erasure, Forgetting, Target, erase
from headwater.graph import build_graph
from headwater.system import System
from headwater.unit import Commit, Emit, Write, new_commit
from tests.conformance.workbench import emit, write

TABLE, NEWS, TOKEN, OTHER = "shop/people", "shop/news", "person-4c1d-private", "person-9e2b-private"
ID = "erasure"
CHANGES = 30
CATALOG = Catalog(
    apps=("shop",),
    tables={TABLE: TableSpec(name=TABLE, partition="id", indexes=(IndexSpec("by-name", "name"),))},
    topics={NEWS: 1},
)


async def opened(folder: Path) -> SqliteEngine:
    engine = SqliteEngine(folder, clock=SystemClock())
    await engine.open()
    await engine.install(build_graph([System().app]).catalog)
    await engine.install(CATALOG)
    return engine


async def live(engine: Engine) -> None:
    for n in range(CHANGES):
        for token in (TOKEN, OTHER):
            commit = new_commit()
            write(commit, TABLE, token, {"id": token, "name": token, "n": n, "text": f"{token} " * (n * 20)})
            emit(commit, NEWS, {"who": token, "n": n})
            await engine.commit(commit)


async def request(engine: Engine) -> str:
    """What `Table.forget` commits; the id of the message's event."""
    erasure = Erasure(
        id=ID, table=TABLE, digest="", salt="", requested_ms=await engine.now_ms(), targets=[Target(TABLE, [TOKEN, ""])]
    )
    commit = new_commit()
    commit.writes = [
        Write(TABLE, (TOKEN, ""), f"{commit.id}-0", forgotten=True),
        Write(ERASURES, (ID, ""), f"{commit.id}-1", encode_json(erasure)),
    ]
    event = emit(commit, FORGETTINGS, {"id": ID})
    commit.emits = [Emit(event, queue=FORGETTINGS)]
    await engine.commit(commit)
    return event.id


async def go_on(engine: Engine) -> None:
    """As the handler does: what waits says which erasure is not done."""
    for waiting in await engine.peek(FORGETTINGS, 10):
        message = Forgetting(**decode_json(waiting.event.data or b""))
        assert await erase(engine, waiting.event.id, message.id) is None


class Teller:
    def __init__(self, lines: int) -> None:
        self._left = lines

    def __call__(self, line: str) -> None:
        print(line, flush=True)
        self._left -= 1
        if not self._left:
            os.kill(os.getpid(), signal.SIGKILL)


async def victim(folder: Path, say: Callable[[str], None]) -> None:
    forgetting.SLICE = 4
    engine = await opened(folder)
    if not await engine.peek(FORGETTINGS, 1):
        await live(engine)
        await request(engine)
    commit, scrub = engine.commit, engine._scrub

    def told(work: Commit) -> asyncio.Future:  # type: ignore[type-arg]
        committing = commit(work)
        committing.add_done_callback(lambda _: say("commit"))
        return committing

    def scrubbing(*arguments: object) -> bool:
        done = scrub(*arguments)  # type: ignore[arg-type]
        say("scrub")
        return done

    engine.commit = told  # type: ignore[method-assign,assignment]
    engine._scrub = scrubbing  # type: ignore[method-assign,assignment]
    await go_on(engine)
    say("done")
    await asyncio.sleep(600)


if __name__ == "__main__":
    asyncio.run(victim(Path(sys.argv[1]), Teller(int(sys.argv[2]))))
