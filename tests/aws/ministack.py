"""A stand-in for AWS: one ministack process on 127.0.0.1, at a free port, with its state in a folder that goes with it.

With `auth` every request is judged by IAM as its credentials allow; those of `environment` are the root's.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType

from tests.ports import free_port
from tests.postgres.guard import run_guard

PATIENCE_S = 30.0
REGION = "eu-central-1"
MISSING = "ministack is not installed: it is in the group of packages for development"


def is_installed() -> bool:
    return importlib.util.find_spec("ministack") is not None


class Ministack:
    """Leaving the context kills it and removes its folder; `log` is what it has told."""

    def __init__(self, *, auth: bool = False, module: str = "ministack", **options: str) -> None:
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="ministack-", dir=run_guard().folder))
        self._module = module
        self._options = {"AUTH": str(auth).lower(), **options}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs in its environment to take this for AWS."""
        return environment(self.url)

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text("utf-8", "replace")

    def __enter__(self) -> Ministack:
        own = {
            "GATEWAY_PORT": str(self.port),
            "BIND_HOST": "127.0.0.1",
            "MINISTACK_REGION": REGION,
            "STATE_DIR": str(self.folder / "state"),
            "S3_DATA_DIR": str(self.folder / "s3"),
            "TMPDIR": str(self.folder),
            "IOT_MTLS_ENABLED": "0",
            "SFTP_ENABLED": "0",
            "PYTHONWARNINGS": "ignore",
        }
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self._module],
                cwd=self.folder,
                env={**_plain_environment(), **self.environment, **own, **self._options},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        run_guard().keep(self._process.pid)
        end = time.monotonic() + PATIENCE_S
        while not self._is_ready():
            assert self._process.poll() is None, f"ministack ended:\n{self.log}"
            assert time.monotonic() < end, f"ministack is not ready:\n{self.log}"
            time.sleep(0.05)
        return self

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/_ministack/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE_S)
            run_guard().forget(self._process.pid)
        run_guard().discard(self.folder)


def environment(url: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def _plain_environment() -> dict[str, str]:
    """Without what would have it, or functions that it runs, reach the real AWS or a proxy."""
    return {
        name: value for name, value in os.environ.items() if not name.startswith("AWS_") and "proxy" not in name.lower()
    }
