"""What is due and nobody waits for: webhooks received, scheduled changes, trials that end, changes
whose process died, what the provider has still to be told (of use, too) or to forget, use past its
time, seals, notices.

What is due is data with an instant; this loop is the only thing that looks for it. Any number of
workers may run: leases see to it that each thing is done once.
"""

import asyncio
import contextlib

import msgspec
import structlog
from sqlalchemy.exc import IntegrityError

from entitlements.audit import seals
from entitlements.kernel.errors import ServiceError
from entitlements.services import Services

log = structlog.get_logger()

IDLE_SECONDS = 0.5
FAULT_SECONDS_AT_MOST = 30


async def work_once(services: Services, *, inbox_only: bool = False) -> int:
    """Do everything that is due now; how much it was.

    Notices are only begun: a slow receiver holds up nothing. `services.deliveries.finished` waits.
    """
    await services.sandbox_clock.load()  # another process may have moved it
    done = await services.webhooks.work()
    if inbox_only:
        return done
    done += await services.due.work()
    done += await services.trials.work()
    done += await services.moving.work()
    for change_id in await services.settlement.unfinished():
        try:
            await services.settlement.finish(change_id)
        except ServiceError as error:
            log.info("change_finished_with_error", change=change_id, code=error.code)
        done += 1
    for subscription_id in await services.alignment.waiting():
        with contextlib.suppress(ServiceError):  # it is logged, and tried again
            done += await services.alignment.align(subscription_id)
    for customer_id in await services.erasing.due():
        done += await services.erasing.finish(customer_id)
    done += await services.metering.work()
    done += await services.usage.purge()
    done += await seal_ledger(services)
    return done + await services.deliveries.deliver_due()


async def seal_ledger(services: Services) -> int:
    """Seal the ledger once an hour, and say so where logs are kept; how many seals were made."""
    async with services.database.read() as session:
        if not await seals.is_due(session):
            return 0
    try:
        async with services.database.write() as session:
            newest, is_new = await seals.seal(session, services.signer)
    except IntegrityError:  # another worker was faster
        return 0
    if newest is None or not is_new:
        return 0
    log.info("audit_sealed", seal=msgspec.to_builtins(newest))
    return 1


async def work(services: Services, stop: asyncio.Event, *, inbox_only: bool = False) -> None:
    """Work until `stop` is set. A fault is logged, and tried again after growing pauses."""
    pause_seconds = IDLE_SECONDS
    while not stop.is_set():
        try:
            done = await work_once(services, inbox_only=inbox_only)
            pause_seconds = IDLE_SECONDS
        except Exception:
            log.exception("worker_fault")
            done = 0
            pause_seconds = min(pause_seconds * 2, FAULT_SECONDS_AT_MOST)
        if not done:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_seconds):
                    await stop.wait()
