"""From a plan to what the payment provider is asked for, and from its answer to a comparison."""

from collections.abc import Sequence

import msgspec
import structlog
from prometheus_client import Counter

from entitlements.catalog.model import Catalog, ProrationMode, TrialEnd
from entitlements.subscriptions.change import ChangePlan
from entitlements.subscriptions.invoice_line import (
    TOLERANCE_MINOR,
    Line,
    LineDifference,
    differences,
)
from entitlements.subscriptions.lines import Book, Slot, replacements, slots_of
from entitlements.subscriptions.payments import (
    BillingCustomer,
    BillingOrder,
    Future,
    HeldSlot,
    ProviderInvoice,
    ProviderItem,
    ProviderSubscription,
)
from entitlements.subscriptions.queue import roll
from entitlements.subscriptions.state import CustomerState, Subscription, billed_outside
from entitlements.subscriptions.tables import CustomerRow

log = structlog.get_logger()

DIFFERENCES = Counter(
    "entitlements_provider_differences_total",
    "Invoice lines on which our engine and the payment provider did not agree.",
)


def order_of(row: CustomerRow, state: CustomerState, plan: ChangePlan) -> BillingOrder:
    """What a customer's subscription is to become by a plan."""
    held = next((s for s in state.subscriptions if s.id == plan.subscription_id), None)
    return BillingOrder(
        customer=billing_customer(row),
        subscription_provider_id=held.provider_id if held else None,
        currency=plan.currency,
        interval=plan.interval,
        before=tuple(_held_slots(held, plan)) if held else (),
        after=plan.after,
        at=plan.at,
        proration=plan.proration,
        new_period=plan.new_period,
        total_minor=plan.invoice_total_minor,
        replaces=plan.replaces,
        release=held is not None and (bool(held.queue) or held.unaligned),
        trial_ends_at=plan.trial_ends_at if held is None else None,
        trial_expires=any(trial.at_end is TrialEnd.EXPIRE for trial in plan.trials),
        ends_trial=plan.ends_trial,
    )


def future_of(catalog: Catalog, state: CustomerState, held: Subscription) -> Future:
    """What the provider is to do by itself at the end of a subscription's period."""
    trial_ends_at = held.trial_ends_at if held.on_trial else None
    if held.cancel_at is not None:
        return Future(currency=held.currency, cancel_at=held.cancel_at, trial_ends_at=trial_ends_at)
    rolled = roll(catalog, state, held, held.queue)
    if not rolled.applied:
        return Future(currency=held.currency, trial_ends_at=trial_ends_at)
    then = rolled.held
    if billed_outside(catalog, then):
        return Future(currency=held.currency, billing_ends=True)
    slots = tuple(slots_of(catalog, then.items, then.quantities))
    now = tuple(slots_of(catalog, held.items, held.quantities))
    if slots == now and then.interval is held.interval:  # what changes is not paid for
        return Future(currency=held.currency)
    return Future(
        currency=held.currency,
        slots=slots,
        interval=then.interval,
        new_anchor=then.interval is not held.interval,
    )


def correction_of(
    catalog: Catalog, row: CustomerRow, held: Subscription, provided: ProviderSubscription
) -> BillingOrder | None:
    """What brings the provider's items in line with ours; None where they are.

    They differ where a queue took effect while the provider had not been told of it: it has charged
    its renewal for what was held before. All of that period is credited, and charged as it should
    have been.
    """
    after = tuple(slots_of(catalog, held.items, held.quantities))
    before = [
        HeldSlot(_slot_of(i, i.package_id, i.version, i.charge_id), i.id)
        for i in provided.items
        if i.package_id and i.version and i.charge_id
    ]
    provided_slots = [h.slot for h in before]
    ours = {_paid(s) for s in after if s.metered or s.billable}
    theirs = {_paid(s) for s in provided_slots if s.metered or s.billable}
    other_interval = provided.interval is not held.interval
    if ours == theirs and not other_interval:
        return None
    book = Book(catalog, held.currency)
    return BillingOrder(
        customer=billing_customer(row),
        subscription_provider_id=provided.id,
        currency=held.currency,
        interval=held.interval,
        before=tuple(before),
        after=after,
        at=provided.period.start,
        proration=ProrationMode.INVOICE_NOW,
        new_period=other_interval,
        total_minor=book.recurring(after, held.interval)
        - book.recurring(provided_slots, provided.interval),
        replaces=replacements(catalog, provided_slots, after, held.currency, provided.interval),
        release=True,
    )


def _paid(slot: Slot) -> object:
    return slot.key, slot.version, slot.price_factor, slot.billable


def _slot_of(item: ProviderItem, package_id: str, version: int, charge_id: str) -> Slot:
    quantity = item.quantity or 0
    return Slot(
        package_id,
        version,
        charge_id,
        quantity,
        quantity,
        metered=item.metered,
        price_factor=item.price_factor,
    )


def billing_customer(row: CustomerRow) -> BillingCustomer:
    """Whom to bill, for a customer that is stored."""
    return BillingCustomer(
        id=row.id,
        key=row.sequence,
        name=row.name,
        email=row.email,
        provider_id=row.provider_id,
        sandbox_payment_method=row.sandbox_payment_method,
    )


def _held_slots(held: Subscription, plan: ChangePlan) -> Sequence[HeldSlot]:
    items = {item.package_id: item for item in held.items}
    return [
        HeldSlot(slot, items[slot.package_id].charges[slot.charge_id].provider_item_id)
        for slot in plan.before
        if slot.package_id in items and slot.charge_id in items[slot.package_id].charges
    ]


def tell_differences(
    engine: Sequence[Line], provided: ProviderInvoice, **about: str
) -> Sequence[LineDifference]:
    """Where our engine and the provider do not agree, somebody has to look."""
    if provided.lines_complete:
        found = differences(engine, provided.licensed_lines)
    else:
        total = sum(line.amount_minor for line in engine)
        off = abs(total - provided.total_minor) > TOLERANCE_MINOR * len(engine)
        found = [LineDifference("total", total, provided.total_minor)] if off else []
    if found:
        DIFFERENCES.inc(len(found))
        log.error("provider_differs", differences=msgspec.to_builtins(found), **about)
    return found
