"""What a subscription becomes and what that costs: one function for the preview and the update.

Lines are one credit for the old configuration of an item and one charge for the new, never the
delta. Credits take back what was debited, never more. The billing anchor never moves by itself.
"""

from datetime import UTC, datetime
from fractions import Fraction
from functools import lru_cache
from typing import Any

import msgspec

from entitlements.kernel.money import Money, round_half_away
from entitlements.sandbox import meters
from entitlements.sandbox.errors import Json, invalid
from entitlements.sandbox.lines import subscription_line
from entitlements.sandbox.periods import containing, fit_together
from entitlements.sandbox.proration import credit_amount, debit_amount, debit_of, price_amount
from entitlements.sandbox.store import Transaction, make_id

MAX_ITEMS = 20
MAX_QUANTITY = 1_000_000_000


class Wanted(msgspec.Struct, frozen=True):
    """A change of a subscription. `at` is the instant that prorations count from."""

    at: int
    now: int
    items: list[Json] = []
    proration: str = "create_prorations"
    anchor_now: bool = False
    trial_end: int | str | None = None
    items_name: str = "items"


class Plan(msgspec.Struct):
    """What it leads to. `prorations` wait for the next invoice unless one is made now;
    `charges` are whole periods that begin now, and always make one."""

    items: list[Json]
    prorations: list[Json]
    charges: list[Json]
    anchor: int
    trial_start: int | None
    trial_end: int | None
    touched: bool = False

    @property
    def begins_period(self) -> bool:
        return bool(self.charges)


def plan(tx: Transaction, sub: Json, wanted: Wanted) -> Plan:
    """The items after a change and the lines that it makes."""
    items = wanted_items(tx, sub, wanted)
    result = Plan(
        items=items,
        prorations=[],
        charges=[],
        anchor=sub["billing_cycle_anchor"],
        trial_start=sub["trial_start"],
        trial_end=sub["trial_end"],
    )
    trialing = sub["status"] == "trialing"
    if wanted.trial_end == "now" and not trialing:
        wanted = msgspec.structs.replace(wanted, trial_end=None)
    if isinstance(wanted.trial_end, int):
        _begin_trial(tx, sub, wanted, result, trialing)
    elif wanted.trial_end == "now" or wanted.anchor_now:
        _begin_period(tx, sub, wanted, result, trialing)
    else:
        _change_within_period(tx, sub, wanted, result, trialing)
    return result


# --- the items


def wanted_items(tx: Transaction, sub: Json, wanted: Wanted) -> list[Json]:
    """The items as asked for: changed, added, deleted; the rest as it is."""
    items = {item["id"]: dict(item) for item in sub["_items"]}
    for i, given in enumerate(wanted.items):
        name = f"{wanted.items_name}[{i}]"
        if "id" in given:
            if given["id"] not in items:
                raise invalid(
                    f"No such subscription item: '{given['id']}'", f"{name}[id]", "resource_missing"
                )
            if given.get("deleted"):
                del items[given["id"]]
            else:
                _change_item(tx, items[given["id"]], given, name)
        else:
            if given.get("deleted"):
                raise invalid("Only an item with an id can be deleted.", f"{name}[deleted]")
            item = new_item(tx, given, wanted.now, name)
            items[item["id"]] = item
    result = list(items.values())
    check_items(tx, result, sub["currency"], wanted.items_name)
    return result


def new_item(tx: Transaction, given: Json, at: int, name: str) -> Json:
    if "price" not in given:
        raise invalid(
            f"Missing required param: {name}[price].", f"{name}[price]", "parameter_missing"
        )
    item: Json = {
        "id": make_id("si"),
        "created": at,
        "metadata": {},
        "price": None,
        "quantity": 1,
        "current_period_start": at,
        "current_period_end": at,
        "_debit": None,
    }
    _change_item(tx, item, given, name)
    return item


def _change_item(tx: Transaction, item: Json, given: Json, name: str) -> None:
    if "price" in given and given["price"] != item["price"]:
        price = tx.need(given["price"], "price", f"{name}[price]")
        if not price["active"]:
            raise invalid(f"The price specified is inactive: {price['id']}.", f"{name}[price]")
        if price["type"] != "recurring":
            raise invalid(
                f"The price specified is set to type=one_time: {price['id']}. A subscription "
                "takes recurring prices only.",
                f"{name}[price]",
            )
        item |= {"price": price["id"], "quantity": 1}  # Stripe's own rule
    price = tx.need(item["price"], "price", f"{name}[price]")
    metered = price["recurring"]["usage_type"] == "metered"
    if metered and "quantity" in given:
        raise invalid("Metered prices take no quantity.", f"{name}[quantity]")
    if not 0 <= given.get("quantity", 0) <= MAX_QUANTITY:
        raise invalid(f"Must be between 0 and {MAX_QUANTITY}.", f"{name}[quantity]")
    item["quantity"] = None if metered else given.get("quantity", item["quantity"])
    if item["quantity"] is None and not metered:
        item["quantity"] = 1
    if "metadata" in given:
        item["metadata"] = {} if given["metadata"] == "" else item["metadata"] | given["metadata"]


def check_items(tx: Transaction, items: list[Json], currency: str | None, name: str) -> str:
    """Refuse what one subscription cannot hold; answers the currency."""
    if not items:
        raise invalid("A subscription must have at least one active item.", name)
    if len(items) > MAX_ITEMS:
        raise invalid(f"A subscription can have at most {MAX_ITEMS} items.", name)
    prices = [price_of(tx, item) for item in items]
    ids = [price["id"] for price in prices]
    twice = next((id for id in ids if ids.count(id) > 1), None)
    if twice:
        raise invalid(f"Cannot add multiple subscription items with the same price: {twice}", name)
    currencies = {price["currency"] for price in prices} | ({currency} if currency else set())
    if len(currencies) > 1:
        raise invalid("All prices of a subscription must use the same currency.", name)
    if not fit_together([price["recurring"] for price in prices]):
        raise invalid(
            "The intervals of all prices must be multiples of the shortest of them.", name
        )
    return str(prices[0]["currency"])


def price_of(tx: Transaction, item: Json) -> Json:
    return tx.need(item["price"], "price", "price")


def is_metered(tx: Transaction, item: Json) -> bool:
    return bool(price_of(tx, item)["recurring"]["usage_type"] == "metered")


def rate_of(tx: Transaction, item: Json) -> Fraction:
    """The exact amount of one full period of an item."""
    return price_amount(price_of(tx, item), item["quantity"] or 0)


# --- the three ways to change


def _begin_trial(tx: Transaction, sub: Json, wanted: Wanted, result: Plan, trialing: bool) -> None:
    """A trial until an instant: nothing is charged, what was paid for is credited."""
    end = wanted.trial_end
    assert isinstance(end, int)
    if end <= wanted.now:
        raise invalid("trial_end must be in the future.", "trial_end")
    if not trialing and wanted.proration != "none":
        result.prorations = credits(tx, sub, wanted.at)
    result.trial_start = sub["trial_start"] if trialing else wanted.now
    result.trial_end = result.anchor = end
    result.touched = True
    for item in result.items:
        item |= {
            "current_period_start": result.trial_start,
            "current_period_end": end,
            "_debit": None,
        }


def _begin_period(tx: Transaction, sub: Json, wanted: Wanted, result: Plan, trialing: bool) -> None:
    """A new billing period from now: the rest of the old is credited, the new charged in full."""
    if not trialing:
        if wanted.proration != "none":
            result.prorations = credits(tx, sub, wanted.at)
        result.prorations += usage_so_far(tx, sub, sub["_items"], wanted.now)
    result.anchor = wanted.now
    if trialing:
        result.trial_end = wanted.now
    result.touched = True
    for item in result.items:
        result.charges += begin_item_period(tx, sub, item, result.anchor, wanted.now)


def _change_within_period(
    tx: Transaction, sub: Json, wanted: Wanted, result: Plan, trialing: bool
) -> None:
    old = {item["id"]: item for item in sub["_items"]}
    new = {item["id"]: item for item in result.items}
    for id in old.keys() | new.keys():
        before, after = old.get(id), new.get(id)
        if before and after and _same(before, after):
            continue
        result.touched = True
        if trialing and after:
            after |= {
                "current_period_start": sub["trial_start"],
                "current_period_end": sub["trial_end"],
            }
    if trialing:
        return
    for id in [*old, *(id for id in new if id not in old)]:
        before, after = old.get(id), new.get(id)
        if not (before and after and _same(before, after)):
            result.prorations += _prorate(tx, sub, wanted, before, after)


def _same(before: Json, after: Json) -> bool:
    return all(before[k] == after[k] for k in ("price", "quantity"))


def _prorate(
    tx: Transaction, sub: Json, wanted: Wanted, before: Json | None, after: Json | None
) -> list[Json]:
    """The lines of one changed item: a credit of the old configuration, a charge of the new."""
    lines: list[Json] = []
    prorates = wanted.proration != "none"
    if before is not None:
        lines += usage_so_far(tx, sub, [before], wanted.now)
        if prorates and not is_metered(tx, before):
            lines.append(_credit(tx, sub, before, wanted.at))
    if after is None:
        return lines
    price = price_of(tx, after)
    start, end = containing(sub["billing_cycle_anchor"], price["recurring"], wanted.at)
    if before is None or end != before["current_period_end"]:
        after |= {"current_period_start": start, "current_period_end": end}
    if is_metered(tx, after):
        after |= {"_debit": None, "_usage_from": wanted.now}
    elif prorates:
        lines.append(_debit(tx, sub, after, (start, end), wanted.at))
    return lines


def credits(tx: Transaction, sub: Json, at: int) -> list[Json]:
    """What the rest of the period is credited, for each item that was paid in advance."""
    return [_credit(tx, sub, item, at) for item in sub["_items"] if not is_metered(tx, item)]


def _credit(tx: Transaction, sub: Json, item: Json, at: int) -> Json:
    price = price_of(tx, item)
    start, end = _paid_period(tx, sub, item, at)
    amount = credit_amount(rate_of(tx, item), start, end, at, item["_debit"])
    return subscription_line(
        sub,
        item,
        price,
        -amount,
        (at, end),
        f"Unused time on {_named(tx, price, item['quantity'])} after {_day(at)}",
        quantity=item["quantity"],
        proration=True,
        credits=item["_debit"],
    )


def _paid_period(tx: Transaction, sub: Json, item: Json, at: int) -> tuple[int, int]:
    """The whole period that an item is in; its own may have begun late (a first, short one)."""
    recurring = price_of(tx, item)["recurring"]
    start, end = containing(sub["billing_cycle_anchor"], recurring, at)
    return (
        (start, end)
        if end == item["current_period_end"]
        else (
            item["current_period_start"],
            item["current_period_end"],
        )
    )


def _debit(tx: Transaction, sub: Json, item: Json, period: tuple[int, int], at: int) -> Json:
    """The charge for the rest of a period, noted on the item for the credit that may follow."""
    price = price_of(tx, item)
    start, end = period
    rate = rate_of(tx, item)
    amount = debit_amount(rate, start, end, at)
    line = subscription_line(
        sub,
        item,
        price,
        amount,
        (at, end),
        f"Remaining time on {_named(tx, price, item['quantity'])} after {_day(at)}",
        quantity=item["quantity"],
        proration=True,
    )
    item["_debit"] = debit_of(rate, amount, at, end, line=line["id"], invoice=None)
    return line


def begin_item_period(tx: Transaction, sub: Json, item: Json, anchor: int, at: int) -> list[Json]:
    """Move an item to the period that holds `at` and charge it in full, if it is not metered."""
    price = price_of(tx, item)
    start, end = containing(anchor, price["recurring"], at)
    item |= {"current_period_start": start, "current_period_end": end, "_usage_from": start}
    if is_metered(tx, item):
        item["_debit"] = None
        return []
    return [full_charge(tx, sub, item, (start, end))]


def renewal_lines(
    tx: Transaction, sub: Json, items: list[Json], at: int, *, bills_usage: bool
) -> list[Json]:
    """Usage of the period that ended, then the next period; the items move on to it."""
    lines = []
    for item in items:
        if item["current_period_end"] > at:
            continue
        if is_metered(tx, item) and bills_usage:
            lines.append(usage_line(tx, sub, item, at))
        lines += begin_item_period(tx, sub, item, sub["billing_cycle_anchor"], at)
    return lines


def full_charge(tx: Transaction, sub: Json, item: Json, period: tuple[int, int]) -> Json:
    price = price_of(tx, item)
    rate = rate_of(tx, item)
    amount = round_half_away(rate)
    line = subscription_line(
        sub,
        item,
        price,
        amount,
        period,
        f"{item['quantity']} × {_product(tx, price)} ({_terms(price)})",
        quantity=item["quantity"],
    )
    item["_debit"] = debit_of(rate, amount, *period, line=line["id"], invoice=None)
    return line


def first_charge(
    tx: Transaction, sub: Json, item: Json, anchor: int, at: int, *, prorates: bool
) -> list[Json]:
    """The first period of a new subscription: whole from its anchor, or the part before it."""
    if at == anchor:
        return begin_item_period(tx, sub, item, anchor, at)
    price = price_of(tx, item)
    start, end = containing(anchor, price["recurring"], at)
    item |= {"current_period_start": at, "current_period_end": end, "_usage_from": at}
    if is_metered(tx, item) or not prorates:
        return []
    return [_debit(tx, sub, item, (start, end), at)]


def trial_line(tx: Transaction, sub: Json, item: Json, period: tuple[int, int]) -> Json:
    price = price_of(tx, item)
    return subscription_line(
        sub,
        item,
        price,
        0,
        period,
        f"Trial period for {_product(tx, price)}",
        quantity=item["quantity"],
    )


# --- phases of a schedule


def phase_after(schedule: Json, at: int) -> Json | None:
    """The phase that begins when the current one ends at an instant."""
    return next((phase for phase in schedule["phases"] if phase["start_date"] == at), None)


def items_at_boundary(
    tx: Transaction, items: list[Json], wanted: list[Json], at: int
) -> tuple[list[Json], list[Json]]:
    """A phase's items where all periods end, for the renewal to charge; and those that left."""
    held = {item["price"]: dict(item) for item in items}
    entered = []
    for each in wanted:
        item = held.pop(each["price"], None)
        if item is None:
            item = new_item(tx, {"price": each["price"]}, at, "items")
            item |= {"current_period_start": at, "current_period_end": at, "_usage_from": at}
        item["quantity"] = each["quantity"]
        entered.append(item)
    return entered, list(held.values())


# --- usage, in arrears


def usage_so_far(tx: Transaction, sub: Json, items: list[Json], at: int) -> list[Json]:
    """What metered items that end now have used since they were last billed."""
    lines = [usage_line(tx, sub, item, at) for item in items if is_metered(tx, item)]
    return [line for line in lines if line["amount"]]


def usage_line(tx: Transaction, sub: Json, item: Json, until: int) -> Json:
    price = price_of(tx, item)
    start = item.get("_usage_from") or item["current_period_start"]
    used = meters.usage(tx, price["recurring"]["meter"], sub["customer"], start, until)
    amount = round_half_away(price_amount(price, used))
    line = subscription_line(
        sub,
        item,
        price,
        amount,
        (start, until),
        f"{_plain(used)} × {_product(tx, price)} ({_terms(price)})",
        quantity=round_half_away(used),
    )
    return line | {"quantity_decimal": _plain(used)}


def _plain(value: Fraction) -> str:
    whole = value.denominator == 1
    return str(value.numerator) if whole else format(float(value), "f").rstrip("0")


# --- words


def _named(tx: Transaction, price: Json, quantity: Any) -> str:
    product = _product(tx, price)
    return product if quantity == 1 else f"{quantity} × {product}"


def _product(tx: Transaction, price: Json) -> str:
    product = tx.get(price["product"])
    return str(product["name"]) if product else str(price["product"])


def _terms(price: Json) -> str:
    recurring = price["recurring"]
    count = recurring["interval_count"]
    every = recurring["interval"] if count == 1 else f"{count} {recurring['interval']}s"
    if price["billing_scheme"] == "tiered":
        return f"tiered / {every}"
    if price["unit_amount"] is None:
        return (
            f"at {price['unit_amount_decimal']} {price['currency'].upper()} minor units / {every}"
        )
    return f"at {_formatted(price['unit_amount'], price['currency'])} / {every}"


@lru_cache(1000)
def _formatted(amount_minor: int, currency: str) -> str:
    return Money(amount_minor, currency).formatted()


def _day(at: int) -> str:
    day = datetime.fromtimestamp(at, UTC)
    return f"{day.day} {day:%b %Y}"
