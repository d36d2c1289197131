"""Rows and state: how a customer is loaded into `CustomerState`, and how a change is stored."""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import (
    BindParameter,
    ColumnElement,
    FromClause,
    Select,
    bindparam,
    delete,
    exists,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from entitlements.audit import ledger
from entitlements.audit.ledger import Actor
from entitlements.catalog.model import EntitlementValue, GrantMode, TrialEnd
from entitlements.grants.overrides import Override
from entitlements.grants.tables import OverrideRow
from entitlements.kernel.clock import wall_now
from entitlements.kernel.errors import Conflict, NotFound
from entitlements.kernel.ids import new_id
from entitlements.kernel.money import Money
from entitlements.kernel.period import Interval, Period
from entitlements.notices import outbox
from entitlements.notices.events import Event
from entitlements.subscriptions.change import ChangePlan
from entitlements.subscriptions.grandfathering import LIST, Calendar
from entitlements.subscriptions.invoice_line import Line
from entitlements.subscriptions.payments import (
    ProviderCustomer,
    ProviderInvoice,
    ProviderSubscription,
)
from entitlements.subscriptions.queue import Dropped
from entitlements.subscriptions.request import ChangeRequest, Queued
from entitlements.subscriptions.state import (
    CustomerState,
    HeldCharge,
    Item,
    Subscription,
    SubscriptionStatus,
    Trial,
    TrialStatus,
)
from entitlements.subscriptions.tables import (
    ChangeRow,
    CustomerRow,
    InvoiceRow,
    SubscriptionItemRow,
    SubscriptionRow,
    TrialRow,
)

AWAITING_CHECKOUT = "awaiting_checkout"
AWAITING_APPROVAL = "awaiting_approval"

CALENDARS_KEPT = 24
"""How many times a subscription may be billed another way before the oldest is forgotten."""

UNSETTLED = ("pending", "awaiting_payment")
"""Statuses in which a change is in flight: no other may begin."""


async def lock_customer(session: AsyncSession, customer_id: str) -> CustomerRow | None:
    """The customer's row, locked until the transaction ends (SQLite has one writer anyway)."""
    return await session.scalar(
        select(CustomerRow).where(CustomerRow.id == customer_id).with_for_update()
    )


async def locked_customer(session: AsyncSession, customer_id: str) -> CustomerRow:
    """The same, `NotFound` where there is none."""
    row = await lock_customer(session, customer_id)
    if row is None:
        raise NotFound("customer", customer_id)
    return row


async def record(
    session: AsyncSession,
    at: datetime,
    actor: Actor,
    row: CustomerRow,
    action: str,
    *,
    object_type: str = "customer",
    object_id: str | None = None,
    before: object = None,
    after: object = None,
    reason: str | None = None,
    mrr_delta: Money | None = None,
) -> None:
    """An entry in the stream of a customer whose row the transaction has locked.

    That a change was applied is told to subscribers, too: raise the customer's revision before.
    """
    await ledger.append(
        session,
        stream=ledger.customer_stream(row.id),
        at=at,
        actor=actor,
        action=action,
        object_type=object_type,
        object_id=object_id or row.id,
        before=before,
        after=after,
        reason=reason,
        mrr_delta=mrr_delta,
    )
    if action == "change.applied" and object_id is not None:
        await tell_change_applied(session, at, row, object_id)


async def tell_change_applied(
    session: AsyncSession, at: datetime, row: CustomerRow, change_id: str
) -> None:
    """The notice of a change that has taken effect, and of what it may give or take."""
    await outbox.append(session, Event.CHANGE_APPLIED, at, row.id, row.revision, changeId=change_id)
    await outbox.append(session, Event.ENTITLEMENTS_CHANGED, at, row.id, row.revision)


async def lock_free(session: AsyncSession, customer_ids: Collection[str]) -> Sequence[CustomerRow]:
    """Some customers until the transaction ends, in the order of their ids, those left out whom
    somebody else works on."""
    query = select(CustomerRow).where(CustomerRow.id.in_(customer_ids)).order_by(CustomerRow.id)
    return (await session.scalars(query.with_for_update(skip_locked=True))).all()


Reading = AsyncSession | AsyncConnection
_IDS: BindParameter[list[str]] = bindparam("ids", expanding=True)


def rows_by(table: FromClause, column: str) -> Select[Any]:
    """Its plain rows by some `ids`: made once, and without the ORM, it takes half the time."""
    return select(table).where(table.c[column].in_(_IDS)).order_by(table.c.id)


_SUBSCRIPTIONS = rows_by(SubscriptionRow.__table__, "customer_id")
_ITEMS = rows_by(SubscriptionItemRow.__table__, "subscription_id")
_OVERRIDES = rows_by(OverrideRow.__table__, "customer_id")
_TRIALS = rows_by(TrialRow.__table__, "customer_id")


async def _found(session: Reading, statement: Select[Any], ids: Collection[str]) -> Sequence[Any]:
    return (await session.execute(statement, {"ids": list(ids)})).all() if ids else ()


async def load_states(
    session: Reading, customers: Iterable[CustomerRow]
) -> dict[str, CustomerState]:
    """The states of some customers, in five statements at most however many they are."""
    if isinstance(session, AsyncSession) and (session.new or session.dirty or session.deleted):
        await session.flush()
    rows = {row.id: row for row in customers}
    subscriptions = await _found(session, _SUBSCRIPTIONS, rows)
    items: dict[str, list[Item]] = {row.id: [] for row in subscriptions}
    for row in await _found(session, _ITEMS, items):
        items[row.subscription_id].append(item_of(row))
    queues = await _queues(session, [s.id for s in subscriptions if s.future_generation])
    held: dict[str, list[Subscription]] = {customer_id: [] for customer_id in rows}
    for subscription in subscriptions:
        queue = tuple(queues.get(subscription.id, ()))
        state = held_of(subscription, tuple(items[subscription.id]), queue)
        held[subscription.customer_id].append(state)
    overrides: dict[str, list[Override]] = {customer_id: [] for customer_id in rows}
    for override in await _found(session, _OVERRIDES, rows):
        overrides[override.customer_id].append(override_of(override))
    trials: dict[str, list[Trial]] = {customer_id: [] for customer_id in rows}
    for trial in await _found(session, _TRIALS, rows):
        trials[trial.customer_id].append(_trial(trial))
    return {
        row.id: CustomerState(
            id=row.id,
            currency=row.currency,
            revision=row.revision,
            subscriptions=tuple(held[row.id]),
            provider_id=row.provider_id,
            has_payment_method=bool(row.payment_method_id or row.sandbox_payment_method),
            credit_balance_minor=row.credit_balance_minor,
            overrides=tuple(overrides[row.id]),
            trials=tuple(trials[row.id]),
        )
        for row in rows.values()
    }


async def load_state(session: AsyncSession, customer: CustomerRow) -> CustomerState:
    return (await load_states(session, [customer]))[customer.id]


async def _queues(session: Reading, subscription_ids: Sequence[str]) -> dict[str, list[Queued]]:
    """What waits for the end of the period, by subscription, in the order of asking.

    A scheduled cancellation is no part of it: that is the subscription's `cancel_at`.
    """
    found: dict[str, list[Queued]] = {}
    if not subscription_ids:
        return found
    columns = (
        ChangeRow.id,
        ChangeRow.subscription_id,
        ChangeRow.description,
        ChangeRow.effective_at,
        ChangeRow.request,
        ChangeRow.levels,
    )
    for row in await session.execute(
        select(*columns)
        .where(ChangeRow.status == "scheduled", ChangeRow.subscription_id.in_(subscription_ids))
        .order_by(ChangeRow.id)
    ):
        request = msgspec.convert(row.request, ChangeRequest)
        if not request.cancel:
            entry = Queued(
                change_id=row.id,
                description=row.description,
                effective_at=row.effective_at,
                request=request,
                levels=row.levels or {},
            )
            found.setdefault(row.subscription_id, []).append(entry)
    return found


def override_of(row: OverrideRow) -> Override:
    return Override(
        id=row.id,
        feature_id=row.feature_id,
        mode=GrantMode(row.mode),
        value=msgspec.convert(row.value, EntitlementValue),
        reason=row.reason,
        created_by=row.created_by,
        created_at=row.created_at,
        ends_at=row.ends_at,
    )


def _trial(row: TrialRow) -> Trial:
    return Trial(
        id=row.id,
        product_id=row.product_id,
        subscription_id=row.subscription_id,
        package_id=row.package_id,
        version=row.version,
        status=TrialStatus(row.status),
        started_at=row.started_at,
        ends_at=row.ends_at,
        at_end=TrialEnd(row.at_end),
        with_subscription=row.with_subscription,
        quantities=row.quantities,
        success_criteria=tuple(row.success_criteria),
    )


def item_of(row: SubscriptionItemRow) -> Item:
    return Item(
        id=row.id,
        package_id=row.package_id,
        version=row.version,
        entitlements_version=row.entitlements_version,
        quantity=row.quantity,
        started_at=row.started_at,
        charges=msgspec.convert(row.charges, dict[str, HeldCharge]),
        price_factor=LIST if row.price_factor is None else row.price_factor,
        cap_percent=row.cap_percent,
        migration_id=row.migration_id,
    )


def held_of(
    row: SubscriptionRow, items: tuple[Item, ...], queue: tuple[Queued, ...]
) -> Subscription:
    return Subscription(
        id=row.id,
        product_id=row.product_id,
        status=SubscriptionStatus(row.status),
        interval=Interval(row.interval),
        currency=row.currency,
        period=Period(row.period_start, row.period_end),
        anchor=row.anchor,
        started_at=row.started_at,
        items=items,
        quantities=row.quantities,
        pending_lines=msgspec.convert(row.pending_lines, tuple[Line, ...]),
        queue=queue,
        unaligned=row.align_due_at is not None,
        provider_id=row.provider_id,
        trial_ends_at=row.trial_ends_at,
        cancel_at=row.cancel_at,
        past_calendars=msgspec.convert(row.past_calendars, tuple[Calendar, ...]),
        past_due_since=row.past_due_since,
        ended_at=row.ended_at,
    )


async def store_plan(
    session: AsyncSession,
    customer: CustomerRow,
    plan: ChangePlan,
    provided: ProviderSubscription | None,
) -> SubscriptionRow:
    """Make a change true: the items it planned, under the item ids that the provider gave.

    `provided` is None where nothing that is held has a charge: the provider knows nothing of it.
    """
    row = await session.get(SubscriptionRow, plan.subscription_id) if plan.subscription_id else None
    if row is None:
        row = SubscriptionRow(
            id=new_id("sub"),
            customer_id=customer.id,
            product_id=plan.product_id,
            started_at=plan.effective_at,
            currency=plan.currency,
        )
        session.add(row)
    elif plan.new_period and not plan.on_trial:
        keep_calendar(row, plan.effective_at)
    row.interval = plan.interval
    row.quantities = dict(plan.quantities)
    row.pending_lines = msgspec.to_builtins(plan.pending_after)
    if provided is not None:
        row.provider_id = provided.id
        mirror_subscription(row, provided)
    else:
        _keep_outside(row, plan)
    await session.flush()
    provider_items = {i.key: i.id for i in provided.items} if provided else {}
    await store_items(
        session,
        row,
        [
            Item(
                id=target.item_id or "",
                package_id=target.package_id,
                version=target.version,
                entitlements_version=target.entitlements_version,
                quantity=target.quantity,
                started_at=plan.effective_at,
                price_factor=target.price_factor,
                cap_percent=target.cap_percent,
                migration_id=target.migration_id,
                charges={
                    slot.charge_id: HeldCharge(
                        provider_items.get(slot.key, ""), plan.charged_at.get(slot.key)
                    )
                    for slot in plan.after
                    if slot.package_id == target.package_id
                },
            )
            for target in plan.items
        ],
    )
    await move_queue(session, row)
    look_at_policies(row)
    return row


def _keep_outside(row: SubscriptionRow, plan: ChangePlan) -> None:
    """What no provider tells of a subscription that is billed outside. An end asked for stays."""
    row.provider_id = None
    row.status = SubscriptionStatus.ACTIVE.value
    row.period_start, row.period_end = plan.period.start, plan.period.end
    if plan.new_period:
        row.anchor = plan.period.start
    row.trial_ends_at = row.past_due_since = row.ended_at = None


async def store_items(
    session: AsyncSession,
    row: SubscriptionRow,
    items: Sequence[Item],
    stored_now: Iterable[SubscriptionItemRow] | None = None,
) -> None:
    """Make a subscription hold these items; what has no row yet begins at its `started_at`.

    `stored_now` are its rows, where they have been loaded.
    """
    if stored_now is None:
        query = select(SubscriptionItemRow).where(SubscriptionItemRow.subscription_id == row.id)
        stored_now = await session.scalars(query)
    there = {item.id: item for item in stored_now}
    gone = there.keys() - {item.id for item in items}
    if gone:
        await session.execute(delete(SubscriptionItemRow).where(SubscriptionItemRow.id.in_(gone)))
    for item in items:
        stored = there.get(item.id)
        if stored is None:
            stored = SubscriptionItemRow(
                id=item.id or new_id("itm"), subscription_id=row.id, started_at=item.started_at
            )
            session.add(stored)
        stored.package_id = item.package_id
        stored.version = item.version
        stored.entitlements_version = item.entitlements_version
        stored.price_factor = None if item.price_factor == LIST else item.price_factor
        stored.cap_percent = item.cap_percent
        stored.migration_id = item.migration_id
        stored.quantity = item.quantity
        stored.charges = msgspec.to_builtins(item.charges)


def keep_calendar(row: SubscriptionRow, until: datetime) -> None:
    """It is billed by another calendar from an instant on: renewals until then still count."""
    past = Calendar(row.anchor, Interval(row.interval), until)
    kept = row.past_calendars[1 - CALENDARS_KEPT :]
    row.past_calendars = [*kept, msgspec.to_builtins(past)]


def raise_future(row: SubscriptionRow) -> None:
    """What is to happen at the period's end has changed: the provider is to be told, as soon as
    nobody is telling it something."""
    row.future_generation += 1
    row.align_due_at = row.align_due_at or wall_now()
    look_at_policies(row)


def look_at_policies(row: SubscriptionRow) -> None:
    """What is held, or the period, is another: whether a policy moves something is looked at."""
    row.policies_due_at = row.started_at


async def make_room(session: AsyncSession, state: CustomerState, plan: ChangePlan) -> None:
    """What is planned at the provider stands in the way of a change at once: it is taken away
    first, and put back when the change is settled, however it ends."""
    held = next((s for s in state.subscriptions if s.id == plan.subscription_id), None)
    if held is not None and not plan.waits and (held.queue or held.unaligned):
        raise_future(await session.get_one(SubscriptionRow, held.id))


async def move_queue(session: AsyncSession, row: SubscriptionRow) -> None:
    """What waits for the end of the period follows it."""
    await session.execute(
        update(ChangeRow)
        .where(ChangeRow.subscription_id == row.id, ChangeRow.status == "scheduled")
        .values(effective_at=row.period_end)
    )


async def drop(
    session: AsyncSession,
    at: datetime,
    actor: Actor,
    customer: CustomerRow,
    dropped: Iterable[Dropped],
) -> None:
    """Queued changes that do not wait any more, each with its reason."""
    for each in dropped:
        change = await session.get_one(ChangeRow, each.change_id, with_for_update=True)
        if change.status != "scheduled":
            continue
        change.status, change.settled_at = "canceled", at
        change.failure_code, change.failure_message = each.code, each.reason
        await record(
            session,
            at,
            actor,
            customer,
            "change.canceled",
            object_type="change",
            object_id=change.id,
            after={"status": change.status, "code": each.code},
            reason=each.reason,
        )


def mirror_subscription(
    row: SubscriptionRow, provided: ProviderSubscription
) -> dict[str, tuple[object, object]]:
    """Take over what only the provider decides; answers what changed, before and after.

    What is past due failed first when its period began: that is when a renewal is charged.
    """
    past_due = provided.status is SubscriptionStatus.PAST_DUE
    mirrored: dict[str, object] = {
        "status": provided.status.value,
        "period_start": provided.period.start,
        "period_end": provided.period.end,
        "anchor": provided.anchor,
        "cancel_at": provided.cancel_at,
        "trial_ends_at": provided.trial_ends_at,
        "ended_at": provided.ended_at,
        "past_due_since": (row.past_due_since or provided.period.start) if past_due else None,
    }
    if row.align_due_at is not None:  # the provider has not been told yet whether it ends
        del mirrored["cancel_at"]
        trialing = SubscriptionStatus.TRIALING
        if row.status == provided.status == trialing:  # nor that it is free for longer
            for name in ("period_end", "anchor", "trial_ends_at"):
                del mirrored[name]
    changed = {
        name: (getattr(row, name), value)
        for name, value in mirrored.items()
        if getattr(row, name) != value
    }
    for name, (_, value) in changed.items():
        setattr(row, name, value)
    return changed


def mirror_customer(row: CustomerRow, provided: ProviderCustomer) -> bool:
    """Take over the card and the credit that the provider holds; whether anything changed."""
    mirrored: dict[str, object] = {
        "provider_id": provided.id,
        "payment_method_id": provided.payment_method_id,
        "card_brand": provided.brand,
        "card_last4": provided.last4,
        "card_expires": provided.expires,
        "credit_balance_minor": -provided.balance_minor,
    }
    changed = [name for name, value in mirrored.items() if getattr(row, name) != value]
    for name in changed:
        setattr(row, name, mirrored[name])
    return bool(changed)


async def mirror_invoice(
    session: AsyncSession,
    customer_id: str,
    subscription_id: str | None,
    provided: ProviderInvoice,
) -> InvoiceRow:
    """Take over an invoice as the provider has it now, known or new."""
    row = await session.scalar(select(InvoiceRow).where(InvoiceRow.provider_id == provided.id))
    if row is None:
        row = InvoiceRow(id=new_id("inv"), provider_id=provided.id, customer_id=customer_id)
        session.add(row)
    row.subscription_id = subscription_id or row.subscription_id
    row.number = provided.number
    row.status = provided.status
    row.currency = provided.currency
    row.created_at = provided.created_at
    row.total_minor = provided.total_minor
    row.amount_due_minor = provided.amount_due_minor
    row.amount_paid_minor = provided.amount_paid_minor
    row.hosted_url = provided.hosted_url
    lines = msgspec.to_builtins(list(provided.lines))
    if row.lines != lines:
        row.lines = lines
    await session.flush()
    return row


async def mirror_items(
    session: AsyncSession, row: SubscriptionRow, provided: ProviderSubscription
) -> None:
    """Take over under which ids the provider has what is held: a schedule gives new ones."""
    ids = {item.key: item.id for item in provided.items}
    for item in await session.scalars(
        select(SubscriptionItemRow).where(SubscriptionItemRow.subscription_id == row.id)
    ):
        charges = {
            charge_id: charge
            | {
                "provider_item_id": ids.get(
                    f"{item.package_id}/{charge_id}", charge["provider_item_id"]
                )
            }
            for charge_id, charge in item.charges.items()
        }
        if charges != item.charges:
            item.charges = charges


async def charged_nothing(
    session: AsyncSession, row: SubscriptionRow, keys: Collection[str]
) -> None:
    """Charges held (`package/charge`) that the provider was given anew and has not charged for:
    until the next period it gives no credit for them, and neither do we."""
    for item in await session.scalars(
        select(SubscriptionItemRow).where(SubscriptionItemRow.subscription_id == row.id)
    ):
        item.charges = {
            charge_id: charge
            | ({"charged_at": "0"} if f"{item.package_id}/{charge_id}" in keys else {})
            for charge_id, charge in item.charges.items()
        }


async def begin_period(session: AsyncSession, row: SubscriptionRow, held: Subscription) -> None:
    """A new period has begun: every charge was charged at its price, and what waited with it."""
    row.pending_lines = []
    look_at_policies(row)
    for item in held.items:
        item_row = await session.get_one(SubscriptionItemRow, item.id)
        item_row.charges = {
            charge_id: {"provider_item_id": charge.provider_item_id}
            for charge_id, charge in item.charges.items()
        }


def being_changed() -> ColumnElement[bool]:
    """Of a subscription: whether a change of its customer is under way or waits for payment."""
    return exists().where(
        ChangeRow.customer_id == SubscriptionRow.customer_id, ChangeRow.status.in_(UNSETTLED)
    )


async def unsettled_change(session: AsyncSession, customer_id: str) -> str | None:
    """The change of a customer that is under way or waits for its payment."""
    return await session.scalar(
        select(ChangeRow.id).where(
            ChangeRow.customer_id == customer_id, ChangeRow.status.in_(UNSETTLED)
        )
    )


async def refuse_while_unsettled(session: AsyncSession, customer_id: str) -> None:
    """`Conflict` where a change of the customer is under way or waits for its payment."""
    unsettled = await unsettled_change(session, customer_id)
    if unsettled is not None:
        raise Conflict(
            f"the change {unsettled} is not settled yet: wait for it, continue or abandon it",
            code="CHANGE_IN_PROGRESS",
        )


async def supersede(
    session: AsyncSession, row: CustomerRow, product_id: str, status: str, at: datetime
) -> None:
    """A new change takes the place of those of its product that wait in `status`."""
    for waiting in await session.scalars(
        select(ChangeRow).where(
            ChangeRow.customer_id == row.id,
            ChangeRow.product_id == product_id,
            ChangeRow.status == status,
        )
    ):
        waiting.status, waiting.settled_at = "canceled", at
        waiting.failure_code = "REPLACED"
        waiting.failure_message = "another change took its place"
        await record(
            session,
            at,
            ledger.SYSTEM,
            row,
            "change.canceled",
            object_type="change",
            object_id=waiting.id,
            reason=waiting.failure_message,
        )
