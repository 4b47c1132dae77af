"""The erasure app's part of the tour: consents taken back and given again, a vendor who deletes and changes answers.

The vendor is a process of its own (`apps.erasure.vendor`).
"""

import asyncio
import contextlib
import os
import secrets
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx

from apps.play import PAUSE_S, Admin, Command, Play, Step, check

ROOT = Path(__file__).parents[2]
WORK_S = 1.0
NAME = "Ann Quibbleworth"
PAGES = ["/erasure/docs"]


@contextlib.asynccontextmanager
async def partner() -> AsyncIterator[dict[str, str]]:
    """The vendor while the tour lasts; the settings by which the app finds it."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    url, token = f"http://127.0.0.1:{port}", secrets.token_urlsafe()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "apps.erasure.vendor", "--port", f"{port}", "--token", token, "--work", f"{WORK_S}"),
        cwd=ROOT,
    )
    try:
        async with asyncio.timeout(60):
            await until_answered(f"{url}/faults")
        yield {
            "ERASURE_VENDOR_URL": url,
            "ERASURE_VENDOR_TOKEN": token,
            "ERASURE_TECHNICAL_CONTACT": "tech@erasure.example",
        }
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def until_answered(url: str) -> None:
    async with httpx.AsyncClient() as client:
        while True:
            with contextlib.suppress(httpx.TransportError):
                await client.get(url)
                return
            await asyncio.sleep(PAUSE_S)


def steps(http: httpx.AsyncClient, admin: Admin, command: Command) -> list[Step]:
    play = ErasureTour(http, admin, command)
    return [
        play.a_revoked_consent_starts_a_deletion_at_the_vendor,
        play.polled_by_hand_it_completes,
        play.the_customer_is_forgotten,
        play.a_consent_granted_again_in_time_cancels,
        play.changed_answers_of_the_vendor_are_mailed,
    ]


class ErasureTour(Play):
    def __init__(self, http: httpx.AsyncClient, admin: Admin, command: Command) -> None:
        super().__init__(http, admin, command)
        self._headers: dict[str, str] = {}

    async def a_revoked_consent_starts_a_deletion_at_the_vendor(self) -> Sequence[str]:
        roles = ("--role", "customers.read", "--role", "customers.write")
        self._headers = {"Authorization": f"Bearer {(await self._command('token', 'clerk', *roles)).strip()}"}
        await self._create("17", NAME)
        await self._set_consent("17", "revoked")
        op = await self._until("17", "started")
        return [
            'PATCH /erasure/customers/17 {"consent": "revoked"}',
            f"headwater op show erasure/deletions 17: started, the vendor calls it {op['external_id']}",
        ]

    async def polled_by_hand_it_completes(self) -> Sequence[str]:
        await self._command("publish", "erasure/poll-now", "{}")
        await self._until("17", "pending", "completed")
        op = await self._until("17", "completed", poll=True)
        return ["headwater publish erasure/poll-now '{}'", f"completed after {op['polls']} polls"]

    async def the_customer_is_forgotten(self) -> Sequence[str]:
        while True:
            erasures = (await self._admin("erasures"))["erasures"]
            if erasures and erasures[0]["state"] == "done":
                break
            await asyncio.sleep(PAUSE_S)
        answer = await self._http.get("/erasure/customers/17", headers=self._headers)
        check(answer.status_code == 404, f"the customer is answered with {answer.status_code}")
        history = "SELECT count(*) FROM events WHERE data || coalesce(old, '') LIKE '%Quibbleworth%'"
        ((count,),) = (await self._admin("sql", statement=history))["rows"]
        check(count == 0, f"{count} events have the name")
        proof = "SELECT subject, state, external_id FROM erasure_deletions"
        printed = await self._command("sql", proof)
        return [
            "GET /erasure/customers/17: 404",
            f'headwater sql "{history}": 0',
            f'headwater sql "{proof}"',
            *(f"  {line.rstrip()}" for line in printed.splitlines()),
        ]

    async def a_consent_granted_again_in_time_cancels(self) -> Sequence[str]:
        await self._misbehave({"kind": "stuck"})
        await self._create("18", "Ben Quibbleworth")
        await self._set_consent("18", "revoked")
        await self._until("18", "started")
        await self._set_consent("18", "granted")
        await self._until("18", "cancelled")
        found = await self._http.get("/erasure/customers/18", headers=self._headers)
        check(found.json()["consent"] == "granted", f"the customer is {found.text}")
        return ["revoked and granted again: headwater op ls erasure/deletions --state cancelled: 18"]

    async def changed_answers_of_the_vendor_are_mailed(self) -> Sequence[str]:
        await self._misbehave({"kind": "renamed-field"})
        await self._create("19", "Cleo Quibbleworth")
        await self._set_consent("19", "revoked")
        await self._until("19", "started")
        changed = await self._until_mailed("have changed (customer 19", poll=True)
        await self._misbehave()
        await self._until("19", "completed", poll=True)
        restored = await self._until_mailed("are right again")
        return ["headwater mail ls", *(f"  {mail['to']}  {mail['subject'][:90]}" for mail in (changed, restored))]

    async def _create(self, id: str, name: str) -> None:
        body = {"name": name, "email": f"customer-{id}@people.example"}
        answer = await self._http.put(f"/erasure/customers/{id}", json=body, headers=self._headers)
        check(answer.status_code == 201, f"PUT answered {answer.status_code}: {answer.text}")

    async def _set_consent(self, id: str, consent: str) -> None:
        body = {"consent": consent}
        answer = await self._http.patch(f"/erasure/customers/{id}", json=body, headers=self._headers)
        check(answer.status_code == 200, f"PATCH answered {answer.status_code}: {answer.text}")

    async def _misbehave(self, *faults: dict[str, Any]) -> None:
        async with httpx.AsyncClient(base_url=os.environ["ERASURE_VENDOR_URL"]) as vendor:
            (await vendor.put("/faults", json=list(faults))).raise_for_status()

    async def _poll(self) -> None:
        await self._admin("publish", topic="erasure/poll-now", data={})

    async def _until(self, id: str, *states: str, poll: bool = False) -> dict[str, Any]:
        """Look again and again at the customer's operation; the step's time-out ends it."""
        while True:
            found = (await self._admin("op-list", kind="erasure/deletions", state=states[0]))["operations"]
            for state in states[1:]:
                found += (await self._admin("op-list", kind="erasure/deletions", state=state))["operations"]
            for op in found:
                if op["subject"] == id:
                    return dict(op)
            if poll:
                await self._poll()
            await asyncio.sleep(PAUSE_S)

    async def _until_mailed(self, words: str, *, poll: bool = False) -> dict[str, Any]:
        while True:
            for mail in (await self._admin("mails"))["mails"]:
                if words in mail["subject"]:
                    return dict(mail)
            if poll:
                await self._poll()
            await asyncio.sleep(PAUSE_S)
