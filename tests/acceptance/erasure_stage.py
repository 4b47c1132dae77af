"""The drive's processes: the vendor, a mail server, and the service, which is killed and started again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from headwater.config import admin_socket
from tests.runtime.mail_server import MailServer

ROOT = Path(__file__).parents[2]
TOKEN = "token-of-the-vendor"
CONTACT = "tech@erasure.example"
START_S = 20.0
PAUSE_S = 0.05
RANDOM_KEYS = """
import uuid
from apps.erasure.app import app, ask, deletions


@deletions.on_start
async def start(op):
    return await ask("POST", "/deletions", op.request.model_dump(), {"Idempotency-Key": uuid.uuid4().hex})
"""
"""An app that breaks its promise: a start that is repeated is another one for the vendor."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


async def until_answered(client: httpx.AsyncClient, path: str) -> None:
    async with asyncio.timeout(START_S):
        while True:
            with contextlib.suppress(httpx.TransportError):
                if (await client.get(path)).status_code == 200:
                    return
            await asyncio.sleep(PAUSE_S)


class Service:
    """`headwater run` in a folder of its own, on one port however often it is killed."""

    def __init__(self, folder: Path, vendor_url: str, mail_port: int, **settings: str) -> None:
        self.folder = folder
        self.url = f"http://127.0.0.1:{free_port()}"
        self.kills = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._vendor_url = vendor_url
        self._mail_port = mail_port
        self._settings = settings

    def prepare(self, *, random_keys: bool) -> None:
        if random_keys:
            (self.folder / "random_keys.py").write_text(RANDOM_KEYS)
        app = "random_keys" if random_keys else "apps.erasure.app"
        (self.folder / "headwater.toml").write_text(
            f'[default]\napps = ["{app}"]\nport = {self.url.rpartition(":")[2]}\n'
            '[default.issuers.local]\ndevelopment = true\nroles = ["roles"]\n'
            f'[default.smtp]\nhost = "127.0.0.1"\nport = {self._mail_port}\nsecurity = "none"\n'
            'sender = "erasure@erasure.example"\n'
        )

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HEADWATER_")}
        given = {"vendor_url": self._vendor_url, "vendor_token": TOKEN, "technical_contact": CONTACT, **self._settings}
        settings = {f"ERASURE_{name.upper()}": value for name, value in given.items()}
        return {**kept, **settings, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}

    def start(self) -> None:
        with (self.folder / "service.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "headwater.cli", "run"],
                cwd=self.folder,
                env=self.environment,
                stdout=log,
                stderr=log,
            )

    def kill(self) -> None:
        """As the kernel does when memory is short."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            self.kills += 1

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(START_S)
            except subprocess.TimeoutExpired:
                self.kill()
            self._process = None

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
        async with httpx.AsyncClient(transport=transport, base_url="http://admin/v1", timeout=30) as admin:
            answer = await admin.post("/sql", json={"statement": statement, "limit": 100_000, "seconds": 20})
            rows: list[list[Any]] = answer.raise_for_status().json()["rows"]
            return rows


class VendorProcess:
    """The vendor, told over HTTP how to misbehave."""

    def __init__(self, *, work_s: float, seed: int) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        arguments = {"port": self.url.rpartition(":")[2], "token": TOKEN, "work": str(work_s), "seed": str(seed)}
        options = [part for name, value in arguments.items() for part in (f"--{name}", value)]
        self._process = subprocess.Popen([sys.executable, "-m", "apps.erasure.vendor", *options], cwd=ROOT)
        self.http = httpx.AsyncClient(base_url=self.url, timeout=10)

    async def __aenter__(self) -> VendorProcess:
        try:
            await until_answered(self.http, "/faults")
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.http.aclose()
        self._process.kill()
        self._process.wait()

    async def misbehave(self, *faults: dict[str, Any]) -> None:
        (await self.http.put("/faults", json=list(faults))).raise_for_status()

    async def deletions(self) -> dict[str, list[str]]:
        """The status of each deletion that was accepted, by customer."""
        found: dict[str, list[str]] = {}
        for one in (await self.http.get("/deletions")).raise_for_status().json()["deletions"]:
            found.setdefault(one["customer"], []).append(one["status"])
        return found

    async def struck(self) -> dict[str, int]:
        struck: dict[str, int] = (await self.http.get("/deletions")).raise_for_status().json()["struck"]
        return struck


@contextlib.asynccontextmanager
async def opened(
    folder: Path, *, work_s: float, seed: int, random_keys: bool, **settings: str
) -> AsyncIterator[tuple[VendorProcess, MailServer, Service]]:
    async with VendorProcess(work_s=work_s, seed=seed) as vendor, MailServer() as mail:
        service = Service(folder, vendor.url, mail.port, **settings)
        service.prepare(random_keys=random_keys)
        service.start()
        try:
            yield vendor, mail, service
        finally:
            service.stop()
