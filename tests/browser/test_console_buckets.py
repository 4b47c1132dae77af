"""The console's buckets in a real browser, against a server of all applications."""

from __future__ import annotations

import io
import json
from pathlib import Path
from urllib.parse import quote

import pytest
from PIL import Image

from tests.browser.chromium import NAMES, Chromium
from tests.browser.console_house import ConsoleHouse, show
from tests.browser.test_console_tables import choose, click

pytestmark = pytest.mark.needs(*NAMES, package="chromium")
BUCKET = "directory/drops"
HOSTILE = "<img src=x onerror='window.hacked=1'>"


def keys(house: ConsoleHouse, prefix: str, bucket: str = BUCKET) -> list[str]:
    return [info["key"] for info in house.ask("bucket-list", bucket=bucket, prefix=prefix)["items"]]


def object_page(house: ConsoleHouse, key: str, bucket: str = BUCKET) -> str:
    return f"{house.console}/buckets/{bucket}/object?key={quote(key, safe='')}"


def wait_for(page: Chromium, *wanted: str) -> None:
    """Until this is told of the uploads."""
    page.until(
        "JSON.stringify([...document.querySelectorAll('.uploads li > :last-child')].map(s => s.textContent))"
        f" === JSON.stringify({json.dumps(wanted)})"
    )


def picture() -> bytes:
    made = io.BytesIO()
    Image.new("RGB", (320, 200), (30, 120, 140)).save(made, "PNG")
    return made.getvalue()


def test_files_are_chosen_and_dropped_and_their_progress_is_told(
    page: Chromium, house: ConsoleHouse, tmp_path: Path
) -> None:
    large = tmp_path / "large.bin"
    large.write_bytes(bytes(8 << 20))
    page.open(f"{house.console}/buckets/{BUCKET}?prefix=up/{quote(HOSTILE)}/")
    page.evaluate(
        """const uploads = document.querySelector('.uploads');
        window.seen = []; new MutationObserver(() => window.seen.push(uploads.textContent))
        .observe(uploads, {subtree: true, childList: true, characterData: true}); 0"""
    )
    choose(page, "#files", large)
    wait_for(page, "stored")
    assert any("%" in text for text in page.evaluate("window.seen"))
    page.evaluate(
        """const files = new DataTransfer();
        files.items.add(new File(['one'], 'one.txt', {type: 'text/plain'}));
        files.items.add(new File(['two'], 'two.txt', {type: 'text/plain'}));
        const drop = new DragEvent('drop', {dataTransfer: files, bubbles: true, cancelable: true});
        document.querySelector('[data-drop]').dispatchEvent(drop); 0"""
    )
    wait_for(page, "stored", "stored", "stored")
    stored = keys(house, f"up/{HOSTILE}/")
    assert stored == [f"up/{HOSTILE}/{name}" for name in ("large.bin", "one.txt", "two.txt")]
    assert house.ask("bucket-head", bucket=BUCKET, key=stored[0])["size"] == 8 << 20
    assert house.ask("bucket-head", bucket=BUCKET, key=stored[1])["content_type"] == "text/plain"
    page.until("document.querySelectorAll('[aria-label=Objects] tbody tr').length === 3")
    click(page, "[data-new]")
    choose(page, "#files", large)
    wait_for(page, "stored", "stored", "stored", "the object exists already")
    assert page.evaluate("window.hacked") is None


def test_images_texts_and_tables_are_previewed_and_nothing_of_them_runs(page: Chromium, house: ConsoleHouse) -> None:
    script = "<script>window.hacked = 1; parent.hacked = 1</script>"
    house.put_object(BUCKET, "see/picture", picture(), "image/png")
    house.put_object(BUCKET, "see/page.html", f"<h1>{HOSTILE}</h1>{script}".encode(), "text/html")
    house.put_object(
        BUCKET, "see/drawing.svg", f"<svg xmlns='http://www.w3.org/2000/svg'>{script}</svg>".encode(), "image/svg+xml"
    )
    house.put_object(BUCKET, "see/table.csv", f'name,n\n"{HOSTILE}",2\n'.encode(), "text/csv")
    house.put_object(BUCKET, "see/lying.png", script.encode(), "image/png")
    house.put_object(BUCKET, "see/bytes", bytes(range(256)))
    page.open(object_page(house, "see/picture"))
    page.until("document.querySelector('.preview img').naturalWidth === 320")
    for name in ("page.html", "drawing.svg"):
        page.open(object_page(house, f"see/{name}"))
        assert script in page.evaluate("document.querySelector('.preview pre').textContent")
    page.open(object_page(house, "see/table.csv"))
    table = page.evaluate(
        "[...document.querySelectorAll('.preview tr')].map(tr => [...tr.cells].map(cell => cell.textContent))"
    )
    assert table == [["name", "n"], [HOSTILE, "2"]]
    page.open(object_page(house, "see/bytes"))
    assert page.evaluate("document.querySelector('.preview .empty') !== null")
    page.open(object_page(house, "see/lying.png"))
    page.until("document.querySelector('.preview img').complete")
    assert page.evaluate("document.querySelector('.preview img').naturalWidth") == 0
    assert page.evaluate("window.hacked") is None


def test_prefixes_lead_down_and_crumbs_lead_up(page: Chromium, house: ConsoleHouse) -> None:
    for key in ("walk/a/1", "walk/a/2", "walk/b", "walk/../c"):
        house.put_object(BUCKET, key, b"x")
    page.open(f"{house.console}/buckets/{BUCKET}?prefix=walk/")
    names = "[...document.querySelectorAll('[aria-label=Objects] tbody a')].map(a => a.textContent)"
    assert page.evaluate(names) == ["../", "a/", "b"]
    page.evaluate("[...document.querySelectorAll('[aria-label=Objects] tbody a')][1].click()")
    page.until("location.search.includes('walk%2Fa') && document.readyState === 'complete'")
    assert page.evaluate(names) == ["1", "2"]
    click(page, ".crumbs a:nth-of-type(2)")
    page.until("location.search === '?prefix=walk%2F' && document.readyState === 'complete'")
    assert page.evaluate(names) == ["../", "a/", "b"]
    page.open(f"{house.console}/buckets/{BUCKET}?prefix=walk/&flat=1")
    assert page.evaluate(names) == ["walk/../c", "walk/a/1", "walk/a/2", "walk/b"]


def test_an_object_tells_the_notifications_it_fired_and_is_deleted(page: Chromium, house: ConsoleHouse) -> None:
    key = "ann/summer/told.png"
    house.put_object("gallery/uploads", key, picture(), "image/png")
    page.open(object_page(house, key, "gallery/uploads"))
    page.until("document.querySelector('article.change .messages').textContent.includes('gallery/examine')")
    (change,) = house.ask("bucket-history", bucket="gallery/uploads", key=key)["changes"]
    assert (
        page.evaluate("document.querySelector('article.change a').getAttribute('href')") == f"/traces/{change['trace']}"
    )
    click(page, "form.action[action$=bucket-delete] button")
    page.until("document.getElementById('confirm').open")
    click(page, "#confirm button[value=yes]")
    page.until("location.pathname === '/buckets/gallery/uploads' && document.readyState === 'complete'")
    assert keys(house, key, "gallery/uploads") == []
    page.open(object_page(house, key, "gallery/uploads"))
    assert page.evaluate("document.querySelector('h1 .badge').textContent") == "deleted"
    kinds = "[...document.querySelectorAll('article.change h3 .badge')].map(badge => badge.textContent)"
    assert page.evaluate(kinds) == ["deleted", "put"]


def test_all_objects_below_a_prefix_are_deleted_after_a_question(page: Chromium, house: ConsoleHouse) -> None:
    for n in range(30):
        house.put_object(BUCKET, f"sweep/{n % 3}/{n}", b"x")
    house.put_object(BUCKET, "sweepings", b"x")
    page.open(f"{house.console}/buckets/{BUCKET}?prefix=sweep/")
    click(page, "[data-remove-all]")
    page.until("document.getElementById('confirm').open")
    assert "30 objects" in page.evaluate("document.getElementById('confirm-text').textContent")
    click(page, "#confirm button[value=yes]")
    page.until("document.querySelector('[data-progress] [role=status]').textContent === '30 objects deleted'")
    assert keys(house, "sweep") == ["sweepings"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_a_phone(page: Chromium, house: ConsoleHouse, scheme: str) -> None:
    key = f"narrow/{'W' * 300}/{json.dumps(HOSTILE)}.txt"
    house.put_object(BUCKET, key, b"w" * 3000, "text/plain")
    show(page, 390, scheme)
    for url in (f"{house.console}/buckets/{BUCKET}?prefix=narrow/{'W' * 300}/", object_page(house, key)):
        page.open(url)
        assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.evaluate("window.hacked") is None
