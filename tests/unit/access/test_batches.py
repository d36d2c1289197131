"""What waits together is settled together, and each gets an outcome of its own."""

import asyncio
from collections.abc import Sequence

import pytest

from entitlements.access.batches import AT_ONCE, Batches


class Settling:
    """Doubles numbers, some time after it was asked; odd ones below 0 break everything."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    async def __call__(self, numbers: Sequence[int]) -> list[int | Exception]:
        self.asked.append(list(numbers))
        await asyncio.sleep(0)
        if -1 in numbers:
            raise ValueError("broken")
        if -2 in numbers:
            raise OSError("away")
        return [LookupError("zero") if number == 0 else 2 * number for number in numbers]


async def test_what_comes_while_some_are_settled_is_settled_next() -> None:
    settling = Settling()
    batches = Batches(settling)
    many = range(1, AT_ONCE + 3)
    assert await asyncio.gather(*map(batches.settled, many)) == [2 * n for n in many]
    assert [len(some) for some in settling.asked] == [AT_ONCE, 2]
    assert await batches.settled(7) == 14


async def test_a_mistake_is_of_its_request_alone() -> None:
    found = await asyncio.gather(
        *map(Batches(Settling()).settled, [1, 0, -1, 2]), return_exceptions=True
    )
    assert [str(each) for each in found] == ["2", "zero", "broken", "4"]


async def test_where_the_database_is_away_nobody_waits_for_it_twice() -> None:
    settling = Settling()
    found = await asyncio.gather(*map(Batches(settling).settled, [1, -2]), return_exceptions=True)
    assert [str(each) for each in found] == ["away", "away"]
    assert len(settling.asked) == 1


async def test_who_no_longer_waits_keeps_nobody_else_waiting() -> None:
    batches = Batches(Settling())
    gone = asyncio.create_task(batches.settled(1))
    other = asyncio.create_task(batches.settled(2))
    await asyncio.sleep(0)
    gone.cancel()
    assert await other == 4
    with pytest.raises(asyncio.CancelledError):
        await gone
