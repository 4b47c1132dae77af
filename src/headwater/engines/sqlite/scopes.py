"""Whose key it is: that of the scope whose load has brought it, until a load of this scope takes it out.

A load asks for the keys that are not its scope's own yet, when it compares them; and at its end, for those that it has
staged, when another scope's load was flipped meanwhile. One that is flipped between that and its own flip is not seen.
"""

from __future__ import annotations

from collections.abc import Sequence

import apsw

from headwater.applying.loading import anothers
from headwater.engines.sqlite.database import Row, fetch, select_rows
from headwater.events import Key

_OTHERS = "SELECT scope, load FROM generation WHERE tbl = ? AND scope != ?"
_HELD = (
    "WITH k(t, c, p, s) AS (VALUES {keys}) SELECT scope, pk, sk"
    " FROM k CROSS JOIN member ON tbl = t AND scope = c AND pk = p AND sk = s"
)
STAGED_OF = (
    "SELECT m.scope, m.pk, m.sk FROM staged s CROSS JOIN member m"
    " ON m.tbl = ? AND m.scope = ? AND m.pk = s.pk AND m.sk = s.sk WHERE s.load = ? LIMIT 1"
)


class OtherScopes:
    """The scopes of a table beside the one that is loaded."""

    def __init__(self, reader: apsw.Connection, number: int, table: str, scope: str) -> None:
        self._reader = reader
        self._number = number
        self._table = table
        self._scope = scope
        self._begun = self._loads()

    def _loads(self) -> dict[str, int]:
        return dict(fetch(self._reader, _OTHERS, (self._number, self._scope)))

    def check(self, keys: Sequence[Key]) -> None:
        """Raise `InvalidValue` when another scope has one of these keys."""
        if not keys or not (others := self._loads()):
            return
        self._refuse(
            select_rows(self._reader, _HELD, [(self._number, other, *key) for other in others for key in keys])
        )

    def check_staged(self, load: int) -> None:
        """The same of all that the load has staged, for the scopes that were loaded since it began."""
        for other, generation in self._loads().items():
            if self._begun.get(other) != generation:
                self._refuse(fetch(self._reader, STAGED_OF, (self._number, other, load)))

    def _refuse(self, held: Sequence[Row]) -> None:
        for other, pk, sk in held:
            raise anothers((pk, sk), other, f"{self._table} {self._scope}".rstrip())
