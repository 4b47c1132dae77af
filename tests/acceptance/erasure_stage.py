"""The drive's processes: the vendor, a mail server, and the service, which is killed and started again."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from tests.acceptance.driven_service import ROOT, DrivenService, until_answered
from tests.patience import PATIENCE_S
from tests.ports import free_port
from tests.runtime.mail_server import MailServer

TOKEN = "token-of-the-vendor"
CONTACT = "tech@erasure.example"
RANDOM_KEYS = """
import uuid
from apps.erasure.app import app, ask, deletions


@deletions.on_start
async def start(op):
    return await ask("POST", "/deletions", op.request.model_dump(), {"Idempotency-Key": uuid.uuid4().hex})
"""
"""An app that breaks its promise: a start that is repeated is another one for the vendor."""


class Service(DrivenService):
    """The erasure app, with its vendor and its mail server."""

    def __init__(self, folder: Path, vendor_url: str, mail_port: int, **settings: str) -> None:
        super().__init__(folder)
        self._vendor_url = vendor_url
        self._mail_port = mail_port
        self._settings = settings

    def prepare(self, *, random_keys: bool) -> None:
        if random_keys:
            (self.folder / "random_keys.py").write_text(RANDOM_KEYS)
        self.configure("random_keys" if random_keys else "apps.erasure.app")
        with (self.folder / "headwater.toml").open("a") as settings:
            settings.write(
                f'[default.smtp]\nhost = "127.0.0.1"\nport = {self._mail_port}\nsecurity = "none"\n'
                'sender = "erasure@erasure.example"\n'
            )

    @property
    def environment(self) -> dict[str, str]:
        given = {"vendor_url": self._vendor_url, "vendor_token": TOKEN, "technical_contact": CONTACT, **self._settings}
        return {**super().environment, **{f"ERASURE_{name.upper()}": value for name, value in given.items()}}


class VendorProcess:
    """The vendor, told over HTTP how to misbehave."""

    def __init__(self, *, work_s: float, seed: int) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        arguments = {"port": self.url.rpartition(":")[2], "token": TOKEN, "work": str(work_s), "seed": str(seed)}
        options = [part for name, value in arguments.items() for part in (f"--{name}", value)]
        self._process = subprocess.Popen([sys.executable, "-m", "apps.erasure.vendor", *options], cwd=ROOT)
        self.http = httpx.AsyncClient(base_url=self.url, timeout=PATIENCE_S)

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
