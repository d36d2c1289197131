"""Leases: whoever works on something outside a transaction says so, for as long as it lives."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import structlog
from sqlalchemy.exc import SQLAlchemyError

log = structlog.get_logger()

LEASE = timedelta(seconds=5)
"""How long after its last sign of life a process is taken for dead, and its work taken over."""

LEASE_RENEWED_AFTER_SECONDS = 1.5


@asynccontextmanager
async def kept_alive(renew: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Renew a lease for as long as the block runs."""
    done = asyncio.Event()

    async def renewing() -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LEASE_RENEWED_AFTER_SECONDS):
                    await done.wait()
            if done.is_set():
                return
            try:
                await renew()
            except SQLAlchemyError:  # the work itself will tell, if the database is gone
                log.warning("lease_not_renewed")

    task = asyncio.create_task(renewing())
    try:
        yield
    finally:
        done.set()
        await task
