"""Subscriptions: how they are kept and shown, when something is due on them, and the settings.

incomplete → active ⇄ past_due → canceled | unpaid; trialing → active;
incomplete → incomplete_expired. `signup` makes them, `updates` changes them, `renewals` is what
time does to them, `endings` ends them.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import stripe

from entitlements.sandbox import cards, changes
from entitlements.sandbox.catalog import plan_of
from entitlements.sandbox.errors import Json, invalid, missing, not_covered
from entitlements.sandbox.events import emit
from entitlements.sandbox.routes import Call, endpoint
from entitlements.sandbox.shapes import (
    PAGE,
    in_range,
    list_object,
    merge_metadata,
    page,
    page_of,
    public,
    render,
    shape,
)
from entitlements.sandbox.store import Transaction

DAY = 86_400
ENDED = ("canceled", "incomplete_expired")
INCOMPLETE_HOURS = 23
"""How long a first payment and a pending update are waited for."""
TRIAL_NOTICE_DAYS = 3
UPCOMING_DAYS = 7
SETTINGS = (
    "default_payment_method description metadata cancel_at cancel_at_period_end off_session "
    "collection_method payment_settings.save_default_payment_method "
    "payment_settings.payment_method_types trial_settings.end_behavior.missing_payment_method "
)
ITEM = "items[].price items[].quantity items[].metadata "


@shape("subscription_item", stripe.SubscriptionItem)
def _render_item(tx: Transaction, doc: Json) -> Json:
    return doc


@shape("subscription", stripe.Subscription)
def _render_subscription(tx: Transaction, doc: Json) -> Json:
    return public(doc) | {
        "items": list_object(
            f"/v1/subscription_items?subscription={doc['id']}", shown_items(tx, doc, doc["_items"])
        ),
        "pending_update": _pending_update(tx, doc),
    }


def shown_items(tx: Transaction, sub: Json, items: list[Json]) -> list[Json]:
    return [_shown_item(tx, sub, item) for item in items]


def _shown_item(tx: Transaction, sub: Json, item: Json) -> Json:
    price = render(tx, changes.price_of(tx, item))
    return public(item) | {
        "object": "subscription_item",
        "billed_until": item["current_period_end"] if item["quantity"] is not None else None,
        "billing_thresholds": None,
        "current_trial": None,
        "discounts": [],
        "plan": render(tx, plan_of(price)),
        "price": price,
        "subscription": sub["id"],
        "tax_rates": [],
    }


def _pending_update(tx: Transaction, sub: Json) -> Json | None:
    pending = sub["_pending"]
    if not pending or not pending["shown"]:
        return None
    return {
        "billing_cycle_anchor": pending["anchor"] if pending["anchor_now"] else None,
        "cancel_at_period_end": None,
        "discount": None,
        "discounts": None,
        "expires_at": pending["expires_at"],
        "metadata": pending["metadata"],
        "subscription_items": shown_items(tx, sub, pending["items"]),
        "trial_end": pending["trial_end_given"],
        "trial_from_plan": None,
    }


@contextmanager
def changing(tx: Transaction, sub: Json) -> Iterator[None]:
    """All that happens to a subscription within is one `customer.subscription.updated`."""
    if sub["id"] in tx.held:
        yield
        return
    before = render(tx, sub)
    tx.held.add(sub["id"])
    try:
        yield
    finally:
        tx.held.discard(sub["id"])
    keep(tx, sub)
    if sub["status"] not in ENDED:  # an end is its own event
        emit(tx, "customer.subscription.updated", sub, before)


def keep(tx: Transaction, sub: Json) -> Json:
    """Save, with the instant at which something is due next."""
    sub["_due"] = next_due(sub)
    return tx.save(sub)


def next_due(sub: Json) -> int | None:
    if sub["status"] in ENDED:
        return None
    if sub["status"] == "incomplete":
        return int(sub["created"]) + INCOMPLETE_HOURS * 3600
    due = [item["current_period_end"] for item in sub["_items"]]
    due += [at for at, _ in notices(sub)]
    if sub["cancel_at"]:
        due.append(sub["cancel_at"])
    if sub["_pending"]:
        due.append(sub["_pending"]["expires_at"])
    return int(min(due))


def notices(sub: Json) -> list[tuple[int, str]]:
    """What is announced before it happens, and has not been yet."""
    notices = []
    end = min(item["current_period_end"] for item in sub["_items"])
    if sub["status"] == "trialing" and not sub["_trial_noticed"]:
        notice = max(sub["trial_end"] - TRIAL_NOTICE_DAYS * DAY, sub["trial_start"])
        notices.append((notice, "trial_will_end"))
    start = max(item["current_period_start"] for item in sub["_items"])
    long_enough = end - start > UPCOMING_DAYS * DAY
    if long_enough and sub["_upcoming_for"] != end and not sub["cancel_at"]:
        notices.append((end - UPCOMING_DAYS * DAY, "upcoming"))
    return notices


def refuse_while_advancing(tx: Transaction, customer: Json) -> None:
    clock = tx.get(customer["test_clock"]) if customer["test_clock"] else None
    if clock and clock["status"] != "ready":
        raise invalid(
            "Test clock advancement underway - cannot perform modifications.", "test_clock"
        )


def set_fields(tx: Transaction, sub: Json, customer: Json, p: Json) -> None:
    """The settings that cost nothing."""
    if p.get("collection_method", "charge_automatically") != "charge_automatically":
        raise not_covered("collection_method send_invoice", "collection_method")
    if "default_payment_method" in p:
        method = p["default_payment_method"]
        if method:
            cards.method_of(tx, method, customer["id"], "default_payment_method")
        sub["default_payment_method"] = method or None
    if "description" in p:
        sub["description"] = p["description"] or None
    sub["metadata"] = merge_metadata(sub["metadata"], p.get("metadata"))
    sub["payment_settings"] |= p.get("payment_settings", {})
    missing = p.get("trial_settings", {}).get("end_behavior", {}).get("missing_payment_method")
    if missing == "pause":
        raise not_covered("pausing at a trial's end", "trial_settings[end_behavior]")
    if missing:
        sub["trial_settings"]["end_behavior"] |= {"missing_payment_method": missing}


def set_cancellation(sub: Json, p: Json, at: int) -> None:
    if "cancel_at" in p and "cancel_at_period_end" in p:
        raise invalid("Pass cancel_at or cancel_at_period_end, not both.", "cancel_at")
    ends = [item["current_period_end"] for item in sub["_items"]]
    if "cancel_at_period_end" in p:
        asked = p["cancel_at_period_end"]
        if asked and sub["cancel_at_period_end"]:
            return
        _cancel_at(sub, max(ends) if asked else None, at)
        sub["cancel_at_period_end"] = asked
    elif "cancel_at" in p:
        when = p["cancel_at"]
        if isinstance(when, str) and when:
            if when == "max_billed_until":
                raise not_covered("cancel_at max_billed_until", "cancel_at")
            when = max(ends) if when == "max_period_end" else min(ends)
        if when and when <= at:
            raise invalid("cancel_at must be in the future.", "cancel_at")
        _cancel_at(sub, when or None, at)
        sub["cancel_at_period_end"] = False
        sub["_cancel_prorates"] = p.get("proration_behavior", "create_prorations") != "none"


def _cancel_at(sub: Json, when: int | None, at: int) -> None:
    sub["cancel_at"] = when
    sub["canceled_at"] = at if when else None
    sub["cancellation_details"] |= {"reason": "cancellation_requested" if when else None}


@endpoint("GET", "/v1/subscriptions/{id}", "SubscriptionRetrieveParams", "")
def retrieve_subscription(call: Call) -> Json:
    return render(call.tx, call.tx.need(call.path["id"], "subscription"))


@endpoint(
    "GET",
    "/v1/subscriptions",
    "SubscriptionListParams",
    "customer price status created current_period_start current_period_end test_clock "
    f"collection_method {PAGE}",
)
def list_subscriptions(call: Call) -> Json:
    p = call.params

    def keep_it(sub: Json) -> bool:
        return (
            _has_status(sub, p.get("status"))
            and p.get("customer") in (None, sub["customer"])
            and p.get("test_clock") in (None, sub["test_clock"])
            and p.get("collection_method") in (None, sub["collection_method"])
            and (p.get("price") is None or any(i["price"] == p["price"] for i in sub["_items"]))
            and in_range(sub["created"], p.get("created"))
            and all(
                any(in_range(i[name], p.get(name)) for i in sub["_items"])
                for name in ("current_period_start", "current_period_end")
            )
        )

    filters = {"customer": p["customer"]} if "customer" in p else {}
    return page(call.tx, "/v1/subscriptions", "subscription", p, keep_it, **filters)


def _has_status(sub: Json, wanted: str | None) -> bool:
    if wanted is None:
        return sub["status"] not in ENDED
    if wanted == "ended":
        return sub["status"] in ENDED
    return wanted in ("all", sub["status"])


@endpoint("GET", "/v1/subscription_items", "SubscriptionItemListParams", f"subscription {PAGE}")
def list_items(call: Call) -> Json:
    tx = call.tx
    sub = tx.need(call.params["subscription"], "subscription", "subscription")
    items = shown_items(tx, sub, sub["_items"])
    return page_of("/v1/subscription_items", "subscription_item", items, call.params)


@endpoint("GET", "/v1/subscription_items/{id}", "SubscriptionItemRetrieveParams", "")
def retrieve_item(call: Call) -> Json:
    for sub in call.tx.find("subscription"):
        for item in sub["_items"]:
            if item["id"] == call.path["id"]:
                return _shown_item(call.tx, sub, item)
    raise missing("subscription item", call.path["id"])
