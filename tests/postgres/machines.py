"""A machine of several: process groups in a folder, whose only way to the database is the machine's own proxy."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import TracebackType
from typing import TypeVar
from urllib.parse import urlsplit, urlunsplit

from tests.acceptance.cli_processes import Running, Serving
from tests.patience import PATIENCE_S
from tests.postgres.guard import run_guard
from tests.postgres.proxy import Address, Proxy

R = TypeVar("R", bound=Running)


class Machine:
    """Its network is `proxy`, its processes find the store by `HEADWATER_STORE`; leaving the context kills them.

    `kill`, `freeze` and `thaw` hit each process together with those it has started: servers with their workers.
    """

    def __init__(self, folder: Path, store: str) -> None:
        self.folder = folder
        self.proxy = Proxy(address_of(store))
        self.store = through(store, self.proxy.port)
        self._running: list[Running] = []

    def __enter__(self) -> Machine:
        self.proxy.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, end: TracebackType | None
    ) -> None:
        self.kill()
        self.proxy.__exit__(kind, error, end)

    def run(self, *arguments: str, **environment: str) -> Serving:
        """Start `headwater run`."""
        return self._keep(Serving(self.folder, *arguments, HEADWATER_STORE=self.store, **environment))

    def start(self, *command: str, **environment: str) -> Running:
        """Start any other command, such as `headwater worker`."""
        return self._keep(Running(self.folder, *command, HEADWATER_STORE=self.store, **environment))

    def _keep(self, running: R) -> R:
        run_guard().keep(running.process.pid)
        self._running.append(running)
        return running

    def kill(self) -> None:
        """`kill -9` of all its processes: the machine is gone."""
        self._signal(signal.SIGKILL)
        for running in self._running:
            running.process.wait(PATIENCE_S)
            run_guard().forget(running.process.pid)
        self._running.clear()

    def freeze(self) -> None:
        """Stop all its processes where they are, as a suspended machine."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        for running in self._running:
            if running.process.poll() is None:
                os.killpg(running.process.pid, number)


def address_of(url: str) -> Address:
    parts = urlsplit(url)
    return parts.hostname or "127.0.0.1", parts.port or 5432


def through(url: str, port: int) -> str:
    """The same by way of a port of this host."""
    parts = urlsplit(url)
    login, at, _ = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{login}{at}127.0.0.1:{port}"))
