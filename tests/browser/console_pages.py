"""The pages of a running console, found by following links, so that a new screen is found, too."""

from __future__ import annotations

from collections import defaultdict
from html.parser import HTMLParser
from urllib.parse import urldefrag, urljoin, urlsplit

import httpx
from starlette.routing import compile_path

from headwater.console.screens import all_screens

LOOKED_AT = 10
"""Pages of a screen whose links are followed."""
SCREENS = {screen.path: compile_path(screen.path)[0] for screen in all_screens()}


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if tag == "a" and name == "href" and value]


def screen_of(address: str) -> str:
    """The path of the screen that serves an address; "" for what is no page."""
    place = urlsplit(address).path
    return next((path for path, pattern in SCREENS.items() if pattern.match(place)), "")


def find_pages(http: httpx.Client, most: int = 1, first: str = "\0") -> dict[str, list[str]]:
    """Addresses (without the origin) by the screen's path, at most so many of each, those with `first` in them first.

    All are answered with 200.
    """
    found: dict[str, list[str]] = defaultdict(list)
    waiting, seen = ["/"], {"/"}
    while waiting:
        address = next((one for one in waiting if first in one), waiting[0])
        waiting.remove(address)
        screen = screen_of(address)
        if not screen or len(found[screen]) >= max(most, LOOKED_AT):
            continue
        answer = http.get(address)
        assert answer.status_code in (200, 404, 422), f"{address}: {answer.status_code} {answer.text[:2000]}"
        if answer.status_code != 200:  # what was there is gone, or cannot be shown
            continue
        found[screen].append(address)
        links = _Links()
        links.feed(answer.text)
        for link in links.found:
            joined = urldefrag(urljoin(str(answer.url), link)).url
            local = joined.removeprefix(str(http.base_url).rstrip("/"))
            if local.startswith("/") and local not in seen:
                seen.add(local)
                waiting.append(local)
    return {screen: addresses[:most] for screen, addresses in found.items()}
