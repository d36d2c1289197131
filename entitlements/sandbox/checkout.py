"""Checkout sessions in setup mode: a page that saves a card for a customer."""

from typing import Any

import stripe

from entitlements.sandbox import cards
from entitlements.sandbox.errors import Json, invalid, not_covered
from entitlements.sandbox.events import emit
from entitlements.sandbox.routes import Call, endpoint
from entitlements.sandbox.shapes import PAGE, in_range, merge_metadata, page, public, render, shape
from entitlements.sandbox.store import Transaction, make_id

MIN_SECONDS, MAX_SECONDS = 30 * 60, 24 * 3600
_SLACK_SECONDS = 60
"""The caller's clock may be a little off, and the request takes its time."""


@shape("checkout.session", stripe.checkout.Session, includable={"line_items": None})
def _render_session(tx: Transaction, doc: Json) -> Json:
    url = f"{tx.public_url}/checkout/{doc['id']}" if doc["status"] == "open" else None
    return public(doc) | {"url": url}


@endpoint(
    "POST",
    "/v1/checkout/sessions",
    "checkout.SessionCreateParams",
    "mode customer success_url cancel_url expires_at metadata client_reference_id currency "
    "allowed_payment_method_types setup_intent_data.metadata setup_intent_data.description "
    "ui_mode locale",
)
def create_session(call: Call) -> Json:
    tx, p = call.tx, call.params
    if p.get("mode", "payment") != "setup":
        raise not_covered("Checkout in any mode but setup", "mode")
    if p.get("ui_mode", "hosted_page") != "hosted_page":
        raise not_covered("any ui_mode but hosted_page", "ui_mode")
    for param in ("customer", "success_url"):
        if not p.get(param):
            raise invalid(f"Missing required param: {param}.", param, "parameter_missing")
    for param in ("success_url", "cancel_url"):
        if param in p and not p[param].startswith(("http://", "https://")):
            raise invalid("Not a valid URL: an explicit scheme must be provided.", param)
    customer = tx.need(p["customer"], "customer", "customer")
    expires = p.get("expires_at", tx.wall + MAX_SECONDS)
    if not MIN_SECONDS - _SLACK_SECONDS <= expires - tx.wall <= MAX_SECONDS + _SLACK_SECONDS:
        raise invalid(
            "The expires_at timestamp must be 30 minutes to 24 hours from now.", "expires_at"
        )
    session = _session(tx, customer, p, expires)
    return render(tx, tx.save(session))


def _session(tx: Transaction, customer: Json, p: Json, expires: int) -> Json:
    data = p.get("setup_intent_data", {})
    intent = cards.new_setup_intent(
        tx,
        customer,
        metadata=merge_metadata({}, data.get("metadata")),
        description=data.get("description"),
    )
    emit(tx, "setup_intent.created", intent)
    return {
        "id": make_id("cs_test"),
        "object": "checkout.session",
        "automatic_tax": {
            "enabled": False,
            "liability": None,
            "provider": None,
            "status": None,
        },
        "cancel_url": p.get("cancel_url"),
        "client_reference_id": p.get("client_reference_id"),
        "created": tx.wall,
        "currency": p.get("currency"),
        "custom_fields": [],
        "custom_text": {
            "after_submit": None,
            "shipping_address": None,
            "submit": None,
            "terms_of_service_acceptance": None,
        },
        "customer": customer["id"],
        "expires_at": expires,
        "livemode": False,
        "locale": p.get("locale"),
        "metadata": merge_metadata({}, p.get("metadata")),
        "mode": "setup",
        "allowed_payment_method_types": p.get("allowed_payment_method_types"),
        "payment_method_types": ["card"],
        "payment_status": "no_payment_required",
        "setup_intent": intent["id"],
        "shipping_options": [],
        "status": "open",
        "success_url": p["success_url"],
        "ui_mode": "hosted_page",
        "_due": expires,
    }


def complete(tx: Transaction, session: Json, card: str | None, *, authenticated: bool) -> str:
    """Save a card by its test name: `complete`, or `action` where it has to be authenticated.

    A card that is refused raises; the session stays open.
    """
    intent = tx.need(session["setup_intent"], "setup_intent")
    if card is not None:
        intent |= {"_card_name": card, "payment_method": None, "status": "requires_confirmation"}
    cards.confirm_setup(tx, intent, authenticated=authenticated)
    if intent["status"] != "succeeded":
        return "action"
    session |= {"status": "complete", "_due": None}
    tx.save(session)
    emit(tx, "checkout.session.completed", session)
    return "complete"


def expire(tx: Transaction, session: Json, at: int = 0) -> None:
    session |= {"status": "expired", "_due": None}
    tx.save(session)
    emit(tx, "checkout.session.expired", session)


def success_url(session: Json) -> str:
    return str(session["success_url"]).replace("{CHECKOUT_SESSION_ID}", session["id"])


@endpoint("GET", "/v1/checkout/sessions/{id}", "checkout.SessionRetrieveParams", "")
def retrieve_session(call: Call) -> Json:
    return render(call.tx, call.tx.need(call.path["id"], "checkout.session"))


@endpoint(
    "GET",
    "/v1/checkout/sessions",
    "checkout.SessionListParams",
    f"customer status created {PAGE}",
)
def list_sessions(call: Call) -> Json:
    p: dict[str, Any] = call.params
    filters = {"customer": p["customer"]} if "customer" in p else {}
    return page(
        call.tx,
        "/v1/checkout/sessions",
        "checkout.session",
        p,
        lambda s: (
            p.get("status") in (None, s["status"]) and in_range(s["created"], p.get("created"))
        ),
        **filters,
    )


@endpoint("POST", "/v1/checkout/sessions/{id}/expire", "checkout.SessionExpireParams", "")
def expire_session(call: Call) -> Json:
    tx = call.tx
    session = tx.need(call.path["id"], "checkout.session")
    if session["status"] != "open":
        raise invalid(
            f'Only Checkout Sessions with a status in ["open"] can be expired. This Checkout '
            f"Session has a status of {session['status']}."
        )
    expire(tx, session)
    return render(tx, session)
