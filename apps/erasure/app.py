"""Customers who take their consent back are deleted at a vendor, in the vendor's own time, and then forgotten here.

What counts is always the consent as it is now. A flip asks for a deletion, or calls it off; when the vendor has
deleted, the consent of that moment decides whether the customer goes here, too. So there may be flips in any number, at
any time.
"""

from typing import Annotated, Literal

import httpx
from pydantic import BaseModel, Field, SecretStr
from pydantic_settings import BaseSettings

from headwater import App, Event, Modified, Tracked, email, require


class Settings(BaseSettings):
    vendor_url: str
    vendor_token: SecretStr
    vendor_timeout: Annotated[float, Field(gt=0, le=60)] = 10.0
    vendor_idempotent: bool = True
    technical_contact: Annotated[str, Field(min_length=3)]
    poll_every: str = "1h"
    overdue_after: str = "3d"
    digest: str = "15m"


class Customer(BaseModel):
    """The id outlives the customer, as proof of the deletion: it must not be personal, as an e-mail address is."""

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    name: str
    email: str | None = None
    consent: Literal["granted", "revoked"] = "granted"


class Deletion(BaseModel):
    customer: str


class Answer(BaseModel):
    status: Literal["pending", "running", "done", "rejected", "cancelled"]


class Mismatch(BaseModel):
    """What the vendor has done is not what the consent says."""

    customer: str
    operation: str
    vendor_id: str
    problem: str


app = App("erasure", settings=Settings)
customers = app.table("customers", Customer, key="id", indexes={"by-consent": ("consent", "id")})
app.expose(
    customers,
    "/customers",
    methods=["GET", "POST", "PUT", "PATCH"],
    read=require("customers.read"),
    write=require("customers.write"),
)

# The vendor

vendor = app.service("vendor", base_url=app.late(lambda settings: settings.vendor_url))
deletions = app.operation(
    "deletions",
    Deletion,
    Answer,
    service=vendor,
    every="1d",  # in case that nobody publishes to `poll_now`
    overdue=app.late(lambda settings: settings.overdue_after),
    idempotent=app.late(lambda settings: settings.vendor_idempotent),
)


@deletions.on_start
async def start(op: Tracked[Deletion]) -> httpx.Response:
    answer = await ask("POST", "/deletions", op.request.model_dump(), {"Idempotency-Key": op.idempotency_key})
    if answer.status_code == httpx.codes.CONFLICT:  # started before; the vendor names the deletion that there is
        return await ask("GET", f"/deletions/{answer.json()['id']}")
    return answer


@deletions.on_poll
async def poll(op: Tracked[Deletion]) -> httpx.Response:
    return await ask("GET", f"/deletions/{op.external_id}")


@deletions.on_cancel
async def stop(op: Tracked[Deletion]) -> httpx.Response:
    return await ask("DELETE", f"/deletions/{op.external_id}")


@deletions.on_answer
def judge(answer: Answer) -> Literal["pending", "completed", "failed", "cancelled"]:
    match answer.status:
        case "pending" | "running":
            return "pending"
        case "done":
            return "completed"
        case "rejected":
            return "failed"
        case "cancelled":
            return "cancelled"


async def ask(method: str, path: str, body: object = None, headers: dict[str, str] | None = None) -> httpx.Response:
    credentials = {"Authorization": f"Bearer {app.settings.vendor_token.get_secret_value()}"}
    return await vendor.client.request(
        method, path, json=body, headers=credentials | (headers or {}), timeout=app.settings.vendor_timeout
    )


# Consent


@app.on(customers.modified, old={"consent": ["granted"]}, new={"consent": ["revoked"]})
async def revoke(change: Modified[Customer]) -> None:
    await follow_consent(change.new.id)


@app.on(customers.modified, old={"consent": ["revoked"]}, new={"consent": ["granted"]})
async def regrant(change: Modified[Customer]) -> None:
    await follow_consent(change.new.id)


async def follow_consent(id: str) -> None:
    """Not what the flip says: one flip may overtake the next."""
    customer = await customers.get(id)
    if customer is None:
        return
    if customer.consent == "revoked":
        await deletions.request(id, Deletion(customer=id))
    else:
        await deletions.cancel(id)


@app.on(deletions.completed)
async def forget(event: Event[Tracked[Deletion]]) -> None:
    customer = await customers.get(event.data.subject)
    if customer is not None and customer.consent == "granted":
        await tell(event.data, "was deleted, and had granted the consent again")
    else:
        await customers.forget(event.data.subject)


@app.on(deletions.cancelled, match={"cancel_requested_ms": [0]})
async def doubt_cancellation(event: Event[Tracked[Deletion]]) -> None:
    """The vendor has stopped it of its own accord, and it was not started anew."""
    customer, op = await customers.get(event.data.subject), await deletions.get(event.data.subject)
    if customer is not None and customer.consent == "revoked" and op is not None and not op.open:
        await tell(event.data, "is not deleted: the vendor has cancelled")


async def tell(op: Tracked[Deletion], problem: str) -> None:
    await mismatches.publish(Mismatch(customer=op.subject, operation=op.id, vendor_id=op.external_id, problem=problem))


# Polling

poll_now = app.topic("poll-now")
app.schedule(app.late(lambda settings: settings.poll_every), name="poll", overlap="skip").to(poll_now)


@app.on(poll_now)
async def poll_due(event: Event[dict[str, object]]) -> None:
    await deletions.poll_due()


# The technical contact


mismatches = app.topic("mismatches", Mismatch)
for source, name, told in (
    (deletions.overdue, "overdue", "The deletion of {subject} is overdue (operation {id})"),
    (deletions.failed, "failed", "The deletion of {subject} has failed (operation {id})"),
    (deletions.in_doubt, "in-doubt", "Was the deletion of {subject} started? (operation {id})"),
    (mismatches, "mismatches", "{customer} {problem} (operation {operation})"),
    (
        deletions.contract_changed,
        "contract-changed",
        "The vendor's answers have changed (customer {subject}, operation {operation_id}): {problem}",
    ),
    (deletions.contract_restored, "contract-restored", "The vendor's answers are right again: no more {problem}"),
):
    source.to(
        email(
            app.late(lambda settings: settings.technical_contact),
            digest=app.late(lambda settings: settings.digest),
            name=f"mail-{name}",
            subject=told,
        )
    )
