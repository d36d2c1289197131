"""A process dies at each statement, commit and call of an operation: what it began is finished,
once, by whoever comes next, as if it had lived."""

import itertools
from pathlib import Path
from typing import Any

import pytest

from tests.faults.operations import OPERATIONS, Operation, prepared
from tests.faults.test_every_call import compare, ended
from tests.faults.victim import run_victim
from tests.faults.world import Prepared, opened, provider, until_answered

SAMPLED = {"a first purchase": "sqlite", "an add-on": "postgresql"}
POINTS_SAMPLED = 3


@pytest.mark.parametrize(
    ("name", "database_url"),
    [
        pytest.param(name, db, marks=() if SAMPLED.get(name) == db else pytest.mark.soak)
        for name, db in itertools.product(OPERATIONS, ("sqlite", "postgresql"))
    ],
    indirect=["database_url"],
)
async def test_a_death_at_any_point_ends_as_if_there_had_been_none(
    name: str, database_url: str, tmp_path: Path, soak: bool
) -> None:
    operation = OPERATIONS[name]
    before = await prepared(operation, database_url, tmp_path)
    async with before.copied() as (url, file), provider(file) as provider_url:
        points = await run_victim(name, url, provider_url, before.memo, None)
        async with opened(url, provider_url, before.memo) as world:
            undisturbed = await ended(world)

    deaths = range(len(points)) if soak else sampled(points)
    failed = []
    for point in deaths:
        wrong = await died(name, operation, before, point, undisturbed)
        if wrong:
            failed.append(f"died at {point}, {points[point]}: {wrong}")
    assert not failed, "\n".join(failed)


def sampled(points: list[str]) -> list[int]:
    """Some of those where something has an effect that we may not know of."""
    delicate = [
        n for n, name in enumerate(points) if name.startswith(("after POST", "before COMMIT"))
    ]
    return delicate[:: max(1, len(delicate) // POINTS_SAMPLED)][:POINTS_SAMPLED]


async def died(
    name: str, operation: Operation, before: Prepared, point: int, undisturbed: Any
) -> str:
    """What went wrong, empty if nothing."""
    async with before.copied() as (database_url, file), provider(file) as provider_url:
        # Where it made fewer steps this time it lived, and that has to end well, too.
        await run_victim(name, database_url, provider_url, before.memo, point)
        async with opened(database_url, provider_url, before.memo) as world:
            try:
                if point % 2:  # the caller is back at once; else the worker was faster
                    await world.heal()
                else:
                    await world.run_down()
                answer = await until_answered(world, operation.ask)
                if answer["__typename"] not in operation.answers:
                    return f"answered {answer}"
                return compare(operation, await ended(world), undisturbed)
            except Exception as error:
                return f"{type(error).__name__}: {error}"
