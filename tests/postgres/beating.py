"""A process for the tests of machines: with a child, each of which writes a row as often as it can."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from contextlib import suppress

import asyncpg

END_S = 60.0


async def beat(name: str) -> None:
    url = os.environ["HEADWATER_STORE"].partition("?")[0]
    connection = await asyncpg.connect(url, timeout=1)
    try:
        while True:
            await connection.execute("INSERT INTO beats VALUES ($1)", name, timeout=1)
            await asyncio.sleep(0.01)
    finally:
        connection.terminate()


def main(name: str) -> None:
    if not name.endswith("-child"):
        subprocess.Popen([sys.executable, __file__, f"{name}-child"])
    end = time.monotonic() + END_S
    while time.monotonic() < end:
        with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            asyncio.run(beat(name))
        time.sleep(0.05)


if __name__ == "__main__":
    main(sys.argv[1])
