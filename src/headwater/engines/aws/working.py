"""One commit worked out: the rules of `applying`, without what streams tell (changes) and the relay does (routing)."""

from __future__ import annotations

from headwater.applying.batch import Batch
from headwater.applying.state import Slot, State, Stored
from headwater.aws.items import Origin
from headwater.aws.outbox import Posted
from headwater.aws.stored import Letter
from headwater.catalog import TableSpec
from headwater.errors import HeadwaterError
from headwater.events import Envelope, Key
from headwater.unit import Commit, Committed, Write


class Known:
    """What is known of the store when a commit is worked out; what is not known is taken to be as the commit says.

    `records` has what was read, with the version that the item must still have. A claim that is not known is taken to
    be free: if it is not, the transaction fails and tells what it holds.
    """

    def __init__(self) -> None:
        self.records: dict[Slot, Stored | None] = {}
        self.versions: dict[Slot, str | None] = {}
        self.claims: dict[tuple[str, str], tuple[int, bytes]] = {}
        self.depths: dict[int, int] = {}


class Working(Batch):
    """A batch of one commit. `written` says who writes what is `dirty`, `posted` is what goes into the outbox."""

    def __init__(self, state: State, now_ms: int, commit: Commit, known: Known) -> None:
        super().__init__(state, now_ms)
        self.commit = commit
        self.known = known
        self.written: dict[Slot, tuple[Write, Origin]] = {}
        self.posted: list[Posted] = []
        self.letters: list[tuple[str, int, Letter]] = []
        """What is buried, as (queue, id, letter)."""
        self.claims = dict(known.claims)
        for write in commit.writes:
            self.records[self.slot(write.table, write.key)] = None
        for read in commit.reads:
            present = None if read.version is None else Stored(read.version, b"", None, 1)
            self.records[self.slot(read.table, read.key)] = present
        self.records.update(known.records)

    def slot(self, table: str, key: Key) -> Slot:
        return self.state.ids.get(table, 0), *key

    def work_out(self) -> Committed:
        """What the commit answers when it is written; raises why it is refused."""
        result = self.apply(self.commit)
        if isinstance(result, HeadwaterError):
            raise result
        return result

    def _adopt_record(self, commit: Commit, slot: Slot, write: Write, old: Stored | None, new: Stored | None) -> None:
        super()._adopt_record(commit, slot, write, old, new)
        cause = write.origin or commit
        origin = Origin(self.now_ms, cause.cause, cause.caller, cause.trace, cause.depth, write.expired)
        self.written[slot] = write, origin

    def _emit_change(
        self, commit: Commit, write: Write, old: Stored | None, new: Stored | None, *, expired: bool
    ) -> None:
        """The table's stream tells of it."""

    def _move_entries(self, spec: TableSpec, slot: Slot, old: Stored | None, new: Stored | None) -> None:
        """They are attributes of the item."""

    def _store_event(self, event: Envelope) -> None:
        self.posted.append(Posted(event=event))

    def _append_event(self, seq: int, event: Envelope, places: list[tuple[int, int]], subject: str | None) -> None:
        """The relay writes the history."""

    def _add_message(
        self, queue: int, seq: int, event: Envelope, group: str | None, delay_ms: int, *, redriven: bool = False
    ) -> tuple[int, int]:
        turn = self.commit.id if redriven else ""
        name = self.state.names[queue]
        self.posted.append(Posted(event=event, queue=name, group=group, delay_ms=delay_ms, turn=turn))
        return queue, 0
