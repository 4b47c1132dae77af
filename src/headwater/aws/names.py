"""Physical names: each is made of the stack's name and the resource's, so nothing has to be looked up.

A stack is one environment of one set of apps; its name begins everything that belongs to it. Names that would be too
long end in a digest.
"""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

LONGEST = {"table": 255, "queue": 80, "topic": 256, "function": 64, "role": 64, "bucket": 63, "schedule": 64}
_STACK = re.compile(r"[a-z][a-z0-9-]{0,30}[a-z0-9]")


class Names(NamedTuple):
    """The names of a stack's resources; `resource` is "app/name"."""

    stack: str

    def table(self, resource: str) -> str:
        return self._name("table", resource)

    def queue(self, resource: str, *, fifo: bool) -> str:
        return self._name("queue", resource, ".fifo" if fifo else "")

    def dead_queue(self, resource: str, *, fifo: bool) -> str:
        return self._name("queue", resource, "-dead.fifo" if fifo else "-dead")

    def topic(self, resource: str) -> str:
        return self._name("topic", resource)

    def function(self, resource: str, kind: str) -> str:
        """`kind` as in `functions`: "queue", "http", "objects", "relay" and so on."""
        return self._name("function", resource, f"-{kind}")

    def role(self, resource: str, kind: str) -> str:
        return self._name("role", resource, f"-{kind}")

    def schedule(self, resource: str) -> str:
        return self._name("schedule", resource)

    def bucket(self, resource: str, account: str, region: str) -> str:
        """Buckets share one name space among all accounts."""
        return self._name("bucket", resource, f"-{account}-{region}")

    @property
    def store(self) -> str:
        """The table of claims, markers, dead letters, attempts, subscriptions, pauses and the catalog."""
        return f"{self.stack}-store"

    @property
    def outbox(self) -> str:
        """The table whose stream carries what commits publish and send."""
        return f"{self.stack}-outbox"

    @property
    def journal(self) -> str:
        """The table of the history: events by key, by trace and by time."""
        return f"{self.stack}-journal"

    def _name(self, kind: str, resource: str, ending: str = "") -> str:
        name = f"{self.stack}-{resource.replace('/', '-')}"
        room = LONGEST[kind] - len(ending)
        if len(name) > room:
            digest = hashlib.sha256(resource.encode()).hexdigest()[:8]
            name = f"{name[: room - 9]}-{digest}"
        return name + ending


def is_stack(name: str) -> bool:
    """Whether a stack may be called so: lower-case letters, digits and dashes, 2 to 32 of them."""
    return _STACK.fullmatch(name) is not None
