"""Overrides: what staff grants or takes by hand, with a reason, until an instant or for good."""

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

import msgspec
from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from entitlements.catalog.model import Catalog, EntitlementValue, GrantMode
from entitlements.grants.overrides import Override, override_issues
from entitlements.grants.tables import OverrideRow
from entitlements.kernel.clock import Clock
from entitlements.kernel.errors import Issue, NotFound, ValidationFailed
from entitlements.kernel.ids import new_id
from entitlements.kernel.period import to_second
from entitlements.storage.unit_of_work import Database
from entitlements.subscriptions.records import locked_customer, override_of, record
from entitlements.subscriptions.service import Caller

OVERRIDES_AT_MOST = 100
"""In force for one customer at a time."""

REASON_LENGTH_AT_MOST = 2000


class OverrideService:
    def __init__(
        self, database: Database, catalog: Callable[[], Awaitable[Catalog]], clock: Clock
    ) -> None:
        self._database = database
        self._catalog = catalog
        self._clock = clock

    async def set(
        self,
        caller: Caller,
        customer_id: str,
        feature_id: str,
        mode: GrantMode,
        value: EntitlementValue,
        reason: str,
        *,
        ends_at: datetime | None = None,
        days_at_most: int | None = None,
    ) -> Override:
        """Put an override in force, from this second on.

        `days_at_most` is how far away its end may be, for who may not set one for good. Raises
        `ValidationFailed` with every mistake, by the paths of `SetOverrideInput`, and `NotFound`
        for the customer.
        """
        now = self._clock.now()
        issues = _reason_issues(reason)
        feature = (await self._catalog()).features.get(feature_id)
        if feature is None:
            words = f"there is no feature {feature_id!r}"
            issues.append(Issue(("featureId",), "UNKNOWN_FEATURE", words))
        else:
            issues += override_issues(feature, mode, value)
        issues += _end_issues(ends_at, now, days_at_most)
        if issues:
            raise ValidationFailed(issues)
        async with self._database.write() as session:
            customer = await locked_customer(session, customer_id)
            await _make_room(session, customer_id, now)
            row = OverrideRow(
                id=new_id("ovr"),
                customer_id=customer_id,
                feature_id=feature_id,
                mode=mode.value,
                value=msgspec.to_builtins(value),
                reason=reason,
                created_by=caller.actor.name,
                # Whole seconds: in force for every process at once, however exact its clock is.
                created_at=to_second(now),
                ends_at=ends_at,
            )
            session.add(row)
            customer.revision += 1
            await session.flush()
            override = override_of(row)
            await record(
                session,
                now,
                caller.actor,
                customer,
                "override.set",
                object_type="override",
                object_id=row.id,
                after=_in_ledger(override),
                reason=reason,
            )
        return override

    async def end(
        self, caller: Caller, override_id: str, reason: str, *, days_at_most: int | None = None
    ) -> tuple[str, Override]:
        """End an override now; of one that is over nothing changes. Answers whose it is, too.

        Who may set overrides for `days_at_most` may end such as end within that time.
        """
        now = self._clock.now()
        if issues := _reason_issues(reason):
            raise ValidationFailed(issues)
        async with self._database.write() as session:
            customer_id = await session.scalar(
                select(OverrideRow.customer_id).where(OverrideRow.id == override_id)
            )
            if customer_id is None:
                raise NotFound("override", override_id)
            customer = await locked_customer(session, customer_id)
            row = await session.get(OverrideRow, override_id)
            if row is None:  # swept meanwhile
                raise NotFound("override", override_id)
            before = override_of(row)
            if not before.in_force(now):
                return customer_id, before
            if _end_issues(row.ends_at, now, days_at_most):
                words = f"only an admin ends what does not end within {days_at_most} days"
                raise ValidationFailed.of("id", "NOT_YOURS_TO_END", words)
            row.ends_at = to_second(now)
            customer.revision += 1
            await session.flush()
            override = override_of(row)
            await record(
                session,
                now,
                caller.actor,
                customer,
                "override.ended",
                object_type="override",
                object_id=row.id,
                before=_in_ledger(before),
                after=_in_ledger(override),
                reason=reason,
            )
        return customer_id, override


async def _make_room(session: AsyncSession, customer_id: str, now: datetime) -> None:
    """Sweep what is over, and refuse one too many."""
    of_customer = OverrideRow.customer_id == customer_id
    await session.execute(delete(OverrideRow).where(of_customer, OverrideRow.ends_at <= now))
    held = await session.scalar(select(func.count()).where(of_customer).select_from(OverrideRow))
    if (held or 0) >= OVERRIDES_AT_MOST:
        words = f"the customer has {OVERRIDES_AT_MOST} overrides in force: end one first"
        raise ValidationFailed.of("customerId", "TOO_MANY_OVERRIDES", words)


def _reason_issues(reason: str) -> list[Issue]:
    if not reason.strip():
        return [Issue(("reason",), "REASON_REQUIRED", "say why: finance will read it")]
    if len(reason) > REASON_LENGTH_AT_MOST:
        words = f"a reason has at most {REASON_LENGTH_AT_MOST} characters"
        return [Issue(("reason",), "LENGTH", words)]
    return []


def _end_issues(ends_at: datetime | None, now: datetime, days_at_most: int | None) -> list[Issue]:
    """What is wrong with the end of an override.

    >>> from datetime import UTC
    >>> now = datetime(2026, 3, 1, tzinfo=UTC)
    >>> [i.code for i in _end_issues(None, now, 90)], _end_issues(None, now, None)
    (['END_REQUIRED'], [])
    >>> [i.code for i in _end_issues(datetime(2026, 5, 30, 0, 0, 1, tzinfo=UTC), now, 90)]
    ['TOO_LATE']
    """
    if ends_at is None:
        if days_at_most is None:
            return []
        words = f"say when it ends: within {days_at_most} days"
        return [Issue(("endsAt",), "END_REQUIRED", words)]
    if ends_at <= now:
        return [Issue(("endsAt",), "IN_THE_PAST", "the instant is in the past")]
    if days_at_most is not None and ends_at > now + timedelta(days=days_at_most):
        return [Issue(("endsAt",), "TOO_LATE", f"it has to end within {days_at_most} days")]
    return []


def _in_ledger(override: Override) -> dict[str, object]:
    return {
        "feature_id": override.feature_id,
        "mode": override.mode,
        "value": override.value,
        "created_at": override.created_at,
        "ends_at": override.ends_at,
    }
