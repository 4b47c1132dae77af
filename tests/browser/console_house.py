"""A running server of all five applications with its console, and a browser that looks at it.

The fixtures are the session's (see `conftest.py`): one server and one browser for all tests of the console. Each test
has a fresh tab; it fails when the browser has anything to complain about.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from headwater.config import admin_socket
from tests.acceptance.cli_processes import Serving
from tests.browser.chromium import Chromium

ROOT = Path(__file__).parents[2]
SETTINGS = """
[default.console]
address = "127.0.0.1:0"
hidden = ["secret_note"]
"""
VENDOR = {
    "ERASURE_VENDOR_URL": "http://127.0.0.1:9",
    "ERASURE_VENDOR_TOKEN": "nobody-answers-there",
    "ERASURE_TECHNICAL_CONTACT": "tech@example.org",
    "DIRECTORY_CONTACT": "staff@example.org",
}
"""Settings of the apps that need some, or mail somebody."""


class ConsoleHouse:
    """`url` is where the applications are served, `console` where the console is."""

    def __init__(self, folder: Path, serving: Serving) -> None:
        self.folder = folder
        self.url = serving.url
        self.console = serving.wait_for(r"console +(http://\S+)")[-1]
        self.store = f"sqlite:{folder / '.headwater'}"
        transport = httpx.HTTPTransport(uds=str(admin_socket(self.store)))
        self._admin = httpx.Client(transport=transport, base_url="http://admin", timeout=20)

    def ask(self, operation: str, **parameters: Any) -> Any:
        """An operation of the admin API, beside the console."""
        answer = self._admin.post(f"/v1/{operation}", json=parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def put_object(self, bucket: str, key: str, content: bytes, content_type: str = "application/octet-stream") -> None:
        named = json.dumps({"bucket": bucket, "key": key, "content_type": content_type})
        answer = self._admin.put("/v1/objects", params={"parameters": named}, content=content)
        assert answer.status_code == 200, answer.text

    def close(self) -> None:
        self._admin.close()


@contextmanager
def serve_house(folder: Path, *more: str, options: Sequence[str] = ()) -> Iterator[ConsoleHouse]:
    """The five applications on a store in the folder, and more apps that lie there."""
    (folder / "apps").symlink_to(ROOT / "apps")
    settings = (
        (ROOT / "headwater.toml").read_text("utf-8").replace("apps = [", "\n".join(["apps = [", *map(_item, more)]))
    )
    (folder / "headwater.toml").write_text(settings + SETTINGS, "utf-8")
    with Serving(folder, "--port", "0", *options, **VENDOR) as serving:
        made = ConsoleHouse(folder, serving)
        yield made
        made.close()
        assert serving.stop() == 0


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleHouse]:
    with serve_house(tmp_path_factory.mktemp("house")) as made:
        yield made


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with Chromium(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture
def page(chromium: Chromium) -> Iterator[Chromium]:
    """A fresh tab of 1280 px."""
    chromium.open_tab()
    show(chromium, 1280, "light")
    yield chromium
    complaints = chromium.complaints()
    assert not complaints, complaints


def _item(app: str) -> str:
    return f'    "{app}",'


def show(page: Chromium, width: int, scheme: str) -> None:
    """How wide the tab is, and whether it prefers light or dark."""
    page.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 800)
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
