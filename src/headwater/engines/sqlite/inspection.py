"""Reading the store with SQL (`headwater.inspecting`): each question has a connection of its own, read-only, and one
read transaction on it."""

from __future__ import annotations

from functools import partial
from typing import Any

import apsw

from headwater.engine import Answer, Question
from headwater.engines.sqlite.database import connect, fetch, translate, verify
from headwater.engines.sqlite.forgetting import Forgetting
from headwater.inspecting.answering import Deadline, Snapshot, answer
from headwater.inspecting.asking import Asking
from headwater.inspecting.views import Shown

_MESSAGES = (
    "(SELECT w.queue, w.position, w.grp, w.receives, w.sent_ms, w.ready_ms, e.id, e.source, e.envelope, e.trace"
    " FROM message w JOIN event e ON e.seq = w.event)"
)


class Inspections(Forgetting):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._asking = Asking()

    async def ask(self, question: Question) -> Answer:
        return await self._asking.ask(partial(self._answer, question, self.present_ms()))

    async def _end_questions(self) -> None:
        """Their connections would keep the store's files open."""
        await self._asking.end()

    def _answer(self, question: Question, now_ms: int) -> Answer:
        deadline = Deadline(question)
        try:
            connection = connect(self.folder / "store.db", read_only=True, vfs=self._vfs)
            try:
                connection.execute("BEGIN")
                tables = self._shown(connection)
                snapshot = Snapshot(connection, tables, _MESSAGES, now_ms, verify, lambda: self._asking.ending)
                return answer(question, deadline, snapshot)
            finally:
                connection.close()
        except apsw.Error as error:
            raise translate(error, "sql") from error

    def _shown(self, connection: apsw.Connection) -> list[Shown]:
        merging: dict[int, int] = dict(fetch(connection, "SELECT tbl, id FROM load WHERE state = 1"))
        ids = self.state.ids
        specs = [spec for name, spec in sorted(self.state.tables.items()) if name in ids]
        return [Shown(spec, ids[spec.name], merging.get(ids[spec.name])) for spec in specs]
