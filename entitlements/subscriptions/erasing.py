"""A customer's personal data erased, here and at the provider, while the ledger stays whole.

Ours goes in one transaction, with the salt that the ledger's digests are under. The provider is
told after it, as often as needed: that it is due is written down first.
"""

from collections.abc import Sequence
from datetime import timedelta

import structlog
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from entitlements.audit import ledger
from entitlements.kernel.clock import Clock, wall_now
from entitlements.kernel.errors import Conflict, ServiceError, ValidationFailed
from entitlements.kernel.tracing import traced
from entitlements.storage.unit_of_work import Database
from entitlements.subscriptions.payments import PaymentProvider
from entitlements.subscriptions.records import (
    AWAITING_APPROVAL,
    AWAITING_CHECKOUT,
    UNSETTLED,
    locked_customer,
    record,
)
from entitlements.subscriptions.service import Caller
from entitlements.subscriptions.state import SubscriptionStatus
from entitlements.subscriptions.tables import ChangeRow, CustomerRow, SubscriptionRow

log = structlog.get_logger()

ERASED = ("name", "email", "card_brand", "card_last4", "card_expires")
"""Fields of a customer that say something of a person."""

REASON_LENGTH_AT_MOST = 2000
TRY_AGAIN_AFTER = timedelta(minutes=1)


class Erasing:
    def __init__(self, database: Database, clock: Clock, payments: PaymentProvider) -> None:
        self._database = database
        self._clock = clock
        self._payments = payments

    async def erase(self, caller: Caller, customer_id: str, reason: str) -> None:
        """Erase what says something of a person; what was bought and paid stays. Once is enough.

        Raises `Conflict` `SUBSCRIPTION_LIVE` while something is held, `CHANGE_IN_PROGRESS` while
        something is on its way, `ValidationFailed` without a reason.
        """
        if not reason.strip():
            raise ValidationFailed.of("reason", "REASON_REQUIRED", "say why: it is kept")
        if len(reason) > REASON_LENGTH_AT_MOST:
            words = f"a reason has at most {REASON_LENGTH_AT_MOST} characters"
            raise ValidationFailed.of("reason", "LENGTH", words)
        async with self._database.write() as session:
            row = await locked_customer(session, customer_id)
            if row.erased_at is None:
                await _refuse_while_live(session, row.id)
                await self._erase(session, caller, row, reason)
        if row.erase_due_at is not None:
            await self.finish(row.id)

    async def _erase(
        self, session: AsyncSession, caller: Caller, row: CustomerRow, reason: str
    ) -> None:
        there = [name for name in ERASED if getattr(row, name) is not None]
        for name in ERASED:
            setattr(row, name, None)
        row.salt = row.payment_method_id = row.sandbox_payment_method = None
        row.erased_at = self._clock.now()
        row.erase_due_at = wall_now() if row.provider_id is not None else None
        row.token_generation += 1
        row.revision += 1
        await record(
            session,
            row.erased_at,
            caller.actor,
            row,
            "customer.erased",
            after={"fields": there},
            reason=reason,
        )

    async def due(self, limit: int = 100) -> Sequence[str]:
        """Erased customers of whom the provider has to be told still."""
        query = select(CustomerRow.id).where(CustomerRow.erase_due_at <= wall_now()).limit(limit)
        async with self._database.read() as session:
            return (await session.scalars(query)).all()

    @traced("erasing.finish")
    async def finish(self, customer_id: str) -> bool:
        """Have the provider forget, too; False where it cannot be reached now. Twice is no harm."""
        async with self._database.write() as session:
            row = await locked_customer(session, customer_id)
            if row.erase_due_at is None or row.provider_id is None:
                return False
            row.erase_due_at = wall_now() + TRY_AGAIN_AFTER
        try:
            await self._payments.forget_customer(f"customer:{row.sequence}:erase", row.provider_id)
        except ServiceError as error:
            log.warning("provider_not_told_erasure", customer=customer_id, error=error.message)
            return False
        async with self._database.write() as session:
            row = await locked_customer(session, customer_id)
            if row.erase_due_at is None:
                return False
            row.erase_due_at = None
            for name in ERASED:  # what came back from there meanwhile
                setattr(row, name, None)
            row.payment_method_id = None
            row.revision += 1
            now = self._clock.now()
            await record(session, now, ledger.SYSTEM, row, "customer.erased_at_provider")
        return True


async def _refuse_while_live(session: AsyncSession, customer_id: str) -> None:
    live = await session.scalar(
        select(SubscriptionRow.id).where(
            SubscriptionRow.customer_id == customer_id,
            SubscriptionRow.status != SubscriptionStatus.CANCELED.value,
        )
    )
    if live is not None:
        words = f"the subscription {live} is live: cancel it first"
        raise Conflict(words, code="SUBSCRIPTION_LIVE")
    under_way = await session.scalar(
        select(ChangeRow.id).where(
            ChangeRow.customer_id == customer_id,
            ChangeRow.status.in_((*UNSETTLED, AWAITING_CHECKOUT, AWAITING_APPROVAL)),
        )
    )
    if under_way is not None:
        words = f"the change {under_way} is not settled yet: wait for it, or abandon it"
        raise Conflict(words, code="CHANGE_IN_PROGRESS")
