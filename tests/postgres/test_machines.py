"""Two machines with one database: what happens to one does not happen to the other."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.postgres.machines import Machine
from tests.postgres.server import run_sql, wait_until

BEATING = str(Path(__file__).with_name("beating.py"))


class Beats:
    def __init__(self, url: str) -> None:
        self.url = url

    def count(self, *names: str) -> list[int]:
        counted = dict(run_sql(self.url, "SELECT name, count(*) FROM beats GROUP BY name"))
        return [counted.get(name, 0) for name in names]

    def go_on(self, *names: str) -> bool:
        """Each of them writes more rows soon."""
        begun = self.count(*names)
        wait_until(lambda: all(now > then for now, then in zip(self.count(*names), begun, strict=True)), str(names))
        return True

    def stand_still(self, *names: str) -> bool:
        """What was under way arrives; then none of them writes more while the other machine does."""

        def nothing_new() -> bool:
            begun = self.count(*names)
            return all(self.go_on("other") for _ in range(3)) and self.count(*names) == begun

        wait_until(nothing_new, f"{names} stand still")
        return True


@pytest.fixture
def beats(postgres: str) -> Iterator[Beats]:
    run_sql(postgres, "CREATE TABLE beats (name text)")
    yield Beats(postgres)
    run_sql(postgres, "DROP TABLE beats")


def test_what_happens_to_a_machine(beats: Beats, postgres_url: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        folders = {name: tmp_path / name for name in ("one", "other")}
        machines = {}
        for name, folder in folders.items():
            folder.mkdir()
            machines[name] = stack.enter_context(Machine(folder, postgres_url))
            machines[name].start(sys.executable, BEATING, name)
        one, both = machines["one"], ("one", "one-child")
        assert beats.go_on("other", *both)
        one.freeze()
        assert beats.stand_still(*both)
        one.thaw()
        assert beats.go_on(*both)
        one.proxy.hold("request")
        assert beats.stand_still(*both)
        one.proxy.heal()
        assert beats.go_on(*both)
        one.proxy.cut()
        assert beats.go_on(*both), "they connect again"
        one.kill()
        assert beats.stand_still(*both)
