"""What a price costs, and what a change in the middle of a period credits and charges.

Written from Stripe's description, not from our own pricing room, so that the two check each
other. Amounts are exact fractions of minor units until a line is rounded, once.
"""

from fractions import Fraction
from typing import Any

from entitlements.kernel.money import round_half_away
from entitlements.sandbox.errors import Json


def price_amount(price: Json, quantity: int | Fraction) -> Fraction:
    """The exact amount of one full period.

    >>> price_amount({"billing_scheme": "per_unit", "unit_amount_decimal": "0.125"}, 5)
    Fraction(5, 8)
    """
    quantity = _transformed(price, Fraction(quantity))
    if price["billing_scheme"] == "per_unit":
        return Fraction(price["unit_amount_decimal"]) * quantity
    if price["tiers_mode"] == "volume":
        return _volume(price["_tiers"], quantity)
    return _graduated(price["_tiers"], quantity)


def _transformed(price: Json, quantity: Fraction) -> Fraction:
    transform = price.get("transform_quantity")
    if not transform:
        return quantity
    blocks = quantity / transform["divide_by"]
    whole = blocks.numerator // blocks.denominator
    return Fraction(whole + (transform["round"] == "up" and blocks != whole))


def _volume(tiers: list[Json], quantity: Fraction) -> Fraction:
    """Every unit at the rate of the tier that the quantity falls in, plus that tier's flat fee."""
    tier = next(t for t in tiers if t["up_to"] is None or quantity <= t["up_to"])
    return _rate(tier, "unit") * quantity + _rate(tier, "flat")


def _graduated(tiers: list[Json], quantity: Fraction) -> Fraction:
    """Each slice at its own tier's rate, plus the flat fee of each tier entered.

    At quantity 0 the first tier counts as entered, as at Stripe.
    """
    total, below = Fraction(0), Fraction(0)
    for tier in tiers:
        if below and quantity <= below:
            break
        top = quantity if tier["up_to"] is None else min(quantity, Fraction(tier["up_to"]))
        total += _rate(tier, "unit") * (top - below) + _rate(tier, "flat")
        if tier["up_to"] is None:
            break
        below = Fraction(tier["up_to"])
    return total


def _rate(tier: Json, kind: str) -> Fraction:
    return Fraction(tier[f"{kind}_amount_decimal"] or 0)


def share_left(start: int, end: int, at: int) -> Fraction:
    """Seconds left ÷ seconds in the period.

    >>> share_left(0, 30, 10)
    Fraction(2, 3)
    """
    return Fraction(min(max(end - at, 0), end - start), end - start)


def debit_amount(full: Fraction, start: int, end: int, at: int) -> int:
    """What the rest of a period costs, from `at` on, rounded once.

    >>> debit_amount(Fraction(3252), 1596749288, 1599427688, 1598982148)
    541
    """
    return round_half_away(full * share_left(start, end, at))


def credit_amount(full: Fraction, start: int, end: int, at: int, debit: Json | None) -> int:
    """What the rest of a period is credited: the price for that time, never more than was debited.

    `debit` is what was last charged for the item (`rate`, the full period's amount it was charged
    at; `amount`; `start`, `end`), or None where nothing was charged.

    >>> paid = {"rate": "1000", "amount": 1000, "start": 1596749288, "end": 1599427688}
    >>> credit_amount(Fraction(1000), 1596749288, 1599427688, 1598982148, paid)
    166
    >>> credit_amount(Fraction(1000), 1596749288, 1599427688, 1598982148, None)
    0
    """
    if debit is None or debit["end"] != end:
        return 0
    left = share_left(start, end, at)
    by_price = round_half_away(full * left)
    by_debit = round_half_away(Fraction(debit["rate"]) * left)
    return max(0, min(by_price, by_debit, int(debit["amount"])))


def debit_of(price_rate: Fraction, amount: int, start: int, end: int, **made_by: Any) -> Json:
    """The note of a debit that a later credit refers to."""
    return {"rate": str(price_rate), "amount": amount, "start": start, "end": end} | made_by


# Stripe's smallest charges (https://docs.stripe.com/currencies#minimum-and-maximum-charge-amounts),
# in minor units. Currencies that the page does not name have none here.
SMALLEST_CHARGE_MINOR = {
    "usd": 50,
    "aed": 200,
    "aud": 50,
    "brl": 50,
    "cad": 50,
    "chf": 50,
    "cop": 200_000,
    "czk": 1500,
    "dkk": 250,
    "eur": 50,
    "gbp": 30,
    "hkd": 400,
    "huf": 17_500,
    "inr": 50,
    "jpy": 50,
    "krw": 100,
    "mxn": 1000,
    "myr": 200,
    "nok": 300,
    "nzd": 50,
    "pln": 200,
    "ron": 200,
    "sek": 300,
    "sgd": 50,
    "thb": 1000,
}
