"""What the tours of the applications share: what a tour acts with, and how it tells that a step did not come true."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import httpx

Step = Callable[[], Awaitable[Sequence[str]]]
Admin = Callable[..., Awaitable[Any]]
Command = Callable[..., Awaitable[str]]
PAUSE_S = 0.05


class Play:
    """A tour: HTTP to the server, its admin API, and the command line; its steps are methods."""

    def __init__(self, http: httpx.AsyncClient, admin: Admin, command: Command) -> None:
        self._http = http
        self._admin = admin
        self._command = command


def expect(answer: httpx.Response, status: int) -> httpx.Response:
    request = answer.request
    check(
        answer.status_code == status,
        f"{request.method} {request.url} answered {answer.status_code}, not {status}: {answer.text}",
    )
    return answer


def check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise RuntimeError(otherwise)


def messages(nodes: Any) -> Iterator[dict[str, Any]]:
    """All messages of a trace's tree."""
    for node in nodes:
        for message in node.get("messages", ()):
            yield message
            yield from messages(message["events"])
        yield from messages(node.get("events", ()))
