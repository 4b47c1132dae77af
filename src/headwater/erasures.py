"""Forgetting a person: a row goes, and with it all that the store keeps of its key.

An erasure is a row of `headwater/erasures`. `forget` writes it in the unit's own commit, together with the removal of
the rows and a message to `headwater/forgettings` that carries its id only. The handler of that queue (`system.py`)
calls `erase` until it is done.

States: `redacting` while something is left, messages that are first to be delivered among it; `scrubbing` when the
store knows nothing of the key any more, but its files may still have the bytes; `done`. The row names the key only
while it is `redacting`; afterwards it has a digest. A crash at any point makes the handler begin anew: each slice is a
commit that counts what it has redacted in the row, and finds only what is left.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

import msgspec

from headwater.audit import AUDIT, REDACTED
from headwater.codec import decode_json, encode_json
from headwater.engine import Engine, Forgotten, Query, Record
from headwater.errors import Conflict, InvalidValue, TooLarge, Unsupported
from headwater.events import Key, KeyPart
from headwater.ids import new_id
from headwater.permits import Guarded, guard
from headwater.unit import Merge, Origin, Read, Redaction, Write, new_commit
from headwater.work import UnitOfWork, current

if TYPE_CHECKING:
    from headwater.tables import Table

ERASURES, FORGETTINGS = "headwater/erasures", "headwater/forgettings"
MAILS, FOLDED, SPANS = "headwater/mails", "headwater/folded", "headwater/spans"
PATIENCE_MS = 86_400_000
"""How long messages that tell of a forgotten key may wait for their delivery before they are withdrawn."""
MOST_ROWS = 1_000
SOON_MS, LATEST_MS = 1_000, 600_000
Also: TypeAlias = "Table[Any] | tuple[Table[Any], str] | BySubject"
_KINDS: dict[str, str] = {"event": "events", "dead_letter": "dead_letters", "claim": "claims", "staged": "staged"}


@runtime_checkable
class BySubject(Protocol):
    """What keeps rows by subject, such as a tracked operation."""

    @property
    def of_subject(self) -> Sequence[Table[Any]]: ...


class Target(msgspec.Struct, frozen=True):
    table: str
    key: list[str | int]


class Erasure(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a forgotten key: how much was removed or redacted of each kind.

    `rows` removed; `events` of the history, `dead_letters` redacted; `messages` withdrawn, since they had waited
    for a day or were an ended operation's; `claims`, the stored answers of requests with an idempotency key among
    them; `staged` rows of loads; `mails` whose text was redacted, `spans` of traces that were deleted, `audited`
    operations of the admin API whose parameters were redacted. `waiting` is how many messages are first to be
    delivered. `digest` is that of table and key with `salt` as the key of BLAKE2b.
    """

    id: str
    table: str
    digest: str
    salt: str
    requested_ms: int
    state: Literal["redacting", "scrubbing", "done"] = "redacting"
    finished_ms: int = 0
    rows: int = 0
    events: int = 0
    dead_letters: int = 0
    messages: int = 0
    claims: int = 0
    staged: int = 0
    mails: int = 0
    spans: int = 0
    audited: int = 0
    waiting: int = 0
    tries: int = 0
    until: int = 0
    until_ms: int = 0
    targets: list[Target] = []


class Forgetting(msgspec.Struct, kw_only=True):
    """The message of an erasure."""

    id: str


def digest_of(table: str, key: Key, salt: str) -> str:
    return hashlib.blake2b(encode_json([table, *key]), key=bytes.fromhex(salt), digest_size=16).hexdigest()


async def forget(table: Table[Any], key: Key, also: Sequence[Also]) -> str:
    """Remove the rows and begin the erasure, in the current unit of work or as a commit of its own; its id."""
    engine = table.app.binding.engine
    if not engine.features.erasure:
        raise Unsupported("the store's engine cannot forget a key", operation="forget", resource=table.name)
    outer = current.get()
    unit = outer or UnitOfWork(engine)
    unit.check_open()
    targets = {(table.name, key): None} | dict.fromkeys([found async for found in _found(engine, table, key, also)])
    rows = 0
    for name, of in targets:
        rows += await unit.read(name, of, validate=False) is not None
        unit.write(Write(name, of, unit.next_id(), forgotten=True))
    salt = secrets.token_hex(16)
    erasure = Erasure(
        id=new_id(),
        table=table.name,
        digest=digest_of(table.name, key, salt),
        salt=salt,
        requested_ms=await engine.now_ms(),
        rows=rows,
        targets=[Target(name, list(of)) for name, of in targets],
    )
    unit.write(Write(ERASURES, (erasure.id, ""), unit.next_id(), encode_json(erasure)))
    origin = unit.use(Origin(trace=unit.trace))  # the caller may be who is forgotten
    message = encode_json(Forgetting(id=erasure.id))
    unit.send(FORGETTINGS, message, group=None, dedup="", delay_ms=None, unordered=False)
    unit.use(origin)
    if outer is None:
        await unit.commit()
    return erasure.id


async def _found(engine: Engine, table: Table[Any], key: Key, also: Sequence[Also]) -> AsyncIterator[tuple[str, Key]]:
    """The rows of other tables that are to be forgotten with a key."""
    for entry in also:
        if isinstance(forgotten := entry[0] if isinstance(entry, tuple) else entry, Guarded):
            guard(forgotten, "forget")
        if isinstance(entry, BySubject):
            places = [(other, "") for other in entry.of_subject]
        else:
            places = [entry if isinstance(entry, tuple) else (entry, "")]
        for other, index in places:
            if not index and (other.spec.sort == "" or key[1] != ""):
                yield other.name, other.key(*(part for part in key if part != ""))
                continue
            for found in await _partition(engine, other, index, key[0]):
                yield other.name, found


async def _partition(engine: Engine, table: Table[Any], index: str, partition: KeyPart) -> list[Key]:
    if index and index not in {declared.name for declared in table.spec.indexes}:
        raise InvalidValue(f"no index {index!r} is declared", operation="forget", resource=table.name)
    page = await engine.query(Query(table=table.name, index=index, partition=partition, limit=MOST_ROWS + 1))
    if len(page.records) > MOST_ROWS:
        raise TooLarge(
            f"more than {MOST_ROWS} rows have the key",
            operation="forget",
            resource=f"{table.name} {index}".rstrip(),
            hint="delete most of them first, and forget their keys one by one",
        )
    return [record.key for record in page.records]


async def erasures(engine: Engine, table: str = "", limit: int = 20) -> list[Erasure]:
    """The erasures of a table, or of all, newest first."""
    query = Query(table=ERASURES, limit=limit, reverse=True)
    if table:
        query = Query(table=ERASURES, index="by-table", partition=table, limit=limit, reverse=True)
    page = await engine.query(query)
    return [msgspec.json.decode(record.body, type=Erasure) for record in page.records]


async def erasure_of(engine: Engine, id: str) -> Erasure | None:
    record = await engine.read(ERASURES, (id, ""))
    return None if record is None else msgspec.json.decode(record.body, type=Erasure)


async def erase(engine: Engine, message: str, id: str) -> int | None:
    """Bring an erasure as far as it gets now; in how many milliseconds to go on, None when it is done.

    `message` is the event that asks for it: what happened before that one is what is forgotten.
    """
    erasure = await erasure_of(engine, id)
    if erasure is None or erasure.state == "done":
        return None
    if erasure.state == "redacting":
        erasure = await _bounded(engine, erasure, message)
        waiting = await _redact(engine, erasure)
        operations = await _operations(engine, erasure, waiting)
        withdrawn = [place for place in waiting if operations.get(place[0], False)]
        if await engine.now_ms() - erasure.requested_ms >= PATIENCE_MS:
            withdrawn += [place for place in waiting if place[1] and place[0] not in operations]
        if withdrawn:
            await _change(engine, id, {}, messages=await engine.withdraw(withdrawn))
            waiting = await _redact(engine, erasure)
        if waiting:
            return await _later(engine, erasure, len(waiting))
        await _change(engine, id, {"state": "scrubbing", "targets": [], "waiting": 0})
    if not await engine.scrub():
        return await _later(engine, erasure, 0)
    await _change(engine, id, {"state": "done", "finished_ms": await engine.now_ms()})
    return None


async def _operations(engine: Engine, erasure: Erasure, waiting: Sequence[tuple[str, int]]) -> dict[str, bool]:
    """The queues of tracked operations among those where messages wait, and whether the key's operation has ended.

    If so, its next call and its deadline may be days away, and have no effect then. If not, they are all that keeps it
    going.
    """
    tables = (await engine.catalog()).tables
    subjects = {str(target.key[0]) for target in erasure.targets}
    found = {}
    for queue in {queue for queue, _ in waiting}:
        opened = re.sub("-(calls|deadlines)$", "-open", queue)
        if opened != queue and opened in tables:
            rows = [await engine.read(opened, (subject, "")) for subject in subjects]
            found[queue] = not any(rows)
    return found


async def _bounded(engine: Engine, erasure: Erasure, message: str) -> Erasure:
    """Fix up to which event the key is forgotten: it may be used again, and what happens then stays."""
    if erasure.until:
        return erasure
    found = await engine.event(message)
    if found is None:
        raise InvalidValue("its message is not in the history", operation="forget", resource=erasure.id)
    bound = {"until": found.position, "until_ms": found.event.time_ms}
    await _change(engine, erasure.id, bound)
    return msgspec.structs.replace(erasure, **bound)


async def _redact(engine: Engine, erasure: Erasure) -> list[tuple[str, int]]:
    """Look until a look finds nothing more to redact; the messages that still wait."""
    while True:
        waiting: list[tuple[str, int]] = []
        redacted = 0
        for target in erasure.targets:
            forgotten = _forgotten(erasure, target)
            traces = await engine.traces(forgotten)
            waiting += await _redact_mails(engine, erasure, forgotten.names, traces)
            await _delete_spans(engine, erasure, forgotten.names, traces)
            await _redact_audit(engine, erasure, forgotten.names)
            async with contextlib.aclosing(engine.remains(forgotten, traces)) as slices:
                async for slice in slices:
                    waiting += slice.waiting
                    redacted += len(slice.redactions)
                    await _commit(engine, erasure.id, slice.redactions)
        if not redacted:
            return waiting


def _forgotten(erasure: Erasure, target: Target) -> Forgotten:
    keys: list[Key] = [(str(of.key[0]), of.key[1]) for of in (erasure.targets[0], target)]
    return Forgotten(
        table=target.table,
        key=keys[1],
        names=tuple(dict.fromkeys(keys)),
        until=erasure.until,
        until_ms=erasure.until_ms,
        mark=erasure.id,
    )


async def _redact_mails(
    engine: Engine, erasure: Erasure, names: Sequence[Key], traces: set[str]
) -> list[tuple[str, int]]:
    """Take the text out of mails about these traces that name a key; those that are yet to be sent wait."""
    waiting: list[tuple[str, int]] = []
    async for record in _rows(engine, Query(table=MAILS)):
        mail = decode_json(record.body)
        if traces.isdisjoint(mail["traces"]) or not _is_named(f"{mail['subject']} {mail['text']}", names):
            continue
        if mail["state"] == "pending":
            waiting.append((MAILS, 0))
            continue
        body = encode_json({**mail, "subject": REDACTED, "text": REDACTED, "html": REDACTED, "answer": ""})
        await _write(engine, erasure, "mails", record, body)
    async for record in _rows(engine, Query(table=FOLDED)):
        if _is_named(record.body.decode(), names):
            waiting.append((FOLDED, 0))
    return waiting


async def _delete_spans(engine: Engine, erasure: Erasure, names: Sequence[Key], traces: set[str]) -> None:
    """The errors in spans may quote a key."""
    for trace in traces:
        async for record in _rows(engine, Query(table=SPANS, partition=trace)):
            if _is_named(record.body.decode(), names):
                await _write(engine, erasure, "spans", record, None)


async def _redact_audit(engine: Engine, erasure: Erasure, names: Sequence[Key]) -> None:
    """Operations may name a key in their parameters, the one that asks to forget it among them."""
    async for record in _rows(engine, Query(table=AUDIT)):
        row = decode_json(record.body)
        if row["at_ms"] <= erasure.until_ms and _is_named(" ".join(_texts((row["parameters"], row["result"]))), names):
            redacted = {**row, "parameters": {"all": REDACTED}, "result": {}, "error": ""}
            await _write(engine, erasure, "audited", record, encode_json(redacted))


def _texts(value: Any) -> Iterator[str]:
    """What may be a part of a key: not a limit, or a condition."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)
        if isinstance(value, list):
            yield from (str(item) for item in value if isinstance(item, int))


async def _rows(engine: Engine, query: Query) -> AsyncIterator[Record]:
    if query.table not in (await engine.catalog()).tables:
        return
    after: tuple[KeyPart, ...] | None = ()
    while after is not None:
        page = await engine.query(msgspec.structs.replace(query, after=after or None))
        for record in page.records:
            yield record
        after = page.next


def _is_named(text: str, names: Sequence[Key]) -> bool:
    """Whether all parts of one of the keys stand in a text, each on its own."""
    return any(
        all(re.search(rf"(?<![\w-]){re.escape(str(part))}(?![\w-])", text) for part in key if part != "")
        for key in names
    )


async def _write(engine: Engine, erasure: Erasure, kind: str, record: Record, body: bytes | None) -> None:
    """Redact a row of the server's own; when somebody writes it meanwhile, the next look finds it again."""
    table = {"mails": MAILS, "spans": SPANS, "audited": AUDIT}[kind]
    commit = new_commit()
    commit.reads = [Read(table, record.key, record.version)]
    commit.writes = [
        Write(table, record.key, f"{commit.id}-0", body),
        Write(ERASURES, (erasure.id, ""), f"{commit.id}-1", merges=(Merge(add={kind: 1}),), blind=True),
    ]
    with contextlib.suppress(Conflict):
        await engine.commit(commit)


async def _commit(engine: Engine, id: str, redactions: list[Redaction]) -> None:
    if not redactions:
        return
    counts: dict[str, int | float] = {}
    for redaction in redactions:
        if kind := _KINDS.get(redaction.kind):
            counts[kind] = counts.get(kind, 0) + 1
    commit = new_commit()
    commit.redactions = redactions
    commit.writes = [Write(ERASURES, (id, ""), f"{commit.id}-0", merges=(Merge(add=counts),), blind=True)]
    await engine.commit(commit)


async def _change(engine: Engine, id: str, fields: dict[str, Any], **counts: int) -> None:
    commit = new_commit()
    merge = Merge(set=fields, add=dict(counts))
    commit.writes = [Write(ERASURES, (id, ""), f"{commit.id}-0", merges=(merge,), blind=True)]
    await engine.commit(commit)


async def _later(engine: Engine, erasure: Erasure, waiting: int) -> int:
    await _change(engine, erasure.id, {"waiting": waiting}, tries=1)
    return int(min(SOON_MS * 2 ** min(erasure.tries, 10), LATEST_MS))
