"""The service of a drive: `headwater run` in a folder of its own, on one port however often it is killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx

from headwater.config import admin_socket
from tests.patience import PATIENCE_S
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
START_S = 20.0
PAUSE_S = 0.05


async def until_answered(client: httpx.AsyncClient, path: str) -> None:
    async with asyncio.timeout(START_S):
        while True:
            with contextlib.suppress(httpx.TransportError):
                if (await client.get(path)).status_code == 200:
                    return
            await asyncio.sleep(PAUSE_S)


class DrivenService:
    """`configure`, `start`, then `kill` and `start` as often as it is to bear, and `stop`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"http://127.0.0.1:{free_port()}"
        self.kills = 0
        self.process: subprocess.Popen[bytes] | None = None

    def configure(self, app: str, settings: str = "") -> None:
        (self.folder / "headwater.toml").write_text(
            f'[default]\napps = ["{app}"]\nport = {self.url.rpartition(":")[2]}\n{settings}'
            '[default.issuers.local]\ndevelopment = true\nroles = ["roles"]\n'
        )

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HEADWATER_")}
        return {**kept, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}

    def start(self) -> None:
        with (self.folder / "service.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "headwater.cli", "run"],
                cwd=self.folder,
                env=self.environment,
                stdout=log,
                stderr=log,
            )

    def kill(self) -> None:
        """As the kernel does when memory is short."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
            self.kills += 1

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(START_S)
            except subprocess.TimeoutExpired:
                self.kill()
            self.process = None

    @property
    def log(self) -> str:
        return (self.folder / "service.log").read_text("utf-8", "replace")

    async def command(self, *arguments: str) -> str:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "headwater.cli", *arguments),
            cwd=self.folder,
            env=self.environment,
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
        if process.returncode != 0:
            raise RuntimeError(f"headwater {' '.join(arguments)} ended with {process.returncode}")
        return output.decode()

    async def sql(self, statement: str) -> list[list[Any]]:
        """The rows of a statement, read by the running service."""
        path = str(admin_socket(f"sqlite:{self.folder / '.headwater'}"))
        transport = httpx.AsyncHTTPTransport(uds=path)
        async with httpx.AsyncClient(transport=transport, base_url="http://admin/v1", timeout=PATIENCE_S) as admin:
            answer = await admin.post("/sql", json={"statement": statement, "limit": 100_000, "seconds": 20})
            rows: list[list[Any]] = answer.raise_for_status().json()["rows"]
            return rows
