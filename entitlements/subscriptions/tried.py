"""Trials as stored: begun and settled in the transaction of whatever it follows from."""

from collections.abc import Iterable
from datetime import datetime

import msgspec
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from entitlements.audit import ledger
from entitlements.audit.ledger import Actor
from entitlements.catalog.model import Catalog, TrialEnd
from entitlements.kernel.ids import new_id
from entitlements.kernel.money import Money
from entitlements.notices import outbox
from entitlements.notices.events import Event
from entitlements.subscriptions.change import ChangePlan
from entitlements.subscriptions.lines import held_mrr_minor
from entitlements.subscriptions.records import load_state, record
from entitlements.subscriptions.state import TrialStatus
from entitlements.subscriptions.tables import ChangeRow, CustomerRow, TrialRow
from entitlements.subscriptions.trials import settled


async def begin_trials(
    session: AsyncSession,
    now: datetime,
    row: CustomerRow,
    change: ChangeRow,
    plan: ChangePlan,
    subscription_id: str,
) -> None:
    """Store the trials that a change begins; what a provider has begun ends when it says."""
    for planned in plan.trials:
        trial = TrialRow(
            id=new_id("trl"),
            customer_id=row.id,
            product_id=plan.product_id,
            subscription_id=subscription_id,
            package_id=planned.package_id,
            version=planned.version,
            status=TrialStatus.ACTIVE.value,
            started_at=plan.effective_at,
            ends_at=planned.ends_at,
            at_end=planned.at_end.value,
            with_subscription=planned.with_subscription,
            quantities=dict(planned.quantities),
            success_criteria=list(planned.success_criteria),
            change_id=change.id,
        )
        session.add(trial)
        await session.flush()
        await _record(session, now, Actor(change.created_by), row, trial, "started", change.reason)


async def settle_trials(
    session: AsyncSession,
    catalog: Catalog,
    now: datetime,
    row: CustomerRow,
    *,
    actor: Actor = ledger.SYSTEM,
    change_id: str | None = None,
) -> None:
    """Write down what has become of a customer's trials by what is held now (`trials.settled`).

    `change_id` is the change that made it so; without one it is the provider that has begun to
    charge, and the monthly revenue begins with it. Raise the customer's revision before.
    """
    rows = await active_trials(session, row.id)
    if not rows:
        return
    await session.flush()
    state = await load_state(session, row)
    trials = {trial.id: trial for trial in state.trials}
    held = {s.id: s for s in state.subscriptions}
    told: set[str] = set()
    for trial in rows:
        subscription = held.get(trial.subscription_id)
        then = settled(catalog, trials[trial.id], subscription)
        trial.with_subscription, trial.ends_at = then.with_subscription, then.ends_at
        if then.active:
            continue
        mrr = None
        if then.status is TrialStatus.CONVERTED:
            trial.conversion_change_id = change_id
            if change_id is None and subscription is not None and subscription.id not in told:
                mrr = Money(held_mrr_minor(catalog, subscription), subscription.currency)
                told.add(subscription.id)
        await end_trial(session, now, row, trial, then.status, actor=actor, mrr=mrr)


async def end_trial(
    session: AsyncSession,
    now: datetime,
    row: CustomerRow,
    trial: TrialRow,
    status: TrialStatus,
    *,
    actor: Actor = ledger.SYSTEM,
    reason: str | None = None,
    mrr: Money | None = None,
) -> None:
    trial.status, trial.settled_at = status.value, now
    await _record(session, now, actor, row, trial, status.value, reason, mrr)


async def extended(
    session: AsyncSession,
    now: datetime,
    row: CustomerRow,
    trial: TrialRow,
    ends_at: datetime,
    *,
    actor: Actor,
    reason: str,
) -> None:
    """A later end; 3 days before it is told again."""
    before = trial.ends_at
    trial.ends_at, trial.notice_given_at = ends_at, None
    await _record(session, now, actor, row, trial, "extended", reason, before={"ends_at": before})


async def active_trials(session: AsyncSession, customer_id: str) -> Iterable[TrialRow]:
    return (
        await session.scalars(
            select(TrialRow)
            .where(TrialRow.customer_id == customer_id, TrialRow.status == TrialStatus.ACTIVE.value)
            .order_by(TrialRow.id)
        )
    ).all()


async def _record(
    session: AsyncSession,
    now: datetime,
    actor: Actor,
    row: CustomerRow,
    trial: TrialRow,
    what: str,
    reason: str | None,
    mrr: Money | None = None,
    before: object = None,
) -> None:
    """The ledger's entry, and word to who listens: what the customer may do can be another now."""
    await record(
        session,
        now,
        actor,
        row,
        f"trial.{what}",
        object_type="trial",
        object_id=trial.id,
        before=before,
        after={
            "package": f"{trial.package_id}@{trial.version}",
            "status": trial.status,
            "ends_at": trial.ends_at,
            "at_end": TrialEnd(trial.at_end),
            "quantities": msgspec.to_builtins(trial.quantities),
            "success_criteria": trial.success_criteria,
        },
        reason=reason,
        mrr_delta=mrr,
    )
    await outbox.append(session, Event.ENTITLEMENTS_CHANGED, now, row.id, row.revision)
