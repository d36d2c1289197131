"""Customers and their credit balance. A negative balance is credit, a positive one is owed."""

from collections.abc import Callable
from typing import Any

import stripe

from entitlements.kernel.money import is_currency
from entitlements.sandbox import cards
from entitlements.sandbox.errors import Json, invalid
from entitlements.sandbox.events import emit, now
from entitlements.sandbox.routes import Call, endpoint
from entitlements.sandbox.shapes import (
    PAGE,
    in_range,
    list_object,
    merge_metadata,
    page,
    plain_shape,
    public,
    render,
    shape,
)
from entitlements.sandbox.store import Transaction, make_id

DELETED: list[Callable[[Transaction, Json], None]] = []
"""Who wants to know that a customer is about to go (the subscriptions do)."""

_TEXTS = ("name", "email", "description", "phone")


def _subscriptions(tx: Transaction, doc: Json) -> Json:
    live = [
        render(tx, sub)
        for sub in reversed(tx.find("subscription", customer=doc["id"]))
        if sub["status"] not in ("canceled", "incomplete_expired")
    ]
    return list_object(
        f"/v1/customers/{doc['id']}/subscriptions", live[:10], has_more=len(live) > 10
    )


def _no_sources(tx: Transaction, doc: Json) -> Json:
    return list_object(f"/v1/customers/{doc['id']}/sources", [])


def _no_tax_ids(tx: Transaction, doc: Json) -> Json:
    return list_object(f"/v1/customers/{doc['id']}/tax_ids", [])


def _invoice_credit(tx: Transaction, doc: Json) -> Json:
    return {doc["currency"]: doc["balance"]} if doc["currency"] else {}


@shape(
    "customer",
    stripe.Customer,
    includable={
        "subscriptions": _subscriptions,
        "sources": _no_sources,
        "tax_ids": _no_tax_ids,
        "invoice_credit_balance": _invoice_credit,
        "tax": None,
        "cash_balance": None,
    },
)
def _render_customer(tx: Transaction, doc: Json) -> Json:
    return public(doc)


plain_shape("customer_balance_transaction", stripe.CustomerBalanceTransaction)


def customer_of(tx: Transaction, id: str, param: str = "customer") -> Json:
    return tx.need(id, "customer", param)


_COVERS = (
    "name email description phone address shipping balance metadata preferred_locales tax_exempt "
    "invoice_settings.default_payment_method invoice_prefix next_invoice_sequence"
)


def blank(test_clock: str | None = None) -> Json:
    """A customer of whom nothing is known; not stored."""
    id = make_id("cus")
    return {
        "id": id,
        "object": "customer",
        "address": None,
        "balance": 0,
        "created": 0,
        "currency": None,
        "delinquent": False,
        "description": None,
        "email": None,
        "invoice_prefix": id[-12:-4].upper(),
        "invoice_settings": {
            "custom_fields": None,
            "default_payment_method": None,
            "footer": None,
            "rendering_options": None,
        },
        "livemode": False,
        "metadata": {},
        "name": None,
        "next_invoice_sequence": 1,
        "phone": None,
        "preferred_locales": [],
        "shipping": None,
        "tax_exempt": "none",
        "test_clock": test_clock,
    }


@endpoint("POST", "/v1/customers", "CustomerCreateParams", f"{_COVERS} payment_method test_clock")
def create_customer(call: Call) -> Json:
    tx, p = call.tx, call.params
    if p.get("test_clock"):
        _join_clock(tx, p["test_clock"])
    customer = blank(p.get("test_clock") or None)
    customer["created"] = now(tx, customer)
    tx.save(customer)
    emit(tx, "customer.created", customer)
    if p.get("payment_method"):
        method = cards.attach(tx, p["payment_method"], customer)
        settings = p.get("invoice_settings", {})
        if settings.get("default_payment_method") == p["payment_method"]:
            settings["default_payment_method"] = method["id"]
    _change(tx, customer, p)
    return render(tx, customer)


def _join_clock(tx: Transaction, id: str) -> None:
    clock = tx.need(id, "test_helpers.test_clock", "test_clock")
    if clock["status"] != "ready":
        raise invalid("The test clock is advancing.", "test_clock")


def _change(tx: Transaction, customer: Json, p: Json) -> None:
    for field in _TEXTS:
        if field in p:
            customer[field] = p[field] or None
    for field in ("address", "shipping"):
        if field in p:
            customer[field] = _whole_address(p[field]) if p[field] else None
    customer |= {k: p[k] for k in ("preferred_locales", "next_invoice_sequence") if k in p}
    if "tax_exempt" in p:
        customer["tax_exempt"] = p["tax_exempt"] or "none"
    if "invoice_prefix" in p:
        customer["invoice_prefix"] = p["invoice_prefix"]
    customer["metadata"] = merge_metadata(customer["metadata"], p.get("metadata"))
    method = p.get("invoice_settings", {}).get("default_payment_method")
    if method is not None:
        if method:
            cards.method_of(tx, method, customer["id"], "invoice_settings[default_payment_method]")
        customer["invoice_settings"]["default_payment_method"] = method or None
    if "balance" in p:
        delta = p["balance"] - customer["balance"]
        if delta:
            adjust_balance(tx, customer, delta, "adjustment")
    tx.save(customer)


_ADDRESS = ("city", "country", "line1", "line2", "postal_code", "state")


def _whole_address(given: Json) -> Json:
    if "address" not in given:
        return {field: given.get(field) or None for field in _ADDRESS}
    rest: Json = {"carrier": None, "name": None, "phone": None, "tracking_number": None}
    return rest | given | {"address": _whole_address(given["address"])}


@endpoint("GET", "/v1/customers/{id}", "CustomerRetrieveParams", "")
def retrieve_customer(call: Call) -> Json:
    found = call.tx.get(call.path["id"])
    if found and found["object"] == "customer":
        return render(call.tx, found)  # a deleted one is shown as deleted, not missing
    return render(call.tx, customer_of(call.tx, call.path["id"], "id"))


@endpoint("POST", "/v1/customers/{id}", "CustomerUpdateParams", _COVERS)
def update_customer(call: Call) -> Json:
    tx = call.tx
    customer = customer_of(tx, call.path["id"], "id")
    before = render(tx, customer)
    _change(tx, customer, call.params)
    emit(tx, "customer.updated", customer, before)
    return render(tx, customer)


@endpoint("DELETE", "/v1/customers/{id}", "CustomerDeleteParams", "")
def delete_customer(call: Call) -> Json:
    tx = call.tx
    customer = customer_of(tx, call.path["id"], "id")
    delete(tx, customer)
    return render(tx, customer)


def delete(tx: Transaction, customer: Json) -> None:
    """Cancels what the customer still has, then hides it."""
    for listener in DELETED:
        listener(tx, customer)
    emit(tx, "customer.deleted", customer)
    customer["_deleted"] = True
    tx.save(customer)


@endpoint("GET", "/v1/customers", "CustomerListParams", f"created email test_clock {PAGE}")
def list_customers(call: Call) -> Json:
    p = call.params

    def keep(customer: Json) -> bool:
        return (
            in_range(customer["created"], p.get("created"))
            and p.get("email") in (None, customer["email"])
            # Stripe leaves out those of test clocks unless the clock is named; that hides nearly
            # everybody from a person looking into a sandbox.
            and p.get("test_clock") in (None, customer["test_clock"])
        )

    return page(call.tx, "/v1/customers", "customer", p, keep)


# --- balance


def adjust_balance(
    tx: Transaction,
    customer: Json,
    amount: int,
    type: str,
    *,
    invoice: str | None = None,
    **more: Any,
) -> Json:
    """Change the balance and write the transaction that explains it."""
    customer["balance"] += amount
    tx.save(customer)
    entry = {
        "id": make_id("cbtxn"),
        "object": "customer_balance_transaction",
        "amount": amount,
        "created": now(tx, customer),
        "currency": customer["currency"] or "usd",
        "customer": customer["id"],
        "description": None,
        "ending_balance": customer["balance"],
        "invoice": invoice,
        "livemode": False,
        "metadata": {},
        "type": type,
    } | more
    return tx.save(entry)


def settle_currency(tx: Transaction, customer: Json, currency: str) -> None:
    """A customer is billed in one currency, the first that is used."""
    if customer["currency"] is None:
        customer["currency"] = currency
        tx.save(customer)
    elif customer["currency"] != currency:
        raise invalid(
            "You cannot combine currencies on a single customer. This customer has had a "
            f"subscription, invoice item or balance in {customer['currency']}.",
            "currency",
        )


@endpoint(
    "POST",
    "/v1/customers/{id}/balance_transactions",
    "CustomerBalanceTransactionCreateParams",
    "amount currency description metadata",
)
def create_balance_transaction(call: Call) -> Json:
    tx, p = call.tx, call.params
    customer = customer_of(tx, call.path["id"], "id")
    if not is_currency(p["currency"]):
        raise invalid(f"Invalid currency: {p['currency']}.", "currency")
    settle_currency(tx, customer, p["currency"])
    before = render(tx, customer)
    entry = adjust_balance(
        tx,
        customer,
        p["amount"],
        "adjustment",
        description=p.get("description"),
        metadata=merge_metadata({}, p.get("metadata")),
    )
    emit(tx, "customer.updated", customer, before)
    return render(tx, entry)


@endpoint(
    "GET",
    "/v1/customers/{id}/balance_transactions",
    "CustomerBalanceTransactionListParams",
    f"created invoice {PAGE}",
)
def list_balance_transactions(call: Call) -> Json:
    p = call.params
    customer = customer_of(call.tx, call.path["id"], "id")
    return page(
        call.tx,
        f"/v1/customers/{customer['id']}/balance_transactions",
        "customer_balance_transaction",
        p,
        lambda t: (
            in_range(t["created"], p.get("created")) and p.get("invoice") in (None, t["invoice"])
        ),
        customer=customer["id"],
    )


@endpoint(
    "GET",
    "/v1/customers/{id}/balance_transactions/{entry}",
    "CustomerBalanceTransactionRetrieveParams",
    "",
)
def retrieve_balance_transaction(call: Call) -> Json:
    entry = call.tx.need(call.path["entry"], "customer_balance_transaction")
    return render(call.tx, entry)
