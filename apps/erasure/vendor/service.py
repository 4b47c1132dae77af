"""The vendor's HTTP API.

| Call | Answer |
| --- | --- |
| `POST /deletions` `{"customer": …}`, `Idempotency-Key` | 202 `{"id", "customer", "status"}`; 200 for a known key |
| `GET /deletions/{id}` | 200 with the status: pending, running, done or rejected; 404 |
| `DELETE /deletions/{id}` | 200 with the status cancelled while it is pending; 409 once it runs |
| `GET /deletions` | all of them, for whoever wants to check |
| `GET`, `PUT /faults` | how it misbehaves (see `faults`) |

A deletion is pending for half of `work_s` seconds, then runs, then is done. Customers whose name begins with
"unknown" are rejected. `PUT /faults` and the list of all are for trying things out and have no token.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Response
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel

from apps.erasure.vendor.faults import Call, Fault, Faults, Kind

SORRY = "<!doctype html><title>Sorry</title><h1>We are improving our service for you</h1>"


class Wanted(BaseModel):
    customer: str


class Deletion:
    def __init__(self, id: str, customer: str, accepted_s: float, *, stuck: bool) -> None:
        self.id = id
        self.customer = customer
        self.accepted_s = accepted_s
        self.stuck = stuck
        self.cancelled = False


class Vendor:
    """What the vendor remembers. `work_s` is how long a deletion takes; `now` gives seconds, `sleep` lets them pass."""

    def __init__(
        self,
        *,
        token: str,
        work_s: float,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        seed: int = 0,
    ) -> None:
        self.token = token
        self.work_s = work_s
        self.now = now
        self.sleep = sleep
        self.faults = Faults(seed)
        self.deletions: dict[str, Deletion] = {}
        self.by_key: dict[str, str] = {}
        self.calls: dict[Call, int] = {"start": 0, "poll": 0, "cancel": 0}

    def accept(self, customer: str, key: str, *, stuck: bool) -> tuple[Deletion, bool]:
        """The deletion of this idempotency key, and whether it is new; without a key each request makes another."""
        if key and (known := self.by_key.get(key)):
            return self.deletions[known], False
        deletion = Deletion(f"del-{len(self.deletions) + 1:06}", customer, self.now(), stuck=stuck)
        self.deletions[deletion.id] = deletion
        if key:
            self.by_key[key] = deletion.id
        return deletion, True

    def status(self, deletion: Deletion) -> str:
        if deletion.cancelled:
            return "cancelled"
        if deletion.customer.startswith("unknown"):
            return "rejected"
        if deletion.stuck and any(fault.kind is Kind.STUCK for fault in self.faults.present):
            return "pending"
        age_s = self.now() - deletion.accepted_s
        return "pending" if age_s < self.work_s / 2 else "running" if age_s < self.work_s else "done"

    def told(self, deletion: Deletion) -> dict[str, str]:
        return {"id": deletion.id, "customer": deletion.customer, "status": self.status(deletion)}

    def check_token(self, authorization: Annotated[str, Header()] = "") -> None:
        if not secrets.compare_digest(authorization.encode(), f"Bearer {self.token}".encode()):
            raise HTTPException(401, "the token is wrong")


def make_vendor(vendor: Vendor) -> FastAPI:
    """The service, over what the vendor remembers."""
    service = FastAPI(title="Vendor", docs_url=None, redoc_url=None)
    service.include_router(_deletions(vendor), dependencies=[Depends(vendor.check_token)])
    service.include_router(_controls(vendor))
    return service


def _deletions(vendor: Vendor) -> APIRouter:
    router = APIRouter()

    @router.post("/deletions", status_code=202)
    async def start(wanted: Wanted, response: Response, idempotency_key: Annotated[str, Header()] = "") -> Any:
        struck = _struck(vendor, "start")
        if refused := await _refused(vendor, struck):
            return refused
        key = "" if Kind.FORGETFUL in struck else idempotency_key
        deletion, new = vendor.accept(wanted.customer, key, stuck=Kind.STUCK in struck)
        if not new and Kind.REPEATED in struck:
            return JSONResponse(vendor.told(deletion), 409)
        response.status_code = 202 if new else 200
        return await _answered(vendor, deletion, struck)

    @router.get("/deletions/{id}")
    async def poll(id: str) -> Any:
        struck = _struck(vendor, "poll")
        if refused := await _refused(vendor, struck):
            return refused
        return await _answered(vendor, _known(vendor, id), struck)

    @router.delete("/deletions/{id}")
    async def cancel(id: str) -> Any:
        struck = _struck(vendor, "cancel")
        if refused := await _refused(vendor, struck):
            return refused
        deletion = _known(vendor, id)
        if vendor.status(deletion) not in ("pending", "cancelled"):
            return JSONResponse(vendor.told(deletion), 409)
        deletion.cancelled = True
        return await _answered(vendor, deletion, struck)

    return router


def _controls(vendor: Vendor) -> APIRouter:
    router = APIRouter()

    @router.get("/deletions")
    async def everything() -> dict[str, Any]:
        return {
            "deletions": [vendor.told(deletion) for deletion in vendor.deletions.values()],
            "calls": vendor.calls,
            "struck": vendor.faults.struck,
        }

    @router.get("/faults")
    async def faults() -> list[Fault]:
        return vendor.faults.present

    @router.put("/faults")
    async def misbehave(faults: list[Fault]) -> list[Fault]:
        vendor.faults.present = faults
        return faults

    return router


def _known(vendor: Vendor, id: str) -> Deletion:
    if id not in vendor.deletions:
        raise HTTPException(404, "there is no such deletion")
    return vendor.deletions[id]


def _struck(vendor: Vendor, call: Call) -> dict[Kind, Fault]:
    vendor.calls[call] += 1
    return vendor.faults.strike(call)


async def _refused(vendor: Vendor, struck: dict[Kind, Fault]) -> Response | None:
    """The answer of a fault that keeps the vendor from doing anything."""
    if slow := struck.get(Kind.SLOW):
        await vendor.sleep(slow.seconds)
    if limited := struck.get(Kind.RATE_LIMITED):
        return JSONResponse({"detail": "too many requests"}, 429, {"Retry-After": f"{limited.seconds:.0f}"})
    if unavailable := struck.get(Kind.UNAVAILABLE):
        headers = {"Retry-After": f"{unavailable.seconds:.0f}"} if unavailable.seconds else {}
        return JSONResponse({"detail": "maintenance"}, 503, headers)
    if Kind.BROKEN in struck:
        return Response("Traceback (most recent call last): …", 500, media_type="text/plain")
    return None


async def _answered(vendor: Vendor, deletion: Deletion, struck: dict[Kind, Fault]) -> Any:
    """The answer, as the faults leave it."""
    told = vendor.told(deletion)
    if lost := struck.get(Kind.LOST_ANSWER):
        await vendor.sleep(lost.seconds)
    if Kind.HTML in struck:
        return HTMLResponse(SORRY)
    if Kind.RENAMED_FIELD in struck:
        told["state"] = told.pop("status")
    if Kind.NEW_WORD in struck:
        told["status"] = "quarantined"
    return told
