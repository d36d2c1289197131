"""From a plan to what the payment provider is asked for, and from its answer to a comparison."""

from collections.abc import Sequence

import msgspec
import structlog
from prometheus_client import Counter

from entitlements.subscriptions.change import ChangePlan
from entitlements.subscriptions.invoice_line import (
    TOLERANCE_MINOR,
    Line,
    LineDifference,
    differences,
)
from entitlements.subscriptions.payments import (
    BillingCustomer,
    BillingOrder,
    HeldSlot,
    ProviderInvoice,
)
from entitlements.subscriptions.state import CustomerState, Subscription
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
        customer=BillingCustomer(
            id=row.id,
            key=row.sequence,
            name=row.name,
            email=row.email,
            provider_id=row.provider_id,
            sandbox_payment_method=row.sandbox_payment_method,
        ),
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
    )


def _held_slots(held: Subscription, plan: ChangePlan) -> Sequence[HeldSlot]:
    items = {item.package_id: item for item in held.items}
    return [
        HeldSlot(slot, items[slot.package_id].charges[slot.charge_id].provider_item_id)
        for slot in plan.before
        if not slot.metered and slot.package_id in items
    ]


def tell_differences(engine: Sequence[Line], provided: ProviderInvoice, **about: str) -> None:
    """Where our engine and the provider do not agree, somebody has to look."""
    if provided.lines_complete:
        found = differences(engine, provided.lines)
    else:
        total = sum(line.amount_minor for line in engine)
        off = abs(total - provided.total_minor) > TOLERANCE_MINOR * len(engine)
        found = [LineDifference("total", total, provided.total_minor)] if off else []
    if found:
        DIFFERENCES.inc(len(found))
        log.error("provider_differs", differences=msgspec.to_builtins(found), **about)
