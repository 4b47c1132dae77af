"""Redriving while a server handles what comes back."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.cli_processes import Serving, cli, make_shop
from tests.patience import PATIENCE_S


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    made = make_shop(tmp_path_factory.mktemp("letters"))
    with Serving(made) as server:
        _ = server.url
        yield made
        assert server.stop() == 0


def letters(folder: Path, count: int) -> list[Any]:
    """The dead letters, when there are so many."""
    end = time.monotonic() + PATIENCE_S
    while True:
        found: list[Any] = cli(folder, "dlq", "ls", "--json").json["dead_letters"]
        if len(found) == count:
            return found
        assert time.monotonic() < end, found


def test_a_queue_is_redriven_once_at_a_rate_though_its_letters_die_again(folder: Path) -> None:
    for n in range(3):
        cli(folder, "publish", "shop/placed", json.dumps({"id": f"dead-{n}", "cents": -1})).ok()
    before = [letter["id"] for letter in letters(folder, 3)]
    began = time.monotonic()
    redriven = cli(folder, "dlq", "redrive", "--queue", "shop/bills", "--rate", "4", "--json").ok().json
    assert time.monotonic() - began >= 0.5
    assert redriven == {"ids": before, "missing": []}
    again = letters(folder, 3)
    assert not {letter["id"] for letter in again} & set(before)
    cli(folder, "dlq", "discard", "--queue", "shop/bills", "--yes").ok()
    assert letters(folder, 0) == []


def test_an_edited_letter_is_handled_and_hangs_below_the_first_event(folder: Path) -> None:
    event = cli(folder, "publish", "shop/placed", '{"id": "mended", "cents": -1}', "--json").ok().json["id"]
    (letter,) = letters(folder, 1)
    refused = cli(folder, "dlq", "redrive", str(letter["id"]), "--edit", '{"id": "mended"}').failed(1)
    assert "cents" in refused.err
    assert letters(folder, 1) == [letter]
    cli(folder, "dlq", "redrive", str(letter["id"]), "--edit", '{"id": "mended", "cents": 7}').ok()
    letters(folder, 0)
    end = time.monotonic() + PATIENCE_S
    while (row := cli(folder, "table", "get", "shop/orders", "mended", "--json")).code != 0:
        assert time.monotonic() < end
    assert row.json["value"]["cents"] == 7
    (root,) = cli(folder, "trace", event, "--json").ok().json["roots"]
    (first,) = root["events"]
    (edited,) = first["edited"]
    assert edited["data"] == {"id": "mended", "cents": 7}
    assert [made["source"] for made in edited["messages"][0]["events"]] == ["shop/orders"]


def test_letters_are_chosen_by_exception_and_tried_out(folder: Path) -> None:
    cli(folder, "publish", "shop/placed", '{"id": "tried", "cents": -1}').ok()
    (letter,) = letters(folder, 1)
    exception = letter["reason"].partition(":")[0]
    assert cli(folder, "dlq", "ls", "--exception", "Nothing", "--json").ok().json["dead_letters"] == []
    assert cli(folder, "dlq", "ls", "--exception", exception, "--search", "TRIED", "--json").ok().json["dead_letters"]
    failed = cli(folder, "dlq", "dry-run", str(letter["id"])).ok().out
    assert failed.startswith("failed: ")
    tried = cli(folder, "dlq", "dry-run", str(letter["id"]), "--edit", '{"id": "tried", "cents": 7}').ok().out
    assert "would write shop/orders ['tried']" in tried
    assert letters(folder, 1) == [letter]
    chosen = ("--exception", exception, "--search", "tried")
    discarded = cli(folder, "dlq", "discard", *chosen, "--yes", "--json").ok().json
    assert discarded == {"ids": [letter["id"]], "missing": []}


def test_an_event_is_explained_and_its_trace_becomes_a_test(folder: Path) -> None:
    event = cli(folder, "publish", "shop/placed", '{"id": "told", "cents": 5}', "--json").ok().json["id"]
    told = cli(folder, "why", event).ok().out
    assert "✓ shop/placed → shop/bills  taken" in told
    assert cli(folder, "why", event, "--json").ok().json["ways"][0]["outcome"] == "taken"
    assert "no event of this id" in cli(folder, "why", "nothing").failed(4).err
    assert "async def test_trace_" in cli(folder, "trace", event, "--pytest").ok().out
