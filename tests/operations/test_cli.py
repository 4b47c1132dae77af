"""`headwater op` on a store that no server owns."""

from __future__ import annotations

import json
from pathlib import Path

import httpx

from headwater import wait
from headwater.testing import Harness
from tests.acceptance.cli_processes import cli
from tests.operations.vendor import Deletion, Vendor, make_app


def run(store: Path, *arguments: str) -> str:
    return cli(store.parent, *arguments, "--store", f"sqlite:{store}").ok().out


def test_looked_at_and_decided_by_hand(tmp_path: Path) -> None:
    store = tmp_path / "store"
    app, deletions = make_app(idempotent=False)
    vendor = Vendor()
    vendor.bend = lambda vendor, method, path: httpx.ReadTimeout("slow") if vendor.calls["POST"] == 2 else None
    with Harness.sync(app, services={"vendor": vendor}, store=store) as h:
        for name in ("ann", "bob", "cleo"):
            wait(deletions.request(name, Deletion(customer_id=name)))
            wait(h.run_until_idle())
    kind = "erasure/deletions"
    assert json.loads(run(store, "op", "ls", "--json")) == {"kinds": [{"operation": kind, "contract_changes": 0}]}
    assert "bob" in run(store, "op", "ls", kind, "--state", "in_doubt")
    assert [one["subject"] for one in json.loads(run(store, "op", "ls", kind, "--json"))["operations"]] == [
        "ann",
        "bob",
        "cleo",
    ]
    assert run(store, "op", "retry", kind, "bob", "--external-id", "d9") == "bob: started\n"
    assert run(store, "op", "cancel", kind, "ann") == "ann: started, no longer wanted\n"
    assert run(store, "op", "cancel", kind, "cleo", "--force", "--yes") == "cleo: cancelled\n"
    shown = run(store, "op", "show", kind, "bob")
    assert ["external_id", "d9"] in [line.split() for line in shown.splitlines()]
    assert run(store, "op", "poll", kind) == f"{kind}: 0 to be polled now\n", "both are due already"
    vendor.deletions["d9"] = "done"
    with Harness.sync(app, services={"vendor": vendor}, store=store) as h:
        wait(h.run_until_idle())
        found = wait(deletions.get("bob"))
        assert found is not None
        assert found.state == "completed"
