"""What happens in each app, from its HTTP API or its bucket to the last effect, on a stack that is deployed.

A story can be told several times on one stack: each time it is about other rows.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import jwt

from headwater.ids import new_id
from tests.aws.deployed import ROOT, Deployed
from tests.ports import free_port
from tests.postgres.guard import run_guard

SECRET = "a secret of forty characters, for testing"
TOKENS = """
[acceptance.issuers.test]
issuer = "test"
audience = "headwater"
secret = "env:TOKEN_SECRET"
[acceptance.plans.intake]
rate = 100
burst = 100
[acceptance.plans.subscriber]
rate = 100
burst = 100
[acceptance.plans.internal]
"""


def apps(*names: str, more: str = "") -> str:
    """Settings of a stack of these apps."""
    return "apps = [" + ", ".join(f'"apps.{name}.app"' for name in names) + f"]\n{more}"


SHOP = apps("catalog", "reporting")
DESK = apps("intake", more=TOKENS)
OFFICE = apps("erasure", more=f'ses = {{ sender = "apps@headwater.example" }}\n{TOKENS}')
STUDIO = apps("gallery", more=TOKENS)
HOUSE = apps("directory", more=TOKENS)
STAFF = """department,employee,name,title,email,phone,room,since
Sales,e1,Ann,Head,ann@staff.example,555,1,2020-01-01
Sales,e2,Bo,Clerk,bo@staff.example,556,2,2021-02-03
Stock,e3,Cy,Clerk,cy@staff.example,557,3,2022-03-04
"""


def token(subject: str, *roles: str) -> str:
    claims = {"iss": "test", "aud": "headwater", "sub": subject, "roles": roles, "exp": time.time() + 3600}
    return "Bearer " + jwt.encode(claims, SECRET, "HS256")


@contextmanager
def vendor() -> Iterator[dict[str, str]]:
    """The third party of erasure, as a process; the variables that the app needs to reach it."""
    port = free_port()
    command = [sys.executable, "-m", "apps.erasure.vendor", "--port", str(port), "--work", "0.5", "--token", SECRET]
    running = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL)
    run_guard().keep(running.pid)
    try:
        yield {
            "TOKEN_SECRET": SECRET,
            "ERASURE_VENDOR_URL": f"http://127.0.0.1:{port}",
            "ERASURE_VENDOR_TOKEN": SECRET,
            "ERASURE_TECHNICAL_CONTACT": "tech@headwater.example",
        }
    finally:
        running.kill()
        running.wait(30)
        run_guard().forget(running.pid)


@contextmanager
def no_vendor() -> Iterator[dict[str, str]]:
    """The variables of the other apps."""
    yield {"TOKEN_SECRET": SECRET}


def sell(shop: Deployed) -> None:
    """HTTP → change → relay → announce → topic → relay → reports → HTTP fetch → cache and totals; then away again."""
    catalog, reporting = shop.client("catalog"), shop.client("reporting")
    category = new_id()
    lamp = {"name": "Lamp", "category": category, "price_cents": 2500}

    def totals() -> list[dict[str, Any]]:
        return [total for total in reporting.get("/totals").json()["items"] if total["category"] == category]

    made = catalog.post("/products", json=lamp)
    assert made.status_code == 201, made.text
    id = made.json()["id"]
    shop.await_(lambda: totals() == [{"category": category, "cents": 2500, "count": 1}])
    (cached,) = (row for row in shop.rows("reporting/cache") if row["category"]["S"] == category)
    assert (cached["id"], cached["price_cents"]) == ({"S": id}, {"N": "2500"})
    seen = {"If-Match": made.headers["etag"]}
    assert catalog.put(f"/products/{id}", json={**lamp, "price_cents": 3000}, headers=seen).status_code == 200
    assert catalog.put(f"/products/{id}", json=lamp, headers=seen).status_code == 412
    assert catalog.get("/products", params={"category": category}).json()["items"][0]["price_cents"] == 3000
    assert catalog.delete(f"/products/{id}").status_code == 204
    shop.await_(lambda: totals() == [])
    assert not any(row["category"]["S"] == category for row in shop.rows("reporting/cache"))
    kinds = ["inserted", "modified", "removed"]
    shop.await_(lambda: sorted(one["kind"] for one in _items(catalog, f"/products/{id}/history")) == kinds)


def _items(client: httpx.Client, path: str) -> list[dict[str, Any]]:
    return list(client.get(path).json()["items"])


def take_in(desk: Deployed) -> None:
    """HTTP → queue → batch → table → HTTP, for two users; nobody else, and nothing without its role."""
    door = {"informationOne": "Door 7 opened", "informationTwo": "south wing"}
    names = (f"ann-{new_id()}", f"bob-{new_id()}")
    ann, bob = (desk.client("intake", Authorization=token(name, "data.read", "data.write")) for name in names)
    accepted = ann.post("/data", json=door)
    assert accepted.status_code == 202, accepted.text
    assert bob.post("/data", json={**door, "informationOne": "Door 8"}).status_code == 202
    stored = desk.await_(lambda: ann.get("/data").json()["items"])
    assert stored == [{**door, "id": accepted.json()["id"], "user_id": names[0]}]
    assert [item["user_id"] for item in desk.await_(lambda: bob.get("/data").json()["items"])] == [names[1]]
    assert ann.get(f"/data/{accepted.json()['id']}").json() == stored[0]
    assert bob.get(f"/data/{accepted.json()['id']}").status_code == 404
    assert desk.client("intake").get("/data").status_code == 401
    reader = desk.client("intake", Authorization=token("eve", "data.read"))
    assert reader.post("/data", json=door).status_code == 403


def spoil(desk: Deployed) -> None:
    """A reading that cannot be persisted is tried again, becomes a dead letter, and is told of."""
    ann = desk.client("intake", Authorization=token("ann", "data.read", "data.write"))
    accepted = ann.post("/data", json={"informationOne": "{broken", "informationTwo": "x"})
    assert accepted.status_code == 202, accepted.text
    id = accepted.json()["id"]
    desk.await_(lambda: any(id in str(letter) for letter in desk.letters("intake/incoming")))


def revoke(office: Deployed) -> None:
    """HTTP → change → a third party over HTTP → polled → done; that no key can be forgotten there is a dead letter."""
    clerk = office.client("erasure", Authorization=token("clerk", "customers.read", "customers.write"))
    id = f"c{new_id()}"
    assert clerk.post("/customers", json={"id": id, "name": "Ann"}).status_code == 201
    merge = {"Content-Type": "application/merge-patch+json"}
    assert clerk.patch(f"/customers/{id}", json={"consent": "revoked"}, headers=merge).status_code == 200
    operations = "erasure/deletions"
    office.await_(lambda: [row for row in office.rows(operations) if _text(row, "subject") == id])
    office.await_(
        lambda: [
            row for row in office.rows(operations) if (_text(row, "subject"), _text(row, "state")) == (id, "completed")
        ]
    )
    office.await_(lambda: any(id in str(letter) for letter in office.letters("erasure/forget")))


def _text(row: dict[str, Any], name: str) -> str:
    return str(row.get(name, {}).get("S", ""))


def upload(studio: Deployed) -> None:
    """HTTP → S3 and DynamoDB → relay → the queue of the container, which is not run here; its owner alone sees it."""
    ann, bob = (
        studio.client("gallery", Authorization=token(f"{name}-{new_id()}", "images.read", "images.write"))
        for name in ("ann", "bob")
    )
    name, picture = f"{new_id()}.png", b"\x89PNG\r\n"
    put = ann.put(f"/uploads/trip/{name}", content=picture, headers={"Content-Type": "image/png"})
    assert put.status_code == 201, put.text
    assert ann.get(f"/uploads/trip/{name}").content == picture
    assert bob.get(f"/uploads/trip/{name}").status_code == 404
    studio.await_(lambda: any(name in body for body in _take(studio, "gallery-examine.fifo")))


def _take(made: Deployed, queue: str) -> list[str]:
    """The bodies of messages that nobody consumes here; they are gone then."""
    url = made.aws.call("sqs", "get_queue_url", QueueName=f"{made.stack}-{queue}")["QueueUrl"]
    found = made.aws.call("sqs", "receive_message", QueueUrl=url, MaxNumberOfMessages=10).get("Messages", ())
    for message in found:
        made.aws.call("sqs", "delete_message", QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    return [message["Body"] for message in found]


def drop_staff(house: Deployed) -> None:
    """HTTP → S3 → relay → load → documents, which a row of `loads` tells."""
    writer = house.client("directory", Authorization=token("hr", "staff.write"))
    name = f"{new_id()}.csv"
    text = STAFF.replace("Clerk", f"Clerk {name}")
    assert writer.put(f"/drops/staff/{name}", content=text, headers={"Content-Type": "text/csv"}).status_code == 201
    (load,) = house.await_(
        lambda: [row for row in house.rows("directory/loads") if _text(row, "file") == f"staff/{name}"]
    )
    assert _text(load, "state") == "loaded"
    house.await_(lambda: sum(name in str(row) for row in house.rows("directory/departments")) == 2)
