"""New subscriptions: the items, the anchor, the trial, and the first invoice."""

from entitlements.sandbox import changes, customers, invoice_items, invoices, payments
from entitlements.sandbox.errors import Json, invalid, not_covered
from entitlements.sandbox.events import emit, now
from entitlements.sandbox.periods import containing
from entitlements.sandbox.routes import Call, endpoint
from entitlements.sandbox.shapes import render
from entitlements.sandbox.store import Transaction, make_id
from entitlements.sandbox.subscriptions import (
    DAY,
    ITEM,
    SETTINGS,
    changing,
    keep,
    refuse_while_advancing,
    set_cancellation,
    set_fields,
)

_TWO_YEARS = 2 * 366 * DAY


@endpoint(
    "POST",
    "/v1/subscriptions",
    "SubscriptionCreateParams",
    f"{SETTINGS} {ITEM} customer currency payment_behavior trial_end trial_period_days "
    "billing_cycle_anchor proration_behavior billing_mode.type billing_mode.flexible",
)
def create_subscription(call: Call) -> Json:
    tx, p = call.tx, call.params
    for param in ("customer", "items"):
        if not p.get(param):
            raise invalid(f"Missing required param: {param}.", param, "parameter_missing")
    customer = customers.customer_of(tx, p["customer"])
    behaviour = p.get("payment_behavior", "allow_incomplete")
    if behaviour == "pending_if_incomplete":
        raise invalid(
            "pending_if_incomplete can only be used when a subscription is updated.",
            "payment_behavior",
        )
    refuse_while_advancing(tx, customer)
    sub, charges = draft(tx, customer, p)
    customers.settle_currency(tx, customer, sub["currency"])
    keep(tx, sub)
    emit(tx, "customer.subscription.created", sub)
    with changing(tx, sub):
        waiting = invoice_items.pending_items(tx, customer["id"], sub["id"])
        at = now(tx, sub)
        if charges or waiting:
            _first_invoice(tx, customer, sub, charges, waiting, at, behaviour)
        else:
            sub["status"] = "active"
    return render(tx, sub)


def draft(tx: Transaction, customer: Json, p: Json, name: str = "items") -> tuple[Json, list[Json]]:
    """A new subscription as asked for and the lines of its first invoice; nothing is saved."""
    at = now(tx, customer)
    if p.get("billing_mode", {}).get("type", "flexible") != "flexible":
        raise not_covered("billing_mode classic", "billing_mode[type]")
    items = [changes.new_item(tx, given, at, f"{name}[{i}]") for i, given in enumerate(p["items"])]
    currency = changes.check_items(tx, items, p.get("currency"), name)
    sub = _blank(customer, at, currency) | {"_items": items}
    set_fields(tx, sub, customer, p)
    sub["trial_end"] = _trial_end(p, at)
    prorates = p.get("proration_behavior", "create_prorations") != "none"
    if sub["trial_end"]:
        sub |= {"trial_start": at, "billing_cycle_anchor": sub["trial_end"], "status": "trialing"}
        period = (at, sub["trial_end"])
        for item in items:
            item |= {"current_period_start": at, "current_period_end": sub["trial_end"]}
        charges = [changes.trial_line(tx, sub, item, period) for item in items]
    else:
        sub["billing_cycle_anchor"] = _first_anchor(tx, p, items, at)
        anchor = sub["billing_cycle_anchor"]
        charges = [
            line
            for item in items
            for line in changes.first_charge(tx, sub, item, anchor, at, prorates=prorates)
        ]
    set_cancellation(sub, p, at)
    return sub, charges


def _trial_end(p: Json, at: int) -> int | None:
    end = p.get("trial_end")
    if "trial_period_days" in p:
        if end is not None:
            raise invalid("Pass trial_end or trial_period_days, not both.", "trial_period_days")
        if not 0 <= p["trial_period_days"] <= 730:
            raise invalid("Must be between 0 and 730.", "trial_period_days")
        return at + p["trial_period_days"] * DAY if p["trial_period_days"] else None
    if end in (None, "now"):
        return None
    if end <= at:
        raise invalid(
            "Invalid timestamp: must be an integer Unix timestamp in the future.", "trial_end"
        )
    if end > at + _TWO_YEARS:
        raise invalid(
            "Invalid timestamp: can be no more than two years in the future.", "trial_end"
        )
    return int(end)


def _first_anchor(tx: Transaction, p: Json, items: list[Json], at: int) -> int:
    anchor = p.get("billing_cycle_anchor")
    if anchor is None:
        return at
    if anchor <= at:
        raise invalid("billing_cycle_anchor must be in the future.", "billing_cycle_anchor")
    for item in items:
        recurring = changes.price_of(tx, item)["recurring"]
        _, end = containing(anchor, recurring, at)
        if anchor > end:
            raise invalid(
                "billing_cycle_anchor cannot be later than the next natural billing date.",
                "billing_cycle_anchor",
            )
    return int(anchor)


def _blank(customer: Json, at: int, currency: str) -> Json:
    return {
        "id": make_id("sub"),
        "object": "subscription",
        "automatic_tax": {"disabled_reason": None, "enabled": False, "liability": None},
        "billing_cycle_anchor": at,
        "billing_mode": {
            "type": "flexible",
            "flexible": {"proration_discounts": "included"},
            "updated_at": at,
        },
        "billing_schedules": [],
        "cancel_at": None,
        "cancel_at_period_end": False,
        "canceled_at": None,
        "cancellation_details": {
            "comment": None,
            "feedback": None,
            "feedback_option": None,
            "reason": None,
        },
        "collection_method": "charge_automatically",
        "created": at,
        "currency": currency,
        "customer": customer["id"],
        "default_payment_method": None,
        "default_tax_rates": [],
        "description": None,
        "discounts": [],
        "ended_at": None,
        "invoice_settings": {
            "account_tax_ids": None,
            "custom_fields": None,
            "description": None,
            "footer": None,
            "issuer": {"account": None, "type": "self"},
        },
        "latest_invoice": None,
        "livemode": False,
        "metadata": {},
        "payment_settings": {
            "payment_method_options": None,
            "payment_method_types": None,
            "save_default_payment_method": "off",
        },
        "schedule": None,
        "start_date": at,
        "status": "incomplete",
        "test_clock": customer["test_clock"],
        "trial_end": None,
        "trial_settings": {
            "end_behavior": {
                "billing_cycle_anchor": "now",
                "missing_payment_method": "create_invoice",
            }
        },
        "trial_start": None,
        "_items": [],
        "_pending": None,
        "_trial_noticed": False,
        "_upcoming_for": None,
        "_due": None,
    }


def _first_invoice(
    tx: Transaction,
    customer: Json,
    sub: Json,
    charges: list[Json],
    waiting: list[Json],
    at: int,
    behaviour: str,
) -> None:
    invoice = invoices.create(
        tx,
        customer,
        sub,
        charges,
        "subscription_create",
        at,
        items=sub["_items"],
        waiting=waiting,
    )
    invoices.finalize(tx, invoice)
    if invoice["status"] == "paid":
        return
    method = payments.default_method(tx, invoice)
    if behaviour == "default_incomplete":
        payments.await_confirmation(tx, invoice, method)
        return
    if method is None:
        raise invalid(payments.NO_METHOD.message, code="resource_missing")
    outcome = payments.attempt(tx, invoice)
    if outcome != payments.PAID and behaviour == "error_if_incomplete":
        raise payments.refusal(tx, invoice, outcome)
