"""A catalog that one process publishes is sold by all of them, at once."""

import asyncio
import copy
import os
import sys
from datetime import UTC, datetime
from typing import Any

from entitlements.audit.ledger import Actor
from entitlements.kernel.clock import SettableClock, monotonic_seconds
from entitlements.services import Services, opened_services
from entitlements.settings import Settings
from entitlements.storage.installation import lock_installation
from tests.conftest import START, publish


def renamed(document: Any, name: str) -> Any:
    document = copy.deepcopy(document)
    document["products"][0]["plans"][0]["name"] = name
    return document


async def seen(services: Services, name: str) -> float:
    """The seconds until a service sells the starter plan by a name."""
    start = monotonic_seconds()
    while (await services.catalog.current()).current["starter"].name != name:
        assert monotonic_seconds() < start + 10, "never seen"
        await asyncio.sleep(0.001)
    return monotonic_seconds() - start


async def test_another_process_sells_it_within_a_moment(
    services: Services, settings: Settings, example: Any
) -> None:
    async with opened_services(settings, clock=SettableClock(START)) as other:
        await seen(other, "Starter")
        seconds = []
        for n in range(5):
            await publish(services, renamed(example, f"Starter {n}"))
            seconds.append(await seen(other, f"Starter {n}"))
        # Within 100 ms on PostgreSQL, and one look later on SQLite; the machine may be busy.
        assert sorted(seconds)[2] < 0.3, seconds
        assert await other.catalog.current() == await services.catalog.current()


async def test_what_the_command_line_approves_is_sold_by_the_running_service(
    services: Services, settings: Settings, example: Any
) -> None:
    # The command has no clock but the sandbox's: both stand at the same instant.
    later = datetime(2040, 1, 1, tzinfo=UTC)
    assert isinstance(services.clock, SettableClock)
    services.clock.set(later)
    async with services.database.write() as session:
        (await lock_installation(session)).sandbox_now = later
    proposal = await services.catalog.propose(
        Actor("key:ann"), renamed(example, "Basic"), "A better name"
    )
    approving = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "entitlements", "catalog", "approve", proposal.id, "--as", "bob"),
        env=os.environ
        | {"ENTITLEMENTS_DATABASE_URL": settings.database_url, "ENTITLEMENTS_SANDBOX": "true"},
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await approving.communicate()
    assert (approving.returncode, said.decode()) == (0, "Revision 2 is sold now.\n")
    await seen(services, "Basic")
    row = await services.catalog.proposal(proposal.id)
    assert row is not None
    assert (row.status, row.decided_by) == ("approved", "cli:bob")
