"""Invoice items: lines that wait for the next invoice."""

from fractions import Fraction

import stripe

from entitlements.kernel.money import is_currency, round_half_away
from entitlements.sandbox import customers
from entitlements.sandbox.errors import Json, invalid
from entitlements.sandbox.events import emit, now
from entitlements.sandbox.lines import new_line, pricing_of
from entitlements.sandbox.routes import Call, endpoint
from entitlements.sandbox.shapes import PAGE, in_range, merge_metadata, page, plain_shape, render
from entitlements.sandbox.store import Transaction, make_id

plain_shape("invoiceitem", stripe.InvoiceItem)


def pend(tx: Transaction, customer: Json, line: Json) -> Json:
    """Keep a line as an item that the next invoice takes."""
    details = (line["parent"] or {}).get("subscription_item_details")
    credited = details and details["proration_details"]["credited_items"]
    item = {
        "id": make_id("ii"),
        "object": "invoiceitem",
        "amount": line["amount"],
        "currency": line["currency"],
        "customer": customer["id"],
        "date": now(tx, customer),
        "description": line["description"],
        "discountable": line["discountable"],
        "discounts": [],
        "frozen_fields": [],
        "invoice": None,
        "livemode": False,
        "metadata": line["metadata"],
        "net_amount": line["amount"],
        "parent": details
        and {
            "type": "subscription_details",
            "subscription_details": {
                "subscription": details["subscription"],
                "subscription_item": details["subscription_item"],
            },
        },
        "period": line["period"],
        "pricing": line["pricing"],
        "proration": bool(details and details["proration"]),
        "proration_details": {
            "credited_items": credited
            and {
                "type": "invoice_line_items",
                "invoice_item": None,
                "invoice_line_item_details": credited,
            },
            "discount_amounts": [],
        },
        "quantity": line["quantity"] or 0,
        "quantity_decimal": line["quantity_decimal"] or "0",
        "tax_rates": [],
        "test_clock": customer["test_clock"],
        "_parent": line["subscription"] or customer["id"],
        "_line": line,
        "_subscription": line["subscription"],
    }
    tx.save(item)
    emit(tx, "invoiceitem.created", item)
    return item


def pending_items(tx: Transaction, customer: str, subscription: str | None) -> list[Json]:
    """What waits for the next invoice of a subscription: its own items and the customer's."""
    return [
        item
        for item in tx.find("invoiceitem", customer=customer)
        if item["invoice"] is None and item["_subscription"] in (None, subscription)
    ]


def line_of(item: Json) -> Json:
    """The line that a waiting item becomes."""
    line: Json = item["_line"] | {"metadata": item["metadata"], "description": item["description"]}
    details = line["parent"] and line["parent"]["subscription_item_details"]
    if details:
        return line | {
            "parent": line["parent"]
            | {"subscription_item_details": details | {"invoice_item": item["id"]}}
        }
    return line | {
        "parent": {
            "type": "invoice_item_details",
            "invoice_item_details": {
                "invoice_item": item["id"],
                "proration": False,
                "proration_details": {"credited_items": None},
                "subscription": item["_subscription"],
            },
            "subscription_item_details": None,
        }
    }


def release_waiting(tx: Transaction, invoice: Json) -> None:
    """Let what waited before a voided invoice wait again."""
    for id in invoice["_was_pending"]:
        item = tx.get(id)
        if item is not None:
            item["invoice"] = None
            tx.save(item)


@endpoint(
    "POST",
    "/v1/invoiceitems",
    "InvoiceItemCreateParams",
    "customer amount currency description metadata period subscription quantity "
    "unit_amount_decimal pricing",
)
def create_item(call: Call) -> Json:
    tx, p = call.tx, call.params
    if "customer" not in p:
        raise invalid("Missing required param: customer.", "customer", "parameter_missing")
    customer = customers.customer_of(tx, p["customer"])
    sub = (
        tx.need(p["subscription"], "subscription", "subscription") if "subscription" in p else None
    )
    at = now(tx, customer)
    period = p.get("period", {"start": at, "end": at})
    currency, amount, pricing = _item_amount(tx, customer, p)
    customers.settle_currency(tx, customer, currency)
    line = new_line(
        currency,
        amount,
        (period["start"], period["end"]),
        p.get("description"),
        merge_metadata({}, p.get("metadata")),
    )
    quantity = p.get("quantity", 1)
    line |= {"pricing": pricing, "quantity": quantity, "quantity_decimal": str(quantity)}
    line["subscription"] = sub and sub["id"]
    item = pend(tx, customer, line)
    return render(tx, item)


def _item_amount(tx: Transaction, customer: Json, p: Json) -> tuple[str, int, Json | None]:
    ways = [k for k in ("amount", "unit_amount_decimal", "pricing") if k in p]
    if len(ways) != 1:
        raise invalid("Pass one of amount, unit_amount_decimal or pricing.", "amount")
    if ways == ["pricing"]:
        price = tx.need(p["pricing"].get("price", ""), "price", "pricing[price]")
        if price["type"] != "one_time":
            raise invalid("The price must be a one-time price.", "pricing[price]")
        rate = Fraction(price["unit_amount_decimal"] or 0)
        total = round_half_away(rate * p.get("quantity", 1))
        return price["currency"], total, pricing_of(price)
    currency = p.get("currency") or customer["currency"]
    if not currency or not is_currency(currency):
        raise invalid("Missing required param: currency.", "currency", "parameter_missing")
    if ways == ["amount"]:
        return currency, p["amount"], None
    return (
        currency,
        round_half_away(Fraction(p["unit_amount_decimal"]) * p.get("quantity", 1)),
        None,
    )


@endpoint("GET", "/v1/invoiceitems/{id}", "InvoiceItemRetrieveParams", "")
def retrieve_item(call: Call) -> Json:
    return render(call.tx, call.tx.need(call.path["id"], "invoiceitem"))


@endpoint("DELETE", "/v1/invoiceitems/{id}", "InvoiceItemDeleteParams", "")
def delete_item(call: Call) -> Json:
    tx = call.tx
    item = tx.need(call.path["id"], "invoiceitem")
    if item["invoice"] is not None:
        raise invalid("The invoice item is part of an invoice.", code="invoice_not_editable")
    drop_item(tx, item)
    return render(tx, item)


def drop_item(tx: Transaction, item: Json) -> None:
    emit(tx, "invoiceitem.deleted", item)
    item["_deleted"] = True
    tx.save(item)


@endpoint(
    "GET", "/v1/invoiceitems", "InvoiceItemListParams", f"customer invoice pending created {PAGE}"
)
def list_items(call: Call) -> Json:
    p = call.params
    filters = {"customer": p["customer"]} if "customer" in p else {}

    def keep(item: Json) -> bool:
        return (
            p.get("pending") in (None, item["invoice"] is None)
            and p.get("invoice") in (None, item["invoice"])
            and in_range(item["date"], p.get("created"))
        )

    return page(call.tx, "/v1/invoiceitems", "invoiceitem", p, keep, **filters)
