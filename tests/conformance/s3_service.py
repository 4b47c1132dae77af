"""An S3-compatible service for tests: moto's, in this process."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest


@contextmanager
def s3_service() -> Iterator[str]:
    """The endpoint of a service that has nothing yet."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def bucket_of(folder: Path) -> str:
    return hashlib.sha256(str(folder).encode()).hexdigest()[:20]


def make_s3_place(endpoint: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a place for blobs of its own, with the credentials in the environment."""
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    httpx.put(f"{endpoint}/{bucket_of(folder)}").raise_for_status()
    return f"s3://{bucket_of(folder)}/some/prefix"
