"""One load of a table on its way: its rows compared with what is there, and staged where they differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from headwater.applying import documents as stored_documents
from headwater.applying.loading import Brought, Present, anothers, leaves_ms, too_many
from headwater.aws import staged
from headwater.aws.staged import Row
from headwater.catalog import TableSpec
from headwater.engine import Differences, Document, Missing, Record
from headwater.events import Key
from headwater.ids import new_id
from headwater.unit import Flip

if TYPE_CHECKING:
    from headwater.engines.aws.loads import Loads

COMPARED_ROWS = 100
Found = tuple[Record, int, int | None]
"""A record with its schema and the time of its end."""


class AwsStaging:
    """One load on its way (`engine.Staging`)."""

    def __init__(self, loads: Loads, spec: TableSpec, flip: Flip, generations: dict[str, int]) -> None:
        self.flip = flip
        self._generations = generations
        self.staged = 0
        self._loads = loads
        self._spec = spec
        self._resource = f"{spec.name} {flip.scope}".rstrip()
        self._uid = new_id()
        self._brought = Brought(spec.name)

    def close(self) -> None:
        self._brought.close()

    async def add(self, documents: Sequence[Document]) -> Differences:
        total = Differences()
        for at in range(0, len(documents), COMPARED_ROWS):
            part = documents[at : at + COMPARED_ROWS]
            self._brought.add([document.key for document in part])
            total += await self._compare(part)
        return total

    async def _compare(self, documents: Sequence[Document]) -> Differences:
        keys = [document.key for document in documents]
        records = await self._loads.present_records(self._spec, keys)
        owners = await self._loads.owners(self._spec.name, keys)
        counts, rows, now_ms = {"inserted": 0, "modified": 0}, [], self._loads.present_ms()
        for document in documents:
            owner = owners.get(document.key)
            if owner is not None and owner != self.flip.scope:
                raise anothers(document.key, owner, self._resource)
            record = records.get(document.key)
            expires_ms = stored_documents.expiry(self._spec, document.body, now_ms)
            verdict = _judge(document, record)
            if verdict:
                counts[verdict] += 1
            elif record is not None and owner is not None and record[1:] == (self._spec.schema, expires_ms):
                continue
            base = None if record is None else record[0].version
            rows.append(
                Row(document.key, base, self._version(), document.body, expires_ms, document.digest, owner is None)
            )
        await self._stage(rows)
        return Differences(**counts, unchanged=len(documents) - sum(counts.values()))

    def _version(self) -> str:
        self.staged += 1
        return f"{self._uid}-{self.staged:08x}"

    async def _stage(self, rows: Sequence[Row]) -> None:
        if not rows:
            return
        await self._loads.touch(self.flip)
        first = self.staged - len(rows)
        items = [staged.staged_item(self.flip.load, first + n, row) for n, row in enumerate(rows)]
        await self._loads.write_all(items, [])

    async def finish(self, missing: Missing, grace_ms: int, max_removed: float) -> int:
        loads, spec, vanished = self._loads, self._spec, 0
        members = await loads.members(spec.name, self.flip.scope)
        at_ms = loads.present_ms() + grace_ms if missing == "expire" else None
        most = math.inf if missing == "keep" else len(members) * max_removed + 1e-6
        for at in range(0, len(members), COMPARED_ROWS):
            keys = [key for key, _ in members[at : at + COMPARED_ROWS]]
            brought = self._brought.among(keys)
            absent = [key for key in keys if key not in brought]
            records = await loads.present_records(spec, absent)
            vanished += len(records)
            if vanished > most:
                raise too_many(vanished, len(members), max_removed, self._resource)
            if missing != "keep":
                await self._stage([self._leaving(key, records.get(key), at_ms) for key in absent])
        while await loads.expand(spec.name):
            """Another scope's load was flipped meanwhile: this one's flip would meet a conflict."""
        await self._check_scopes()
        return vanished

    async def _check_scopes(self) -> None:
        """The scopes that were loaded since this load began may have what it has staged."""
        now = await self._loads.generations(self._spec.name)
        if {**now, self.flip.scope: 0} == {**self._generations, self.flip.scope: 0}:
            return
        async for keys in self._loads.staged_keys(self.flip.load):
            for key, owner in (await self._loads.owners(self._spec.name, keys)).items():
                if owner != self.flip.scope:
                    raise anothers(key, owner, self._resource)

    def _leaving(self, key: Key, record: Found | None, at_ms: int | None) -> Row:
        if record is None:
            return Row(key, None, self._version(), None, None, None)
        expires_ms = leaves_ms(Present(record[0].version, *record[1:]), at_ms)
        return Row(key, record[0].version, self._version(), None, expires_ms, None)


def _judge(document: Document, record: Found | None) -> str:
    """What the document makes of the record; nothing when it is its own."""
    if record is None:
        return "inserted"
    return "" if record[0].body == document.body else "modified"
