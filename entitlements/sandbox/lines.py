"""Invoice lines: what one amount is for."""

import stripe

from entitlements.sandbox.errors import Json, invalid
from entitlements.sandbox.shapes import plain_shape
from entitlements.sandbox.store import make_id

MAX_AMOUNT_MINOR = 999_999_999_999

plain_shape("line_item", stripe.InvoiceLineItem)


def subscription_line(
    sub: Json,
    item: Json,
    price: Json,
    amount: int,
    period: tuple[int, int],
    description: str,
    *,
    quantity: int | None,
    proration: bool = False,
    credits: Json | None = None,
) -> Json:
    """A line for one item of a subscription. `credits` is the debit that a credit takes back."""
    if abs(amount) > MAX_AMOUNT_MINOR:
        raise invalid(f"The amount of an item may not exceed {MAX_AMOUNT_MINOR}.", "items")
    line = new_line(price["currency"], amount, period, description, sub["metadata"])
    credited = None
    if credits and credits.get("invoice"):
        credited = {"invoice": credits["invoice"], "invoice_line_items": [credits["line"]]}
    line |= {
        "parent": {
            "type": "subscription_item_details",
            "invoice_item_details": None,
            "subscription_item_details": {
                "invoice_item": None,
                "proration": proration,
                "proration_details": {"credited_items": credited},
                "subscription": sub["id"],
                "subscription_item": item["id"],
            },
        },
        "pricing": pricing_of(price),
        "quantity": quantity,
        "quantity_decimal": None if quantity is None else str(quantity),
        "subscription": sub["id"],
        "_credits": credits and credits["line"],
    }
    return line


def new_line(
    currency: str, amount: int, period: tuple[int, int], description: str | None, metadata: Json
) -> Json:
    """A line of any origin, not yet on an invoice."""
    return {
        "id": make_id("il"),
        "object": "line_item",
        "amount": amount,
        "currency": currency,
        "description": description,
        "discount_amounts": [],
        "discountable": amount >= 0,
        "discounts": [],
        "invoice": None,
        "livemode": False,
        "metadata": dict(metadata),
        "parent": None,
        "period": {"start": period[0], "end": period[1]},
        "pretax_credit_amounts": [],
        "pricing": None,
        "quantity": 1,
        "quantity_decimal": "1",
        "subscription": None,
        "subtotal": amount,
        "taxes": [],
    }


def pricing_of(price: Json) -> Json:
    return {
        "type": "price_details",
        "price_details": {"price": price["id"], "product": price["product"]},
        "unit_amount_decimal": price["unit_amount_decimal"],
    }
