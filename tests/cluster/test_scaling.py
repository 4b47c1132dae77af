"""Numbers of workers: one server decides, each runs its share, or one tells the target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from headwater import App, Event, Scale
from headwater.runtime.autoscaler import RETOLD_MS
from headwater.runtime.scale_targets import ScaleRules
from headwater.runtime.supervisor import Supervisor
from headwater.scaling import Scaling
from tests.cluster.conftest import Gather
from tests.cluster.crew import TAKEN_OVER_S, Crew
from tests.runtime.samples import until

QUEUE = "shop/jobs"


class Pool:
    """The worker processes of one server, as far as the autoscaler sees them."""

    def __init__(self) -> None:
        self.number = 0

    async def set(self, queue: str, wanted: int) -> None:
        self.number = wanted

    def running(self, queue: str) -> int | None:
        return self.number


def apps() -> list[App[None]]:
    app: App[None] = App("shop")

    @app.on(app.queue("jobs"), run_in="process", scale=Scale(max=9, backlog_per_worker=1, cooldown="10s"))
    async def work(event: Event[dict[str, str]]) -> None:
        """Nobody runs it here."""

    return [app]


async def send(member: Supervisor, count: int) -> None:
    for _ in range(count):
        await member.graph.apps[0].queues[QUEUE].send({})


async def scalings(crew: Crew) -> list[tuple[int, int]]:
    rows: list[Scaling] = (await crew.members[0].system.scalings.query(QUEUE)).items
    return [(row.before, row.wanted) for row in rows]


def told(member: Supervisor) -> dict[str, Any]:
    (report,) = member.autoscaler.report()
    return report


async def test_each_server_runs_its_share_of_what_one_decides(gather: Gather) -> None:
    pools = [Pool(), Pool()]
    async with gather(apps, 0, leaves_processes=True, unconsumed=[QUEUE]) as crew:
        for pool in pools:
            await crew.join(crew.make(apps(), pool=pool))
        first, second = crew.members
        await send(first, 5)
        await crew.pass_time(10)
        assert sorted(pool.number for pool in pools) == [2, 3]
        assert [told(member)["wanted"] for member in crew.members] == [5, 5]
        decided = await scalings(crew)
        assert decided[-1][1] == 5
        assert [row[0] for row in decided[1:]] == [row[1] for row in decided[:-1]], "each goes on from the one before"
        (decider,) = crew.holders(f"scale {QUEUE}")
        left = pools[1 - crew.members.index(decider)]
        await crew.kill(decider)
        await crew.pass_time(TAKEN_OVER_S + 2)
        assert left.number == 5
        assert await scalings(crew) == decided, "nothing new was decided"
        await (first if decider is second else second).engine.purge(QUEUE)
        await crew.pass_time(15)
        assert left.number == 0


async def test_a_command_is_told_by_one_server(gather: Gather, tmp_path: Path) -> None:
    file = tmp_path / "told"
    rules = ScaleRules(command=("/bin/sh", "-c", f"echo {{wanted}} >> {file}"))

    def lines() -> list[str]:
        return file.read_text("utf-8").split() if file.exists() else []

    async with gather(apps, 3, leaves_processes=True, scaling=rules, unconsumed=[QUEUE]) as crew:
        await send(crew.members[0], 4)
        await crew.pass_time(15)
        await until(lambda: "4" in lines())
        await crew.pass_time(15)
        assert lines().count("4") == 1
        await crew.pass_time(RETOLD_MS / 1000)
        await until(lambda: lines().count("4") == 2)
