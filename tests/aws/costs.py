"""`python -m tests.aws.costs [STACK …]`: how many requests to AWS one event costs, counted on the stand-in.

After a first round, in which the functions start, an app's usual event happens COUNT times, one after the other: little
is batched that would be under load. Counted is what functions ask AWS for, and how often functions run; what AWS does
itself (polling queues and streams, writing logs) is not.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from headwater.ids import new_id
from tests.aws import stories
from tests.aws.deployed import Deployed, deployed, make_ministack
from tests.aws.permissions import Judgements

COUNT = 10
QUIET_S = 8.0
"""Longer than the longest delay of a queue."""


def make_product(shop: Deployed) -> None:
    body = {"name": "Lamp", "category": new_id(), "price_cents": 1}
    assert shop.client("catalog").post("/products", json=body).status_code == 201


def send_reading(desk: Deployed) -> None:
    ann = desk.client("intake", Authorization=stories.token("ann", "data.write"))
    assert ann.post("/data", json={"informationOne": "a", "informationTwo": "b"}).status_code == 202


def revoke_consent(office: Deployed) -> None:
    clerk = office.client("erasure", Authorization=stories.token("clerk", "customers.read", "customers.write"))
    id = f"c{new_id()}"
    assert clerk.post("/customers", json={"id": id, "name": "Ann"}).status_code == 201
    merge = {"Content-Type": "application/merge-patch+json"}
    assert clerk.patch(f"/customers/{id}", json={"consent": "revoked"}, headers=merge).status_code == 200


def upload_image(studio: Deployed) -> None:
    ann = studio.client("gallery", Authorization=stories.token("ann", "images.write"))
    put = ann.put(f"/uploads/trip/{new_id()}.png", content=b"\x89PNG", headers={"Content-Type": "image/png"})
    assert put.status_code == 201


def drop_file(house: Deployed) -> None:
    writer = house.client("directory", Authorization=stories.token("hr", "staff.write"))
    text = stories.STAFF.replace("Clerk", f"Clerk {new_id()}")
    put = writer.put(f"/drops/staff/{new_id()}.csv", content=text, headers={"Content-Type": "text/csv"})
    assert put.status_code == 201


STACKS: dict[str, tuple[str, str, Callable[[Deployed], None]]] = {
    "shop": ("a product is created, and in the report", stories.SHOP, make_product),
    "desk": ("a reading is accepted, and persisted", stories.DESK, send_reading),
    "office": ("a customer is made, and its consent revoked", stories.OFFICE, revoke_consent),
    "studio": ("an image is uploaded", stories.STUDIO, upload_image),
    "house": ("a file of three employees changes two departments", stories.HOUSE, drop_file),
}


def measure(made: Deployed, event: Callable[[Deployed], None], judgements: Judgements) -> Counter[str]:
    """Requests of each kind, and invocations of functions, for COUNT events."""
    event(made)
    _settle(judgements)
    before, position = _invocations(made), judgements.end
    for _ in range(COUNT):
        event(made)
    _settle(judgements)
    calls = {(one["n"], one["call"]) for one in judgements.since(position) if one["role"]}
    found = Counter(call for _, call in calls)
    found["lambda invocations"] = _invocations(made) - before
    items = [one for one in judgements.since(position) if one["role"] and one["call"].endswith("TransactWriteItems")]
    found["items written in transactions"] = sum(not one["action"].endswith("CheckItem") for one in items)
    return found


def _settle(judgements: Judgements) -> None:
    """Wait until no function has asked for anything for a while."""
    while (position := judgements.end) or not position:
        time.sleep(QUIET_S)
        if judgements.end == position:
            return


def _invocations(made: Deployed) -> int:
    """How often functions ran, by what Lambda logs of each time."""
    found = 0
    for page in made.aws.pages("logs", "describe_log_groups", logGroupNamePrefix=f"/aws/lambda/{made.stack}-"):
        for group in page["logGroups"]:
            for events in made.aws.pages("logs", "filter_log_events", logGroupName=group["logGroupName"]):
                found += sum(event["message"].startswith("REPORT RequestId") for event in events["events"])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.aws.costs", description=__doc__)
    parser.add_argument("stacks", nargs="*", default=list(STACKS), metavar="STACK", help=f"of {', '.join(STACKS)}")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "judgements"
        with make_ministack(file) as ministack:
            for name in options.stacks:
                told, settings, event = STACKS[name]
                party = stories.vendor if name == "office" else stories.no_vendor
                with party() as variables, deployed(ministack, name, settings, **variables) as made:
                    print(f"{name}: {told}")
                    for call, count in sorted(measure(made, event, Judgements(file)).items()):
                        print(f"  {count / COUNT:6.1f}  {call}")


if __name__ == "__main__":
    main()
