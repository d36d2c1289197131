"""A process that records events until it is killed: `python -m tests.recorders URL`.

It prints how many batches have been acknowledged, after each.
"""

import asyncio
import sys

from entitlements.access.counters import Event
from entitlements.kernel.clock import SettableClock
from entitlements.services import opened_services
from entitlements.settings import load_settings
from tests.conftest import ADMIN_KEY, START

BATCHES = 400
BATCH = 10
QUANTITY = 3


def batch(number: int) -> list[Event]:
    return [
        Event(id=f"{number}-{n}", customer_id="ant", feature_id="jobs", quantity=QUANTITY, at=START)
        for n in range(BATCH)
    ]


async def main(database_url: str) -> None:
    settings = load_settings(
        database_url=database_url,
        stripe_api_key="sk_test_for_tests",
        stripe_api_base="http://127.0.0.1:9",
        admin_key=ADMIN_KEY,
        sandbox=True,
    )
    async with opened_services(settings, clock=SettableClock(START)) as services:
        waiting = iter(range(BATCHES))
        acknowledged = 0

        async def client() -> None:
            nonlocal acknowledged
            for number in waiting:
                await services.usage.record(batch(number))
                acknowledged += 1
                print(acknowledged, flush=True)

        await asyncio.gather(*(client() for _ in range(4)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
