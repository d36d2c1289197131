"""What every story may ask at its end: does the provider have what we hold, and nothing else?"""

from entitlements.audit.ledger import Actor
from entitlements.billing.reconciler import Finding
from entitlements.services import Services


async def findings(services: Services, *, repair: bool = False) -> list[Finding]:
    """Every difference, also those of events. Fails where a customer never stood still.

    What the worker has still to do, and faults that are still set at the sandbox, count.
    """
    services.reconciler.pace.calls_per_second, services.reconciler.pace.pause_seconds = 10_000, 0
    actor = Actor("cli:test") if repair else None
    found: list[Finding] = []
    async for checked in services.reconciler.customers(repair_as=actor):
        assert not checked.busy, f"{checked.customer} never stood still"
        found += checked.findings
    async for finding in services.reconciler.events(repair_as=actor):
        found.append(finding)
    return found


async def reconciled_clean(services: Services) -> None:
    """Fails with every difference that there is."""
    drifts = [finding.drift for finding in await findings(services)]
    assert not drifts, "\n".join(map(str, drifts))
