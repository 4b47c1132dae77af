"""Bulk loads: what a load changes is staged in items, flipped by one commit, and moved into place in slices.

Until the flip nobody sees anything of a load, and a load that is given up was never there. From the flip on its rows
move into place, each slice one transaction: *here readers see rows as they move*, other than on the engines that lay
staged rows over the records. A scope is whole again when `expand` says 0; the handler of `headwater/expansions` sees
to that at once.

A row moves only onto the record that it was compared with. When somebody has written the record since, the later write
stands, and the next load finds the difference. So moving a slice twice does nothing: whoever expands, and however
often, each change becomes one event.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

from headwater.aws import staged
from headwater.aws.items import EXPIRES, PK, SK, TTL, VERSION, Item, pack_key, unpack, version_of
from headwater.aws.staged import Merging, Row
from headwater.aws.stored import CONTENT
from headwater.catalog import TableSpec
from headwater.engine import Record, Staging
from headwater.engines.aws.actions import Action
from headwater.engines.aws.client import Refused
from headwater.engines.aws.commits import Commits
from headwater.engines.aws.staging import COMPARED_ROWS, AwsStaging, Found
from headwater.engines.aws.working import Working
from headwater.errors import Conflict, HeadwaterError
from headwater.events import Key
from headwater.ids import new_id
from headwater.unit import Commit, Flip, Origin, Read, Write

SLICE_ROWS = 40
SLICE_BYTES = 2 * 1024 * 1024
GIVEN_UP_MS = 3_600_000
"""How long after it last went on a load that is neither flipped nor abandoned is taken for forgotten."""
_CHANGED = "ConditionalCheckFailedException"
_WRITES = 25


class Loads(Commits):
    """Part of the engine (`engine.Loads`)."""

    def _prepare_loads(self) -> None:
        self._tables_of: dict[int, str] = {}
        self._giving_up: set[asyncio.Task[None]] = set()

    async def _end_loads(self) -> None:
        for load in list(self._tables_of):
            self.abandon(load)
        if self._giving_up:
            await asyncio.wait(self._giving_up)

    async def begin_load(self, table: str, scope: str) -> Staging:
        self.writable()
        spec = self.table_spec(table)
        # First: a load of the scope that is flipped after this makes this one's flip a conflict.
        generations = await self.generations(table)
        while await self.expand(table):
            pass
        load = self.present_ms() << 12 | secrets.randbits(12)
        flip = Flip(table, scope, load, generations.get(scope, 0))
        self._tables_of[load] = table
        await self.write_all([self._load_item(flip)], [])
        return AwsStaging(self, spec, flip, generations)

    def _load_item(self, flip: Flip) -> Item:
        item = staged.loads_key(flip.table, f"{staged.LOAD}{flip.load}")
        return {**item, staged.TOUCHED: {"N": str(self.present_ms())}}

    async def touch(self, flip: Flip) -> None:
        """Let the others know that the load is going on. Raises `Conflict` when it was given up."""
        try:
            await self.dynamodb(
                "put_item",
                expect=(_CHANGED,),
                TableName=self.names.store,
                Item=self._load_item(flip),
                ConditionExpression=f"attribute_exists({PK})",
            )
        except Refused as refused:
            raise Conflict("the load was given up", operation="load", resource=flip.table) from refused

    # What is there

    async def _store_item(self, key: Item) -> Item | None:
        answer = await self.dynamodb("get_item", TableName=self.names.store, Key=key, ConsistentRead=True)
        found: Item | None = answer.get("Item")
        return found

    async def present_records(self, spec: TableSpec, keys: Sequence[Key]) -> dict[Key, Found]:
        """By key the records that are there, with their schema and the time of their end."""
        table, now_ms = self.names.table(spec.name), self.present_ms()
        found = {}
        for _, item in await self.batch_get({table: [pack_key(spec, key) for key in keys]}):
            image = unpack(item)
            if image.is_present(now_ms) and image.body is not None:
                record = Record(image.key, image.body, version_of(image), image.schema)
                found[image.key] = (record, image.schema, image.expires_ms)
        return found

    async def owners(self, table: str, keys: Sequence[Key]) -> dict[Key, str]:
        """The scopes that keys belong to."""
        by_place = {staged.key_of_item(staged.owner_key(table, key)): key for key in keys}
        items = await self.batch_get({self.names.store: [staged.owner_key(table, key) for key in keys]})
        return {by_place[staged.key_of_item(item)]: item["hw_scope"]["S"] for _, item in items}

    async def generations(self, table: str) -> dict[str, int]:
        """By scope the load that it was last flipped to."""
        items = await self.store_items(staged.loads_partition(table))
        names = [(item[SK]["S"], item) for item in items]
        return {
            name.removeprefix(staged.SCOPE): int(item[staged.LOADED]["N"])
            for name, item in names
            if name.startswith(staged.SCOPE)
        }

    async def staged_keys(self, load: int) -> AsyncIterator[list[Key]]:
        items = await self.store_items(staged.staged_partition(load))
        for at in range(0, len(items), COMPARED_ROWS):
            yield [staged.read_row(item).key for item in items[at : at + COMPARED_ROWS]]

    async def members(self, table: str, scope: str) -> list[tuple[Key, bytes]]:
        return [staged.read_member(item) for item in await self.store_items(staged.member_partition(table, scope))]

    async def unchanged_since_load(self, table: str, scope: str) -> bool:
        spec = self.table_spec(table)
        while await self.expand(table):
            pass
        members = await self.members(table, scope)
        for at in range(0, len(members), COMPARED_ROWS):
            part = members[at : at + COMPARED_ROWS]
            records = await self.present_records(spec, [key for key, _ in part])
            if any(key not in records or _digest(records[key][0].body) != digest for key, digest in part):
                return False
        return True

    # The flip

    def _more_actions(self, work: Working) -> list[Action]:
        return [*super()._more_actions(work), *(x for flip in work.commit.flips for x in self._flip(flip, work.commit))]

    def _flip(self, flip: Flip, commit: Commit) -> list[Action]:
        """The scope's pointer, what is to be expanded, and the end of the load on its way; each with its condition."""
        place = f"{flip.table} {flip.scope}".rstrip()
        number: Item = {staged.LOADED: {"N": str(flip.load)}}
        origin = Origin(commit.cause, commit.caller, commit.trace, commit.depth)
        scope = {**staged.loads_key(flip.table, f"{staged.SCOPE}{flip.scope}"), **number}
        merging = staged.merging_item(flip.table, Merging(flip.load, flip.scope, origin))
        on_its_way = staged.loads_key(flip.table, f"{staged.LOAD}{flip.load}")
        free, store = f"attribute_not_exists({PK})", self.names.store
        self._tables_of.pop(flip.load, None)
        after: Item = {":after": {"N": str(flip.after)}} if flip.after else {}
        return [
            Action(
                kind="flip",
                verb="Delete",
                table=store,
                item=on_its_way,
                condition=f"attribute_exists({PK})",
                what=(place, "the load was given up"),
            ),
            Action(
                kind="flip",
                verb="Put",
                table=store,
                item=merging,
                condition=free,
                what=(place, "the rows of its last load are not in place yet"),
            ),
            Action(
                kind="flip",
                verb="Put",
                table=store,
                item=scope,
                condition=f"{staged.LOADED} = :after" if after else free,
                values=after,
                what=(place, "another load came first"),
            ),
        ]

    # Into place

    async def expand(self, table: str) -> int:
        self.writable()
        spec = self.table_spec(table)
        item = await self._store_item(staged.loads_key(table, staged.MERGING))
        if item is None:
            return 0
        merging = staged.read_merging(item)
        items = await self._staged_items(merging.load, SLICE_ROWS)
        if not items:
            await self._end_merging(table, merging.load)
            return 0
        slice = _slice(items)
        await self._move(spec, merging, [staged.read_row(item) for item in slice])
        members, leaving = self._membership(table, merging.scope, map(staged.read_row, slice))
        await self.write_all(members, [*leaving, *({PK: item[PK], SK: item[SK]} for item in slice)])
        return len(slice)

    async def _staged_items(self, load: int, limit: int) -> list[Item]:
        answer = await self.dynamodb(
            "query",
            TableName=self.names.store,
            KeyConditionExpression=f"{PK} = :p",
            ExpressionAttributeValues={":p": {"S": staged.staged_partition(load)}},
            ConsistentRead=True,
            Limit=limit,
        )
        found: list[Item] = answer["Items"]
        return found

    async def _end_merging(self, table: str, load: int) -> None:
        try:
            await self.dynamodb(
                "delete_item",
                expect=(_CHANGED,),
                TableName=self.names.store,
                Key=staged.loads_key(table, staged.MERGING),
                ConditionExpression=f"{staged.LOADED} = :l",
                ExpressionAttributeValues={":l": {"N": str(load)}},
            )
        except Refused:
            """Somebody else has ended it."""

    async def _move(self, spec: TableSpec, merging: Merging, rows: Sequence[Row]) -> None:
        """Onto the records that they were compared with; all at once, or those that still can one by one."""
        written = [row for row in rows if row.body is not None or (row.base is not None and row.expires_ms is None)]
        try:
            await self._commit_rows(spec, merging, written)
        except Conflict:
            for row in written:
                try:
                    await self._commit_rows(spec, merging, [row])
                except Conflict:
                    """It was written since, or is in its place already."""
        for row in rows:
            if row.body is None and row.base is not None and row.expires_ms is not None:
                await self._let_expire(spec, row)

    async def _commit_rows(self, spec: TableSpec, merging: Merging, rows: Sequence[Row]) -> None:
        if not rows:
            return
        commit = Commit(id=new_id(), trace=merging.origin.trace)
        for row in rows:
            commit.reads.append(Read(spec.name, row.key, row.base))
            commit.writes.append(Write(spec.name, row.key, row.version, row.body, origin=merging.origin))
        await self.commit(commit)

    async def _let_expire(self, spec: TableSpec, row: Row) -> None:
        try:
            await self.dynamodb(
                "update_item",
                expect=(_CHANGED,),
                TableName=self.names.table(spec.name),
                Key=pack_key(spec, row.key),
                UpdateExpression=f"SET {EXPIRES} = :x, {TTL} = :t",
                ConditionExpression=f"{VERSION} = :v",
                ExpressionAttributeValues={
                    ":x": {"N": str(row.expires_ms)},
                    ":t": {"N": str(-(-(row.expires_ms or 0) // 1000))},
                    ":v": {"S": row.base or ""},
                },
            )
        except Refused:
            """It was written since."""

    def _membership(self, table: str, scope: str, rows: Iterable[Row]) -> tuple[list[Item], list[Item]]:
        """What to put and what to delete."""
        puts: list[Item] = []
        gone: list[Item] = []
        for row in rows:
            member = staged.member_item(table, scope, row.key, row.digest or b"")
            if row.digest is None:
                gone += [{PK: member[PK], SK: member[SK]}, staged.owner_key(table, row.key)]
                continue
            puts.append(member)
            if row.is_new:
                puts.append(staged.owner_item(table, row.key, scope))
        return puts, gone

    async def write_all(self, puts: Sequence[Item], deletes: Sequence[Item]) -> None:
        """Items of the store table that are the same whenever they are written."""
        waiting: list[dict[str, Any]] = [{"PutRequest": {"Item": item}} for item in puts]
        waiting += [{"DeleteRequest": {"Key": key}} for key in deletes]
        while waiting:
            part, waiting = waiting[:_WRITES], waiting[_WRITES:]
            answer = await self.dynamodb("batch_write_item", RequestItems={self.names.store: part})
            left = answer.get("UnprocessedItems", {}).get(self.names.store, [])
            if left:
                waiting = left + waiting
                await asyncio.sleep(0.05)

    # Loads that are not flipped

    def abandon(self, load: int) -> None:
        if table := self._tables_of.pop(load, None):
            task = asyncio.get_running_loop().create_task(self._give_up(table, load))
            self._giving_up.add(task)
            task.add_done_callback(self._giving_up.discard)

    async def _give_up(self, table: str, load: int) -> None:
        """No commit can flip it from here on."""
        given_up = staged.loads_key(table, f"{staged.GIVEN_UP}{load}")
        on_its_way = staged.loads_key(table, f"{staged.LOAD}{load}")
        actions = [
            {"Put": {"TableName": self.names.store, "Item": given_up}},
            {
                "Delete": {
                    "TableName": self.names.store,
                    "Key": on_its_way,
                    "ConditionExpression": f"attribute_exists({PK})",
                }
            },
        ]
        try:
            await self.dynamodb("transact_write_items", expect=("TransactionCanceledException",), TransactItems=actions)
        except Refused:
            """It was flipped, or given up before."""
        except HeadwaterError:
            """It will be taken for forgotten."""

    async def sweep_loads(self, limit: int) -> int:
        self.writable()
        if self._giving_up:
            await asyncio.wait(self._giving_up)
        total = 0
        for table in sorted(self.state.tables):
            for item in await self.store_items(staged.loads_partition(table)):
                name = item[SK]["S"]
                load = int(name.rpartition("#")[2]) if name.startswith((staged.LOAD, staged.GIVEN_UP)) else 0
                if name.startswith(staged.LOAD) and self._is_forgotten(item):
                    await self._give_up(table, load)
                elif not name.startswith(staged.GIVEN_UP):
                    continue
                if total < limit:
                    total += await self._sweep(table, load, limit - total)
        return total

    def _is_forgotten(self, item: Item) -> bool:
        return int(item[staged.TOUCHED]["N"]) < self.present_ms() - GIVEN_UP_MS

    async def _sweep(self, table: str, load: int, limit: int) -> int:
        items = await self._staged_items(load, limit)
        keys = [{PK: one[PK], SK: one[SK]} for one in items]
        await self.write_all([], keys or [staged.loads_key(table, f"{staged.GIVEN_UP}{load}")])
        return len(items)


def _slice(items: Sequence[Item]) -> list[Item]:
    """As many from the beginning as a transaction can hold."""
    found: list[Item] = []
    size = 0
    for item in items:
        size += len(item[CONTENT]["B"])
        if found and size > SLICE_BYTES:
            break
        found.append(item)
    return found


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=16).digest()
