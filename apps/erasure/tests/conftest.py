"""The running erasure app, with the vendor in the same process, under the virtual clock."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import pytest

from apps.erasure.app import Deletion, app, deletions
from apps.erasure.vendor.faults import Fault, Kind
from apps.erasure.vendor.service import Vendor, make_vendor
from headwater import Tracked
from headwater.testing import Harness

CONTACT = "tech@erasure.example"
TOKEN = "token-of-the-vendor"
SETTINGS: dict[str, Any] = {"vendor_url": "http://vendor", "vendor_token": TOKEN, "technical_contact": CONTACT}
CLERK = {"sub": "clerk", "roles": ["customers.read", "customers.write"]}


async def give_up(seconds: float) -> None:
    """Of a caller who waits for this vendor's answer."""
    raise httpx.ReadTimeout(f"no answer for {seconds:g} s")


class Play:
    """What the tests do: a clerk who changes customers, and a vendor who is told to misbehave."""

    def __init__(self, harness: Harness, vendor: Vendor) -> None:
        self.harness = harness
        self.vendor = vendor

    @property
    def clerk(self) -> httpx.AsyncClient:
        """A new client: its token is valid for an hour."""
        return self.harness.client(app, token=CLERK)

    async def create(self, *ids: str) -> None:
        for id in ids:
            body = {"id": id, "name": f"Name of {id}", "email": f"{id}@people.example"}
            assert (await self.clerk.post("/customers", json=body)).status_code == 201

    async def set_consent(self, consent: str, *ids: str) -> None:
        for id in ids:
            assert (await self.clerk.patch(f"/customers/{id}", json={"consent": consent})).status_code == 200
        await self.harness.run_until_idle()

    async def revoke(self, *ids: str) -> None:
        await self.set_consent("revoked", *ids)

    async def grant(self, *ids: str) -> None:
        await self.set_consent("granted", *ids)

    async def pass_time(self, **duration: float) -> None:
        await self.harness.advance(**duration)

    def misbehave(self, kind: Kind, **options: Any) -> None:
        self.vendor.faults.present = [Fault(kind=kind, **options)]

    def behave(self) -> None:
        self.vendor.faults.present = []

    async def op(self, id: str) -> Tracked[Deletion]:
        found = await deletions.get(id)
        assert found is not None
        return found

    async def state(self, id: str) -> str:
        return (await self.op(id)).state

    async def known(self, id: str) -> bool:
        return (await self.clerk.get(f"/customers/{id}")).status_code == 200

    @property
    def at_vendor(self) -> list[tuple[str, str]]:
        """(customer, status) of each deletion that the vendor has accepted."""
        return [(one.customer, self.vendor.status(one)) for one in self.vendor.deletions.values()]

    @property
    def subjects(self) -> list[str]:
        assert {mail.to for mail in self.harness.mail} <= {CONTACT}
        return [mail.subject for mail in self.harness.mail]

    def mails(self, words: str) -> Sequence[Any]:
        return [mail for mail in self.harness.mail if words in mail.subject]


def make_play_vendor() -> Vendor:
    return Vendor(token=TOKEN, work_s=4 * 3600, sleep=give_up)


@pytest.fixture
def settings() -> dict[str, Any]:
    return SETTINGS


@pytest.fixture
async def play(settings: dict[str, Any]) -> AsyncIterator[Play]:
    vendor = make_play_vendor()
    async with Harness(app, settings={"erasure": settings}, services={"vendor": make_vendor(vendor)}) as harness:
        vendor.now = lambda: harness.clock.wall_ms() / 1000
        yield Play(harness, vendor)
