"""`python -m bench.sharer URL N pipeline|changes`: one of the processes of `sharing.py`.

It says `ready`, starts at a line of its input, says how many messages it has handled as they become more, and ends when
its input does.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import uvloop

from bench.pipeline import make_app, produce
from bench.report import scratch
from bench.served import running_at
from headwater.runtime.logs import configure_logs

_REPORT_S = 0.01


async def share(url: str, n: int, kind: str, folder: Path) -> None:
    handled = 0

    def count() -> None:
        nonlocal handled
        handled += 1

    app, publish, put = make_app(count)
    async with running_at(url, folder, app):
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        producing = asyncio.create_task(produce(n, put if kind == "changes" else publish))
        ending = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
        said = 0
        while not ending.done():
            await asyncio.wait([ending], timeout=_REPORT_S)
            if producing.done():
                producing.result()
            if handled > said:
                said = handled
                print(said, flush=True)
        await producing


if __name__ == "__main__":
    configure_logs(lowest="warning")
    with scratch() as folder:
        uvloop.run(share(sys.argv[1], int(sys.argv[2]), sys.argv[3], folder))
