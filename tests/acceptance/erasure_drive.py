"""The erasure app driven for real: revocations over REST while the vendor misbehaves and the service is killed.

    python -m tests.acceptance.erasure_drive --customers 1000

At the end each customer is deleted at the vendor exactly once, or a person was told; nobody is forgotten, nobody is
told of twice. A mail may come again only with its Message-ID, when the kill took the mail server's answer. With
`--forgetful` the vendor knows no idempotency keys, and the service is told so. `--random-keys` breaks the service: the
drive must fail.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import msgspec

from tests.acceptance.driven_service import PAUSE_S, until_answered
from tests.acceptance.erasure_stage import Service, VendorProcess, opened
from tests.runtime.mail_server import MailServer, parts

ANSWER_S = 0.5
SETTINGS = {"vendor_timeout": str(ANSWER_S), "poll_every": "1s", "overdue_after": "10s", "digest": "1s"}
FAULTS: tuple[dict[str, Any], ...] = (
    {"kind": "slow", "share": 0.5, "seconds": 0.2},
    {"kind": "rate-limited", "share": 0.2, "seconds": 1},
    {"kind": "unavailable", "share": 0.3},
    {"kind": "unavailable", "share": 0.1, "seconds": 1},
    {"kind": "broken", "share": 0.5},
    {"kind": "lost-answer", "share": 0.5, "seconds": 2 * ANSWER_S},
    {"kind": "repeated"},
    {"kind": "stuck", "share": 0.5, "on": ["start"]},
    {"kind": "renamed-field", "share": 0.5, "on": ["poll", "cancel"]},
    {"kind": "new-word", "share": 0.5, "on": ["poll", "cancel"]},
    {"kind": "html", "share": 0.5},
)
ALERTS = {
    "overdue": r"The deletion of (\S+) is overdue \(operation (\w+)\)",
    "failed": r"The deletion of (\S+) has failed \(operation (\w+)\)",
    "in_doubt": r"Was the deletion of (\S+) started\? \(operation (\w+)\)",
    "deleted": r"(\S+) was deleted, and had granted the consent again \(operation (\w+)\)",
    "cancelled": r"(\S+) is not deleted: the vendor has cancelled \(operation (\w+)\)",
    "contract": r"have changed \(customer (\S+), operation (\w+)\)",
}
BUSY = """
SELECT (SELECT count(*) FROM erasure_deletions WHERE state IN ('requested', 'started', 'pending'))
  + (SELECT count(*) FROM messages WHERE queue LIKE 'erasure/mail-%'
     OR queue IN ('erasure/revoke', 'erasure/regrant', 'erasure/forget', 'erasure/doubt-cancellation',
                  'headwater/outgoing', 'headwater/digest-ends', 'headwater/forgettings'))
"""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """`rate`: revocations a second. `faults`: what the vendor does wrong, one after the other."""

    customers: int
    seed: int = 1
    rate: float = 20.0
    kills: bool = True
    forgetful: bool = False
    random_keys: bool = False
    faults: Sequence[dict[str, Any]] = FAULTS
    patience_s: float = 300.0


class Told(msgspec.Struct, frozen=True):
    """What a mail said of whom."""

    alert: str
    customer: str
    operation: str


class Drive:
    """One drive; `problems` is what did not hold."""

    def __init__(self, options: Options, vendor: VendorProcess, mail: MailServer, service: Service) -> None:
        self.options = options
        self.vendor, self.mail, self.service = vendor, mail, service
        self.random = random.Random(options.seed)
        self.problems: list[str] = []
        self._over = asyncio.Event()
        self._clerk: httpx.AsyncClient
        ids = range(options.customers)
        self.customers = [f"unknown-{n}" if n % 20 == 7 else f"again-{n}" if n % 20 == 13 else f"c{n}" for n in ids]

    async def run(self) -> dict[str, Any]:
        begun = time.monotonic()
        token = await self.service.command("token", "clerk", "--role", "customers.read", "--role", "customers.write")
        async with httpx.AsyncClient(
            base_url=f"{self.service.url}/erasure", headers={"Authorization": f"Bearer {token.strip()}"}, timeout=10
        ) as self._clerk:
            await until_answered(self._clerk, "/customers")
            for id in self.customers:
                await self._write("PUT", id, {"name": f"Name of {id}", "email": f"{id}@people.example"})
            await self._revoke_all()
            await self._until_over()
            facts = await self._check()
        return {**facts, "kills": self.service.kills, "seconds": round(time.monotonic() - begun, 1)}

    async def _revoke_all(self) -> None:
        killing = asyncio.create_task(self._kill_now_and_then()) if self.options.kills else None
        rotating = asyncio.create_task(self._rotate_faults())
        async with asyncio.TaskGroup() as revocations:
            for id in self.customers:
                revocations.create_task(self._revoke(id))
                await asyncio.sleep(self.random.expovariate(self.options.rate))
        self._over.set()
        await asyncio.gather(*(task for task in (killing, rotating) if task is not None))

    async def _revoke(self, id: str) -> None:
        await self._write("PATCH", id, {"consent": "revoked"})
        if id.startswith("again-"):
            await asyncio.sleep(self.random.uniform(0, 3))
            await self._write("PATCH", id, {"consent": "granted"})

    async def _write(self, method: str, id: str, body: dict[str, str]) -> None:
        """Until it is answered; 404 after an unknown outcome or a deletion: the customer is forgotten already."""
        async with asyncio.timeout(self.options.patience_s):
            while True:
                with contextlib.suppress(httpx.TransportError):
                    answer = await self._clerk.request(method, f"/customers/{id}", json=body)
                    if answer.is_success or answer.status_code == 404:
                        return
                    if answer.status_code < 500:
                        raise RuntimeError(f"{method} of {id} answered {answer.status_code}: {answer.text}")
                await asyncio.sleep(PAUSE_S)

    async def _kill_now_and_then(self) -> None:
        while not self._over.is_set():
            await self._wait(self.random.uniform(0.5, 3))
            self.service.kill()
            self.service.start()
            await until_answered(self._clerk, "/customers")

    async def _rotate_faults(self) -> None:
        always = [{"kind": "forgetful"}] if self.options.forgetful else []
        expected_s = self.options.customers / self.options.rate
        shown_s = max(0.3, min(3.0, expected_s / len(self.options.faults)))
        while not self._over.is_set():
            for fault in self.options.faults:
                await self.vendor.misbehave(fault, *always)
                await self._wait(shown_s)
        await self.vendor.misbehave(*always)

    async def _wait(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._over.wait(), seconds)

    async def _until_over(self) -> None:
        async with asyncio.timeout(self.options.patience_s):
            busy = 1
            while busy:
                await asyncio.sleep(0.2)
                ((busy,),) = await self.service.sql(BUSY)

    # What must hold

    async def _check(self) -> dict[str, Any]:
        told = self._told()
        by_customer: dict[str, set[str]] = {}
        for one in told:
            by_customer.setdefault(one.customer, set()).add(one.alert)
        deletions = await self.vendor.deletions()
        rows = await self.service.sql("SELECT id, consent FROM erasure_customers")
        here = {str(id): str(consent) for id, consent in rows}
        for id in self.customers:
            alerts = by_customer.get(id, set())
            for problem in judge(id, deletions.get(id, []), alerts, here.get(id)):
                self.problems.append(f"{id}: {problem} (at the vendor: {deletions.get(id)}, told: {alerts})")
        await self._compare_alerts(told)
        return {
            "customers": len(self.customers),
            "deleted": sum("done" in statuses for statuses in deletions.values()),
            "told": dict(Counter(one.alert for one in told)),
            "mails": len({message["Message-ID"] for _, message in self.mail.mails}),
            "mails again": len(self.mail.mails) - len({message["Message-ID"] for _, message in self.mail.mails}),
            "struck": await self.vendor.struck(),
            "problems": self.problems,
        }

    def _told(self) -> list[Told]:
        """What the mails said, those that came again left out: they have the same Message-ID and the same text."""
        texts: dict[str, str] = {}
        for _, message in self.mail.mails:
            text, _html = parts(message)
            if texts.setdefault(message["Message-ID"], text) != text:
                self.problems.append(f"{message['Message-ID']} came twice, with different texts")
        told = [one for text in texts.values() for one in read_alerts(text)]
        self.problems += [f"a digest is too long: {text[:80]}" for text in texts.values() if "are not listed" in text]
        repeated = [one for one, count in Counter(told).items() if count > 1 and one.alert != "contract"]
        self.problems += [f"told {repeated} twice"] if repeated else []
        return told

    async def _compare_alerts(self, told: Sequence[Told]) -> None:
        """Each that is to be told was told, and nothing else."""
        truth = {
            "overdue": "SELECT id FROM erasure_deletions WHERE overdue_ms > 0",
            "failed": "SELECT id FROM erasure_deletions WHERE state = 'failed'",
        }
        for alert, statement in truth.items():
            wanted = {str(id) for (id,) in await self.service.sql(statement)}
            found = {one.operation for one in told if one.alert == alert}
            if wanted != found:
                self.problems.append(f"{alert}: not told {wanted - found}, told without reason {found - wanted}")
        (changes,) = await self.service.sql(
            "SELECT count(*) FROM events WHERE source = 'erasure/deletions-contracts' AND type = 'inserted'"
        )
        if changes[0] != sum(one.alert == "contract" for one in told):
            self.problems.append(f"{changes[0]} contract changes, {sum(one.alert == 'contract' for one in told)} told")


def judge(id: str, statuses: Sequence[str], alerts: set[str], consent: str | None) -> list[str]:
    """What is wrong with a customer, by the status of each deletion at the vendor, the alerts and the consent here."""
    done, wrong = statuses.count("done"), []
    if len(statuses) > 1:
        wrong.append("started more than once")
    if id.startswith("unknown-"):
        if done or not alerts & {"failed", "in_doubt"}:
            wrong.append("rejected, and nobody was told")
    elif consent == "granted":
        if done and not alerts & {"deleted", "in_doubt"}:
            wrong.append("deleted although the consent was granted again, and nobody was told")
    elif not done and "in_doubt" not in alerts:
        wrong.append("not deleted, and nobody was told")
    elif done and consent is not None and "in_doubt" not in alerts:
        wrong.append("deleted at the vendor, and not here")
    return wrong


def read_alerts(text: str) -> list[Told]:
    """The alerts of a mail, each once: a digest has the last one as its headline, too."""
    found = [Told(alert, *match) for alert, pattern in ALERTS.items() for match in re.findall(pattern, text)]
    return list(dict.fromkeys(found))


async def drive(options: Options, folder: Path) -> dict[str, Any]:
    settings = {**SETTINGS, "vendor_idempotent": str(not options.forgetful)}
    places = opened(folder, work_s=2.0, seed=options.seed, random_keys=options.random_keys, **settings)
    async with places as (vendor, mail, service):
        return await Drive(options, vendor, mail, service).run()


def main() -> int:
    parser = argparse.ArgumentParser(description="Drive the erasure app with real processes, faults and kills.")
    parser.add_argument("--customers", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=20.0, help="revocations a second")
    parser.add_argument("--forgetful", action="store_true")
    parser.add_argument("--random-keys", action="store_true")
    given = parser.parse_args()
    options = Options(
        customers=given.customers,
        seed=given.seed,
        rate=given.rate,
        forgetful=given.forgetful,
        random_keys=given.random_keys,
    )
    with tempfile.TemporaryDirectory(prefix="erasure-") as folder:
        facts = asyncio.run(drive(options, Path(folder)))
    for name, value in facts.items():
        print(f"{name}: {value}")
    return 1 if facts["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
