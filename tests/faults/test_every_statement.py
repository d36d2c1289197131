"""A process dies at each statement, commit and call of an operation: what it began is finished,
once, by whoever comes next, as if it had lived.

Each death is one, by SIGKILL. Many leave the same behind, as nothing was committed and nothing
asked of the provider between them: that is finished once, in both ways.
"""

import itertools
from pathlib import Path
from typing import Any

import pytest

from tests.faults.operations import OPERATIONS, Operation, prepared
from tests.faults.test_every_call import compare, ended
from tests.faults.victim import Victims
from tests.faults.world import Prepared, Provider, left_behind, until_answered

SAMPLED = {"a first purchase": "sqlite", "an add-on": "postgresql"}
POINTS_SAMPLED = 2

WAYS = ("the caller is back at once", "the worker was faster")


@pytest.mark.parametrize(
    ("name", "database_url"),
    [
        pytest.param(name, db, marks=() if SAMPLED.get(name) == db else pytest.mark.soak)
        for name, db in itertools.product(OPERATIONS, ("sqlite", "postgresql"))
    ],
    indirect=["database_url"],
)
async def test_a_death_at_any_point_ends_as_if_there_had_been_none(
    name: str, database_url: str, tmp_path: Path, provider: Provider, soak: bool
) -> None:
    operation = OPERATIONS[name]
    before = await prepared(operation, database_url, tmp_path, provider)
    async with Victims.at_hand() as victims:
        async with before.copied() as copy:
            async with provider.over(copy.sandbox_file) as url:
                points = await victims.undisturbed(name, copy.database_url, url, before.memo)
            async with copy.running(provider) as world:
                undisturbed = await ended(world)

        finished: dict[tuple[str, ...], int] = {}
        failed = []
        for point in range(len(points)) if soak else sampled(points):
            async with before.copied() as copy:
                async with provider.over(copy.sandbox_file) as url:
                    # Where it comes to fewer points this time it lives: that has to end well, too.
                    await victims.run(name, copy.database_url, url, before.memo, point)
                left = tuple(await left_behind(copy))
                if left in finished:
                    continue
                finished[left] = point
                for way in WAYS:
                    wrong = await finish(operation, copy, provider, way, undisturbed)
                    if wrong:
                        failed.append(f"died at {point}, {points[point]}, {way}: {wrong}")
    print(f"{len(points)} points, {len(finished)} of them left something else behind")
    assert not failed, "\n".join(failed)


def sampled(points: list[str]) -> list[int]:
    """Some of those where something has an effect that we may not know of."""
    delicate = [
        n for n, name in enumerate(points) if name.startswith(("after POST", "before COMMIT"))
    ]
    return delicate[:: max(1, len(delicate) // POINTS_SAMPLED)][:POINTS_SAMPLED]


async def finish(
    operation: Operation, left: Prepared, provider: Provider, way: str, undisturbed: Any
) -> str:
    """What went wrong, empty if nothing."""
    async with left.again(provider) as world:
        try:
            if way == WAYS[0]:
                await world.heal()
            else:
                await world.run_down()
            answer = await until_answered(world, operation.ask)
            if answer["__typename"] not in operation.answers:
                return f"answered {answer}"
            found, wanted = (_by_then(operation, one) for one in (await ended(world), undisturbed))
            return compare(operation, found, wanted)
        except Exception as error:
            return f"{type(error).__name__}: {error}"


def _by_then(operation: Operation, found: dict[str, Any]) -> dict[str, Any]:
    """Without what is told of a try when it is over."""
    told = [entry for entry in found["ledger"] if entry[0] not in operation.at_the_end]
    return found | {"ledger": told}
