"""One process of several that count against the same database: `python -m tests.consumers URL N`.

Every client asks for each of the keys; it prints each key's answers as JSON.
"""

import asyncio
import json
import sys

from entitlements.kernel.clock import SettableClock
from entitlements.services import opened_services
from entitlements.settings import load_settings
from tests.conftest import ADMIN_KEY, START

KEYS = [f"key-{n}" for n in range(96)]
CLIENTS = 32


async def main(database_url: str, offset: int) -> None:
    settings = load_settings(
        database_url=database_url,
        stripe_api_key="sk_test_for_tests",
        stripe_api_base="http://127.0.0.1:9",
        admin_key=ADMIN_KEY,
        sandbox=True,
    )
    answers: dict[str, tuple[bool, int, bool]] = {}
    async with opened_services(settings, clock=SettableClock(START)) as services:
        keys = iter(KEYS[offset:] + KEYS[:offset])
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)

        async def client() -> None:
            for key in keys:
                consumed = await services.usage.consume("ant", "calls", 1, key)
                decision = consumed.answer.decision
                answers[key] = decision.allowed, decision.used or 0, consumed.duplicate

        await asyncio.gather(*(client() for _ in range(CLIENTS)))
    print(json.dumps(answers))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
