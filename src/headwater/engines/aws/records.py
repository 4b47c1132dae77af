"""Reading records: by key, by range, by index.

Records of one partition come in the order of their keys, or of their index entries. Those of a whole table come in no
order that means anything, as DynamoDB scans, each one once; `reverse` has no meaning then. An index follows its table
after a moment.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from headwater.aws import stored
from headwater.aws.items import EXPIRES, GONE, PK, SK, Image, Item, index_attributes, pack_key, unpack, version_of
from headwater.aws.keys import pack_part, pack_place, place_from, place_prefix, place_to
from headwater.aws.shapes import index_name
from headwater.catalog import IndexSpec, TableSpec, index_entry
from headwater.codec import decode_json
from headwater.engine import Query, Record, RecordPage
from headwater.engines.aws.store import Store
from headwater.errors import UnknownResource
from headwater.events import Key, KeyPart

PRESENT = f"attribute_not_exists({GONE}) AND (attribute_not_exists({EXPIRES}) OR {EXPIRES} > :now)"
Pack = Callable[[Any], str]
_LEAST = 25
"""So many items at least are looked at in one call: some may be tombstones."""


class Records(Store):
    async def read(self, table: str, key: Key) -> Record | None:
        spec = self.table_spec(table)
        name = self.names.table(table)
        answer = await self.dynamodb("get_item", TableName=name, Key=pack_key(spec, key), ConsistentRead=True)
        item = answer.get("Item")
        if item is None:
            return None
        image = unpack(item)
        return _record(image) if image.is_present(self.present_ms()) else None

    async def query(self, query: Query) -> RecordPage:
        spec = self.table_spec(query.table)
        reading = _Reading(spec, query, self.present_ms())
        arguments = {"TableName": self.names.table(query.table), **reading.arguments}
        records: list[Record] = []
        if reading.is_empty:
            return RecordPage(records)
        while len(records) <= query.limit:
            arguments["Limit"] = max(_LEAST, query.limit - len(records) + 1)
            answer = await self.dynamodb(reading.operation, **arguments)
            found = (_record(unpack(item)) for item in answer["Items"])
            records += [record for record in found if reading.covers(record)]
            if "LastEvaluatedKey" not in answer:
                break
            arguments["ExclusiveStartKey"] = answer["LastEvaluatedKey"]
        more = len(records) > query.limit
        return RecordPage(records[: query.limit], reading.place(records[query.limit - 1]) if more else None)

    async def claimed(self, scope: str, id: str) -> bytes | None:
        answer = await self.dynamodb(
            "get_item", TableName=self.names.store, Key=stored.claim_key(scope, id), ConsistentRead=True
        )
        if "Item" not in answer:
            return None
        expires_ms, result = stored.read_claim(answer["Item"])
        return result if expires_ms > self.present_ms() else None


def _record(image: Image) -> Record:
    assert image.body is not None
    return Record(image.key, image.body, version_of(image), image.schema)


class _Reading:
    """A query as a call of DynamoDB."""

    def __init__(self, spec: TableSpec, query: Query, now_ms: int) -> None:
        self._spec = spec
        self._query = query
        self._index = _index(spec, query.index) if query.index else None
        self._values: Item = {":now": {"N": str(now_ms)}}
        self._names: dict[str, str] = {}
        self.operation = "scan" if query.partition is None else "query"
        self.arguments: dict[str, Any] = {"FilterExpression": PRESENT, "ExpressionAttributeValues": self._values}
        if self._index:
            self.arguments["IndexName"] = index_name(query.index)
        else:
            self.arguments["ConsistentRead"] = True
        if query.partition is None:
            self._ask_table()
        else:
            self._ask_partition(query.partition)
        if self._names:
            self.arguments["ExpressionAttributeNames"] = self._names
        low, high = (self._values[name]["S"].encode() if name in self._values else None for name in (":low", ":high"))
        self.is_empty = low is not None and high is not None and low > high
        """Whether nothing can be in the query's range; DynamoDB refuses such a question."""
        if query.after is not None:
            self._begin(self._start(query.after), low, high)

    def _begin(self, start: Item, low: bytes | None, high: bytes | None) -> None:
        """Behind `start`, which DynamoDB takes within the range only."""
        at = start[self._names["#r"]]["S"].encode() if "#r" in self._names and self.operation == "query" else b""
        is_below, is_above = low is not None and at < low, high is not None and at > high
        if is_below or is_above:
            self.is_empty = self.is_empty or is_below == self._query.reverse
        else:
            self.arguments["ExclusiveStartKey"] = start

    def _ask_table(self) -> None:
        pack = pack_part if self._index else str
        bounds = self._bounds(index_attributes(self._query.index)[0] if self._index else PK, pack, pack, pack)
        self.arguments["FilterExpression"] = " AND ".join([PRESENT, *bounds])

    def _ask_partition(self, partition: KeyPart) -> None:
        self.arguments["ScanIndexForward"] = not self._query.reverse
        bounds: list[str] = []
        if self._index:
            self._names["#p"], place = index_attributes(self._query.index)
            self._values[":p"] = {"S": pack_part(partition)}
            bounds = self._bounds(place, place_from, place_to, place_prefix)
        else:
            self._names["#p"] = PK
            self._values[":p"] = {"S": str(partition)}
            if self._spec.sort:
                bounds = self._bounds(SK, pack_part, pack_part, pack_part)
        self.arguments["KeyConditionExpression"] = " AND ".join(["#p = :p", *bounds])

    def _bounds(self, name: str, low: Pack, high: Pack, prefix: Pack) -> list[str]:
        """At most one condition, as DynamoDB allows: what it does not say, `covers` looks at."""
        query, values = self._query, self._values
        if not query.prefix and query.low is None and query.high is None:
            return []
        self._names["#r"] = name
        if query.prefix:
            values[":prefix"] = {"S": prefix(query.prefix)}
            return ["begins_with(#r, :prefix)"]
        if query.low is not None:
            values[":low"] = {"S": low(query.low)}
        if query.high is not None:
            values[":high"] = {"S": high(query.high)}
        if query.low is not None and query.high is not None:
            return ["#r BETWEEN :low AND :high"]
        return ["#r <= :high" if query.low is None else "#r >= :low"]

    def covers(self, record: Record) -> bool:
        query = self._query
        if not query.prefix or (query.low is None and query.high is None):
            return True
        part = pack_part(self.place(record)[0 if query.partition is None else 1])
        return (query.low is None or part >= pack_part(query.low)) and (
            query.high is None or part <= pack_part(query.high)
        )

    def place(self, record: Record) -> tuple[KeyPart, ...]:
        """Where the record stands; a page that it ends goes on there."""
        if self._index is None:
            return record.key
        entry = index_entry(self._index, decode_json(record.body))
        return (*(entry or ("", "")), *record.key)

    def _start(self, after: tuple[KeyPart, ...]) -> Item:
        pk, sk = after[-2:]
        start = pack_key(self._spec, (str(pk), sk))
        if self._index:
            partition, place = index_attributes(self._index.name)
            start[partition] = {"S": pack_part(after[0])}
            start[place] = {"S": pack_place(after[1], str(pk), sk)}
        return start


def _index(spec: TableSpec, name: str) -> IndexSpec:
    for index in spec.indexes:
        if index.name == name:
            return index
    raise UnknownResource("the table has no such index", operation="query", resource=f"{spec.name}#{name}")
