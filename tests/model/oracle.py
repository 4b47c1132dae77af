"""What a store promises, as dicts and lists: documents, queues, dead letters, claims and deduplication."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from headwater.unit import Merge, apply_merge
from tests.model.loads import Loads

DEDUPLICATION_MS = 300_000
VISIBILITY_MS = 10_000


@dataclass(eq=False)
class Message:
    """`receives` is durable; `attempts` adds the receives that only the running process knows."""

    id: str
    data: Any
    group: str | None = None
    ready_ms: int = 0
    receives: int = 0
    attempts: int = 0
    deadline_ms: int | None = None
    begun: bool = False
    suspect: bool = False

    @property
    def leased(self) -> bool:
        return self.deadline_ms is not None


@dataclass
class Oracle(Loads):
    now_ms: int = 0
    fifo: set[str] = field(default_factory=set)
    queues: dict[str, list[Message]] = field(default_factory=dict)
    dead: list[tuple[str, Message]] = field(default_factory=list)
    claims: dict[str, int] = field(default_factory=dict)
    dedups: dict[tuple[str, str], tuple[int, str]] = field(default_factory=dict)
    changes: str = "shop/changes"

    # Documents

    def version(self, key: str) -> str | None:
        return self.documents[key][0] if key in self.documents else None

    def put(self, key: str, version: str, document: dict[str, Any] | None) -> None:
        self.move(key)
        old = self.documents[key][1] if key in self.documents else None
        if document is None:
            self.documents.pop(key, None)
        else:
            self.documents[key] = version, document
        if old != document:
            self.queues[self.changes].append(Message(version, document, group=key))

    def merge(self, key: str, version: str, merge: Merge) -> bool:
        """Whether the merge is possible."""
        present = self.documents[key][1] if key in self.documents else {"id": key}
        try:
            merged = apply_merge(present, merge)
        except TypeError:
            return False
        self.put(key, version, merged)
        return True

    def move(self, key: str) -> None:
        """What a load has changed for the key gets into place, with its event."""
        if change := self.moved(key):
            self.queues[self.changes].append(Message(change[0], change[1], group=key))

    # Queues

    def send(self, queue: str, message: Message, delay_ms: int, dedup: str = "") -> str | None:
        """The id of the first event when this one is a duplicate."""
        if dedup:
            expires_ms, first = self.dedups.get((queue, dedup), (0, ""))
            if expires_ms > self.now_ms:
                return first
            self.dedups[queue, dedup] = self.now_ms + DEDUPLICATION_MS, message.id
        if queue not in self.fifo:
            message.group = None
        message.ready_ms = self.now_ms + delay_ms if delay_ms else 0
        self.queues[queue].append(message)
        return None

    def receivable(self, queue: str) -> list[Message]:
        waiting = self.queues[queue]
        if queue in self.fifo:
            heads: dict[str | None, Message] = {}
            for message in waiting:
                heads.setdefault(message.group, message)
            waiting = list(heads.values())
        return [message for message in waiting if not message.leased and message.ready_ms <= self.now_ms]

    def lease(self, message: Message) -> None:
        message.attempts += 1
        message.deadline_ms = self.now_ms + VISIBILITY_MS

    def give_back(self, message: Message, *, counted: bool) -> None:
        message.attempts -= 0 if counted else 1
        message.deadline_ms = None

    def retry(self, message: Message, ready_ms: int) -> None:
        message.receives, message.ready_ms = message.attempts, ready_ms
        message.deadline_ms, message.begun = None, False

    def ack(self, queue: str, message: Message) -> None:
        message.deadline_ms = None
        self.queues[queue].remove(message)

    def bury(self, queue: str, message: Message) -> None:
        self.ack(queue, message)
        message.receives = message.attempts
        self.dead.append((queue, message))

    def redrive(self, at: int, *, discard: bool) -> None:
        queue, message = self.dead.pop(at)
        if not discard:
            self.queues[queue].append(Message(message.id, message.data, message.group))

    def purge(self, queue: str) -> int:
        kept = [message for message in self.queues[queue] if message.leased]
        gone = len(self.queues[queue]) - len(kept)
        self.queues[queue] = kept
        return gone

    # Time, death

    def advance(self, ms: int) -> list[Message]:
        """The messages whose leases expired."""
        self.now_ms += ms
        late = [m for queue in self.queues.values() for m in queue if m.deadline_ms and m.deadline_ms <= self.now_ms]
        for message in late:
            self.give_back(message, counted=True)
        return late

    def end(self, *, died: bool) -> None:
        """The process closes the store, or dies: leases go, and what ran when it died counts as a receive."""
        for message in (message for queue in self.queues.values() for message in queue):
            if died and message.begun:
                message.receives, message.ready_ms = message.receives + 1, 0
            message.attempts, message.deadline_ms, message.begun = message.receives, None, False
