"""What customers were denied: counted by day, for staff who ask why, and what they may need next.

A denial costs the request that hears it one step of a counter in memory. Every few seconds what was
counted is added to the database, and to the metric; a process that is killed loses so much of it.
In the database only features and customers that are there count, and so many different ones at a
time: more are counted as dropped.
"""

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from datetime import datetime

import structlog
from prometheus_client import Counter
from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite

from entitlements.access.service import Answer
from entitlements.access.tables import DenialRow
from entitlements.grants.decide import DenialReason
from entitlements.kernel.clock import Clock
from entitlements.storage.engine import is_unreachable
from entitlements.storage.unit_of_work import Database

log = structlog.get_logger()

FLUSH_SECONDS = 5
KEPT_AT_ONCE = 10_000
"""How many customers and features a process counts for at a time."""

DENIALS = Counter("entitlements_denials_total", "Denials, by reason.", ["reason"])
_COUNTED = {reason: DENIALS.labels(reason.value) for reason in DenialReason}
_OF_NOBODY = frozenset({DenialReason.CUSTOMER_NOT_FOUND, DenialReason.FEATURE_NOT_FOUND})
DROPPED = Counter(
    "entitlements_denials_dropped_total", "Denials that were not recorded: there were too many."
)

Key = tuple[str, str, DenialReason]
"""A customer, a feature, a reason."""


class Signals:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._counted: dict[Key, int] = {}
        self._by_reason: dict[DenialReason, int] = dict.fromkeys(DenialReason, 0)
        self._task: asyncio.Task[None] | None = None

    def heard(self, customer_id: str, answers: Iterable[Answer]) -> None:
        """Count the denials among some answers about one customer."""
        for answer in answers:
            if answer.decision.reason is not None:
                self.denied((customer_id, answer.check.feature_id, answer.decision.reason))

    def denied(self, key: Key) -> None:
        """Count one denial."""
        self._by_reason[key[2]] += 1
        counted = self._counted.get(key)
        if counted is not None:
            self._counted[key] = counted + 1
            return
        if key[2] not in _OF_NOBODY:
            if len(self._counted) < KEPT_AT_ONCE:
                self._counted[key] = 1
            else:
                DROPPED.inc()
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._work(), name="signals")

    async def _work(self) -> None:
        """Runs for as long as there is something to write."""
        try:
            while self._counted or any(self._by_reason.values()):
                await asyncio.sleep(FLUSH_SECONDS)
                await self.flush()
        finally:
            self._task = None

    async def flush(self) -> None:
        """Add what was counted to the database. If that is away, it is kept for the next time."""
        for reason, count in self._by_reason.items():
            _COUNTED[reason].inc(count)
            self._by_reason[reason] = 0
        counted, self._counted = self._counted, {}
        if not counted:
            return
        try:
            await self._add(counted, self._clock.now())
        except Exception as error:
            for key, count in counted.items():
                self._counted[key] = self._counted.get(key, 0) + count
            if not is_unreachable(error):
                log.exception("denials_not_recorded")

    async def _add(self, counted: dict[Key, int], at: datetime) -> None:
        insert = postgresql.insert if self._database.is_postgresql else sqlite.insert
        adding = insert(DenialRow)
        rows = [
            {
                "customer_id": customer_id,
                "feature_id": feature_id,
                "day": at.date(),
                "reason": reason.value,
                "count": count,
                "last_at": at,
            }
            for (customer_id, feature_id, reason), count in sorted(counted.items())
        ]
        async with self._database.write() as session:
            await session.execute(
                adding.on_conflict_do_update(
                    index_elements=["customer_id", "feature_id", "day", "reason"],
                    set_={
                        "count": DenialRow.count + adding.excluded["count"],
                        "last_at": adding.excluded.last_at,
                    },
                ),
                rows,
            )

    async def denials(self, customer_id: str, *, first: int) -> Sequence[DenialRow]:
        """The newest of a customer, as far as they are in the database."""
        newest = (
            select(DenialRow)
            .where(DenialRow.customer_id == customer_id)
            .order_by(DenialRow.day.desc(), DenialRow.last_at.desc(), DenialRow.feature_id)
            .limit(first)
        )
        async with self._database.read() as session:
            return (await session.scalars(newest)).all()

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self.flush()
