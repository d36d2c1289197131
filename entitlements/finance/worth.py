"""The impact of a proposal, worked out over everybody who holds something."""

import asyncio

from entitlements.catalog.service import Change
from entitlements.finance.impact import Impact, Prediction, Proposed
from entitlements.kernel.clock import Clock
from entitlements.storage.unit_of_work import Database
from entitlements.subscriptions.holders import holders
from entitlements.subscriptions.moving import held_up, load_migrations


class Worth:
    """Reads a thousand subscriptions at a time, and lets others work while it adds them up."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def of_change(self, change: Change) -> Impact:
        """What a change of the catalog is worth now."""
        proposed = Proposed(
            catalog=change.catalog,
            new_versions={package.id: package for package in change.new_versions},
            policies={policy.package_id: policy for policy in change.policies},
            effective_at=change.effective_at,
        )
        async with self._database.read() as session:
            migrations = held_up(await load_migrations(session))
            prediction = Prediction(
                proposed, change.published, self._clock.now(), held_up=migrations
            )
            async for batch in holders(session):
                await asyncio.to_thread(prediction.add, batch)
        return prediction.result()
