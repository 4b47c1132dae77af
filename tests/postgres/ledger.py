"""The application of the stress test, and one of its processes: `python -m tests.postgres.ledger URL SEED`.

Transfers move an amount between two accounts that they read first; steps of a group append to the group's list, in
order. Both count themselves. A process sends and handles both, until it reads a line; from then on it only handles.
It says the id of each transfer of which it knows that it was sent.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from contextlib import suppress
from typing import Any

import pytest

from headwater.catalog import Catalog, QueueSpec, TableSpec
from headwater.codec import decode_json
from headwater.engine import Query
from headwater.engines.postgres.engine import PostgresEngine
from headwater.errors import CommitUnknown, Conflict, HeadwaterError, LeaseLost, Unavailable
from headwater.events import Delivery
from headwater.ids import new_id
from headwater.unit import Commit, Merge, Read, new_commit
from tests.conformance import workbench
from tests.conformance.workbench import data, emit, settle, write
from tests.postgres.shop import hurry, opened

ACCOUNTS, COUNTS, GROUPS = "bank/accounts", "bank/counts", "bank/groups"
TRANSFERS, STEPS = "bank/transfers", "bank/steps"
VISIBILITY_MS = 1_500
NAMES = [f"account-{n}" for n in range(6)]
CHAINS = [f"group-{n}" for n in range(3)]
BALANCE = 1_000
RERUNS = 5


def catalog() -> Catalog:
    tables = [TableSpec(name=name, partition="name") for name in (ACCOUNTS, COUNTS, GROUPS)]
    queues = [QueueSpec(name=name, visibility_ms=VISIBILITY_MS, fifo=name == STEPS) for name in (TRANSFERS, STEPS)]
    return workbench.catalog(*tables, *queues, app="bank")


async def found_bank(engine: PostgresEngine) -> None:
    await engine.install(catalog())
    made = new_commit()
    for name in NAMES:
        write(made, ACCOUNTS, name, {"name": name, "balance": BALANCE})
    for name in CHAINS:
        write(made, GROUPS, name, {"name": name, "next": 0})
    await engine.commit(made)


class Process:
    def __init__(self, engine: PostgresEngine, seed: str) -> None:
        self.engine = engine
        self.random = random.Random(seed)
        self.sending = True

    async def run(self) -> None:
        work = [self._send_transfers, self._send_steps, self._handle_transfers, self._handle_steps]
        tasks = [asyncio.create_task(one()) for one in work for _ in range(2)]
        await asyncio.to_thread(sys.stdin.readline)
        self.sending = False
        await asyncio.to_thread(sys.stdin.readline)
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome

    async def _send_transfers(self) -> None:
        while self.sending:
            id = new_id()
            giver, taker = self.random.sample(NAMES, 2)
            order = {"id": id, "from": giver, "to": taker, "amount": self.random.randrange(1, 50)}
            made = new_commit()
            emit(made, TRANSFERS, order, queue=TRANSFERS)
            with suppress(CommitUnknown, Unavailable):
                await self.engine.commit(made)
                os.write(1, f"{id}\n".encode())
            await asyncio.sleep(0.005)

    async def _send_steps(self) -> None:
        while self.sending:
            group = self.random.choice(CHAINS)
            made = new_commit()
            with suppress(Conflict, CommitUnknown, Unavailable):
                chain = await self._read(made, GROUPS, group)
                write(made, GROUPS, group, {**chain, "next": chain["next"] + 1})
                emit(made, STEPS, {"group": group, "n": chain["next"]}, queue=STEPS, group=group)
                await self.engine.commit(made)
            await asyncio.sleep(0.005)

    async def _read(self, made: Commit, table: str, name: str) -> dict[str, Any]:
        record = await self.engine.read(table, (name, ""))
        assert record is not None
        made.reads.append(Read(table, (name, ""), record.version))
        found: dict[str, Any] = decode_json(record.body)
        return found

    async def _handle_transfers(self) -> None:
        while True:
            with suppress(Unavailable):
                for delivery in await self.engine.receive(TRANSFERS, self.random.randrange(1, 6)):
                    await self._attempt(delivery)

    async def _handle_steps(self) -> None:
        while True:
            with suppress(Unavailable):
                deliveries = await self.engine.receive(STEPS, self.random.randrange(1, 4), grouped=True)
                while deliveries and await self._attempt(deliveries[0]):
                    del deliveries[0]
                await self.engine.release(deliveries[1:])

    async def _attempt(self, delivery: Delivery) -> bool:
        """Handle it, again at a conflict; now and then it fails, or takes longer than its lease.

        False: it is not known to be done, and what follows it in its group must wait.
        """
        if self.random.random() < 0.002:
            await asyncio.sleep(VISIBILITY_MS / 1000 * 1.5)
        with suppress(LeaseLost, CommitUnknown, Unavailable):
            for _ in range(RERUNS):
                with suppress(Conflict):
                    return await self._handle(delivery)
            await self._retry(delivery)
        return False

    async def _handle(self, delivery: Delivery) -> bool:
        if self.random.random() < 0.02:
            await self._retry(delivery)
            return False
        made, order = new_commit(), data(delivery)
        if delivery.queue == TRANSFERS:
            for name, sign in ((order["from"], -1), (order["to"], 1)):
                account = await self._read(made, ACCOUNTS, name)
                write(made, ACCOUNTS, name, {**account, "balance": account["balance"] + sign * order["amount"]})
            write(made, COUNTS, order["id"], None, Merge(add={"n": 1}), blind=True)
        else:
            name = f"{order['group']}-done"
            write(made, GROUPS, name, None, Merge(append={"done": [order["n"]]}), blind=True)
        made.settles.append(settle(delivery))
        await self.engine.commit(made)
        return True

    async def _retry(self, delivery: Delivery) -> None:
        made = new_commit()
        made.settles.append(settle(delivery, outcome="retry", ready_ms=await self.engine.now_ms() + 20))
        await self.engine.commit(made)


async def faults(engine: PostgresEngine, sent: set[str]) -> list[str]:
    """What is not as it must be once all is handled; `sent`: the transfers that were acknowledged to their senders."""
    found = []
    accounts = [decode_json(record.body) for record in await _all(engine, ACCOUNTS)]
    if (total := sum(account["balance"] for account in accounts)) != BALANCE * len(NAMES):
        found.append(f"the balances are {total} instead of {BALANCE * len(NAMES)}")
    counts = {record.key[0]: decode_json(record.body)["n"] for record in await _all(engine, COUNTS)}
    found += [f"transfer {id} took effect {n} times" for id, n in counts.items() if n != 1]
    found += [f"transfer {id} was acknowledged and lost" for id in sent - counts.keys()]
    groups = {record.key[0]: decode_json(record.body) for record in await _all(engine, GROUPS)}
    for name in CHAINS:
        done = groups.get(f"{name}-done", {}).get("done", [])
        if done != list(range(groups[name]["next"])):
            found.append(f"{name} has {groups[name]['next']} steps; done: {done}")
    return found + await engine.check()


async def _all(engine: PostgresEngine, table: str) -> list[Any]:
    records, after = [], None
    while True:
        page = await engine.query(Query(table=table, after=after, limit=1_000))
        records += page.records
        if page.next is None:
            return records
        after = page.next


async def main(url: str, seed: str) -> None:
    while True:
        with suppress(Unavailable):
            async with opened(url) as engine:
                await Process(engine, seed).run()
            return


if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as patch:
        hurry(patch)
        try:
            asyncio.run(main(*sys.argv[1:3]))
        except HeadwaterError as error:
            sys.exit(f"the process ended: {error!r}")
