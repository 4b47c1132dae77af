"""Processes that publish into and consume the same queue of one store: how many messages a second they do."""

from __future__ import annotations

import asyncio
import sys
import time
from asyncio.subprocess import PIPE, Process
from contextlib import suppress
from typing import Any

import asyncpg

from bench.stores import Stores
from headwater.engines import open_engine

PROCESSES = 2
PATIENCE_S = 600.0
_LOOK_S = 0.005


async def shared_rate(stores: Stores, n: int, *, changes: bool) -> float:
    """From the first publish until the last message is acknowledged."""
    kind, share, name = "changes" if changes else "pipeline", n // PROCESSES, "shared"
    await (await open_engine(stores.url(name))).close()
    command = (sys.executable, "-m", "bench.sharer", stores.url(name), str(share), kind)
    started: list[Process] = []
    try:
        async with asyncio.timeout(PATIENCE_S):
            for _ in range(PROCESSES):
                started.append(await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE))
                await _line(started[-1])
            begun = time.perf_counter()
            for process in started:
                _stdin(process).write(b"go\n")
            await _until_handled(started, share * PROCESSES)
            await _until_empty(stores, name)
            return share * PROCESSES / (time.perf_counter() - begun)
    finally:
        for process in started:
            _stdin(process).close()
            with suppress(ProcessLookupError, TimeoutError):
                await asyncio.wait_for(process.wait(), 20.0)


async def _until_handled(started: list[Process], n: int) -> None:
    """Each process says how many it has handled."""
    handled = dict.fromkeys(range(len(started)), 0)
    done = asyncio.Event()

    async def follow(number: int) -> None:
        while not done.is_set():
            handled[number] = int(await _line(started[number]))
            if sum(handled.values()) >= n:
                done.set()

    following = [asyncio.create_task(follow(number)) for number in handled]
    waiting: asyncio.Task[Any] = asyncio.create_task(done.wait())
    try:
        await asyncio.wait([waiting, *following], return_when=asyncio.FIRST_COMPLETED)
        for task in following:
            if task.done():
                task.result()
    finally:
        for task in (waiting, *following):
            task.cancel()
        await asyncio.gather(waiting, *following, return_exceptions=True)


async def _until_empty(stores: Stores, name: str) -> None:
    waiting = f"SELECT EXISTS (SELECT FROM {stores.schema(name)}.message)"
    connection = await asyncpg.connect(stores.server)
    while await connection.fetchval(waiting):  # noqa: ASYNC110
        await asyncio.sleep(_LOOK_S)
    await connection.close()


async def _line(process: Process) -> bytes:
    assert process.stdout is not None
    line = await process.stdout.readline()
    if not line:
        raise RuntimeError("a process that shares the queue has ended")
    return line


def _stdin(process: Process) -> asyncio.StreamWriter:
    assert process.stdin is not None
    return process.stdin
