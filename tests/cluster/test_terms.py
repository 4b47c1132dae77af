"""What one server does at a time, and what happens when it dies."""

from __future__ import annotations

from headwater import App
from headwater.runtime.terms import TERM_S
from tests.cluster.conftest import Gather
from tests.cluster.crew import TAKEN_OVER_S


def apps() -> list[App[None]]:
    return [App("shop")]


async def test_one_holds_a_term_and_renews_it(gather: Gather) -> None:
    async with gather(apps, 3) as crew:
        answers = [await member.terms.hold("work") for member in crew.members]
        assert answers == [True, False, False]
        await crew.pass_time(4 * TERM_S)
        assert crew.holders("work") == crew.members[:1]
        assert [await member.terms.hold("work") for member in crew.members] == [True, False, False]


async def test_a_dead_holders_term_ends_and_another_one_takes_it(gather: Gather) -> None:
    async with gather(apps, 3) as crew:
        first, second, third = crew.members
        assert await first.terms.hold("work")
        await crew.kill(first)
        assert not await second.terms.hold("work")
        await crew.pass_time(TERM_S * 2 / 3)
        assert not await second.terms.hold("work"), "its term lasts"
        await crew.pass_time(TAKEN_OVER_S - TERM_S * 2 / 3)
        assert [await member.terms.hold("work") for member in (third, second)] == [True, False]


async def test_a_stopped_holder_gives_it_up_at_once(gather: Gather) -> None:
    async with gather(apps, 2) as crew:
        first, second = crew.members
        assert await first.terms.hold("work")
        await crew.leave(first)
        assert await second.terms.hold("work")


async def test_a_holder_that_stood_still_knows_that_its_term_is_over(gather: Gather) -> None:
    async with gather(apps, 2) as crew:
        first, second = crew.members
        assert await first.terms.hold("work")
        await first.terms.wakeups.stop()
        await crew.pass_time(TERM_S)
        assert not first.terms.holds("work"), "before anybody else can have it"
        assert await second.terms.hold("work")
        assert not await first.terms.hold("work")


async def test_those_who_meet_share_a_work(gather: Gather) -> None:
    async with gather(apps, 3) as crew:
        for _ in range(2):
            places = [await member.terms.meet("pool") for member in crew.members]
            await crew.pass_time(TERM_S / 2)
        assert sorted(places) == [(0, 3), (1, 3), (2, 3)]
        await crew.kill(crew.members[0])
        await crew.pass_time(TAKEN_OVER_S)
        assert sorted([await member.terms.meet("pool") for member in crew.members]) == [(0, 2), (1, 2)]
