"""A console with something on every screen: the five applications in use, and an app in which all texts are attacks."""

from __future__ import annotations

import struct
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import httpx

from tests.browser.console_house import ROOT, ConsoleHouse, serve_house
from tests.browser.hostile_app import ATTACK, ATTACKS, UNTOLD

PATIENCE_S = 100.0
CATEGORIES = ("books", "garden", "kitchen", "tools")


@contextmanager
def serve_applications(folder: Path) -> Iterator[ConsoleHouse]:
    """The five applications in use, for pictures."""
    with serve_house(folder) as house:
        use_applications(house)
        wait_for(lambda: house.ask("dead-letters")["dead_letters"])
        wait_for(lambda: house.ask("alarms")["alarms"])
        wait_for(lambda: house.ask("mails")["mails"])
        yield house


@contextmanager
def serve_lively(folder: Path) -> Iterator[ConsoleHouse]:
    """Served, filled, and everything that is to happen has happened."""
    (folder / "hostile.py").write_text((ROOT / "tests/browser/hostile_app.py").read_text("utf-8"), "utf-8")
    with serve_house(folder, "hostile") as house:
        use_applications(house)
        attack(house)
        wait_for(lambda: len(house.ask("dead-letters")["dead_letters"]) > len(ATTACKS))
        wait_for(lambda: house.ask("mails")["mails"])
        wait_for(lambda: house.ask("alarms")["alarms"])  # once a minute
        yield house


def wait_for(reached: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.1)


def use_applications(house: ConsoleHouse) -> None:
    with httpx.Client(base_url=house.url, timeout=20) as http:
        for n in range(12):
            draft = {"name": f"Product {n}", "category": CATEGORIES[n % 4], "price_cents": 100 + n}
            assert http.post("/catalog/products", json=draft).status_code == 201
        for n in range(4):
            http.get("/reporting/totals")
            http.get(f"/catalog/products/{n}")
    for n in range(3):
        customer = {"id": f"c{n}", "name": f"Customer {n}", "consent": "granted"}
        house.ask("table-put", table="erasure/customers", value=customer)
    house.ask("table-put", table="erasure/customers", value={**customer, "consent": "revoked"})
    house.ask("send", queue="reporting/reports", data={"id": "no such form of id"}, group="a", delay="0s")
    house.ask("key-create", name="acme", plan="subscriber")
    house.ask("subscribe", topic="catalog/product-events", queue="reporting/audit-reports", group="id")
    house.put_object("gallery/uploads", "ann/summer/1.png", png(), "image/png")
    house.put_object("directory/drops", "notes/read me.txt", b"These are notes.\n", "text/plain")
    house.put_object("directory/drops", "notes/table.csv", b"a,b\n1,2\n", "text/csv")
    for name in ("staff", "staff-cut-off"):  # the second is refused, and somebody is mailed
        rows = (ROOT / f"apps/directory/samples/{name}.csv").read_bytes()
        house.put_object("directory/drops", f"staff/{name}.csv", rows, "text/csv")
    house.ask("schedule-run", schedule="erasure/poll")


def attack(house: ConsoleHouse) -> None:
    """Each attack alone, and all in one, wherever a stranger's text is kept."""
    for n, text in enumerate((*ATTACKS, ATTACK)):
        note = {"id": text, "group": text, "text": text, "more": {text: [text]}, "secret_note": UNTOLD}
        house.ask("table-put", table="hostile/notes", value=note)
        house.ask("table-put", table="hostile/notes", value={**note, "text": f"again {text}"})
        house.ask("send", queue="hostile/jobs", data={"text": text, text: text}, group=text)
        house.ask("send", queue="hostile/waiting", data={"text": text, text: text, "secret_note": UNTOLD}, delay="1h")
        house.ask("publish", topic="hostile/news", data={"text": text}, attributes={"kind": "x", f"a{n}": text})
        for content_type, content in (("text/plain", text.encode()), ("text/csv", f"{text},b\n1,{text}\n".encode())):
            house.put_object("hostile/files", f"{text}.{content_type[5:]}", content, content_type)
        house.put_object("hostile/files", f"{text}/1.svg", b"<svg onload='window.hacked=1'/>", "image/svg+xml")
        house.put_object("hostile/files", f"{text}.html", text.encode(), "text/html")
        httpx.get(f"{house.url}/hostile/things/{quote(text, safe='')}")
        house.ask("key-create", name=text)
        house.ask("schedule-run", schedule="hostile/nightly", parameters={text: text})
        house.ask("publish", topic="hostile/late", data={"text": text})
    house.ask("op-poll", kind="hostile/orders")
    house.ask("pause", queue="hostile/waiting")


def png() -> bytes:
    """A small red image."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + b"\xc0\x30\x20" * 16 for _ in range(16))
    head = struct.pack(">IIBBBBB", 16, 16, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
