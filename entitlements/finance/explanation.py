"""Why an invoice line has its amount, in words and figures. PURE.

The sum is the engine's own, worked out anew from what was held then; it says so where that is not
what was charged.
"""

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction

import msgspec

from entitlements.catalog.model import AnyPackage, Bundle, Catalog, Charge, Price
from entitlements.kernel.money import Money, decimals_of, round_half_away, round_rate
from entitlements.kernel.period import Interval, Period, format_instant
from entitlements.pricing.charges import amount, explain, rate_text
from entitlements.pricing.proration import capped_credit
from entitlements.subscriptions.change import ChangePlan
from entitlements.subscriptions.invoice_line import Line, LineKind
from entitlements.subscriptions.lines import Slot, slots_of
from entitlements.subscriptions.state import Subscription


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """`computed_minor` is what the engine makes of the line; None where it is not known what was
    held."""

    steps: tuple[str, ...]
    computed_minor: int | None


class Configuration(msgspec.Struct, frozen=True, kw_only=True):
    """Charges that are held together, and the billing period that they are charged for.

    `charged` says by `package/charge` what a whole period was charged at, where that is not the
    price (`HeldCharge`).
    """

    currency: str
    interval: Interval
    period: Period
    slots: tuple[Slot, ...]
    charged: Mapping[str, Fraction] = {}


def held_then(catalog: Catalog, held: Subscription) -> Configuration:
    return Configuration(
        currency=held.currency,
        interval=held.interval,
        period=held.period,
        slots=tuple(slots_of(catalog, held.items, held.quantities)),
        charged={
            f"{item.package_id}/{charge_id}": Fraction(charge.charged_at)
            for item in held.items
            for charge_id, charge in item.charges.items()
            if charge.charged_at is not None
        },
    )


def planned(plan: ChangePlan) -> tuple[Configuration, Configuration]:
    """What a change makes of what is held, and what it was before, in the period of after."""
    after = Configuration(
        currency=plan.currency, interval=plan.interval, period=plan.period, slots=plan.after
    )
    return after, msgspec.structs.replace(after, slots=plan.before)


def explain_line(
    catalog: Catalog, line: Line, currency: str, held: Sequence[Configuration]
) -> Explanation:
    """The sum behind a line of a package, by one of the states in which it may have been charged.

    The first of `held` in which it comes out to the minor unit, else the first that it fits.
    """
    package = catalog.version(line.package_id or "", line.version or 0)
    kinds = [line.kind] if line.amount_minor else [line.kind, LineKind.CREDIT]
    fitting = [
        found
        for kind in kinds  # of nothing the provider does not say whether it was given back
        for state in held
        if (slot := _slot(line, state)) is not None
        and (found := _worked_out(package, line, kind, state, slot)) is not None
    ]
    best = [found for found in fitting if found.computed_minor == line.amount_minor] or fitting
    first = f"{package.name}, version {package.version_id}"
    if line.charge_id is not None:
        first += f", charge {line.charge_id}"
    if not best:
        words = "What was held then is not recorded: the amount cannot be worked out anew."
        return Explanation(steps=(f"{first}.", words), computed_minor=None)
    tail = [
        *_difference(best[0].computed_minor, line, currency),
        *_allocations(catalog, line, currency),
    ]
    return Explanation(
        steps=(f"{first}.", *best[0].steps, *tail), computed_minor=best[0].computed_minor
    )


def _slot(line: Line, held: Configuration) -> Slot | None:
    """What the line is of, if it may have been charged while this was held."""
    if line.period is None or not (line.metered or _covers(held.period, line.period)):
        return None
    for slot in held.slots:
        if (slot.key, slot.version) == (line.key, line.version):
            return slot
    return None


def _covers(whole: Period, part: Period) -> bool:
    return whole.start <= part.start and whole.end == part.end


def _worked_out(
    package: AnyPackage, line: Line, kind: LineKind, held: Configuration, slot: Slot
) -> Explanation | None:
    assert line.period is not None
    currency = held.currency
    charge = package.charge(slot.charge_id)
    price = charge.price(currency, held.interval)
    if price is None:
        return None
    if line.metered:
        return _use(charge, price, line, slot)
    listed = amount(charge, price, slot.quantity)
    words = explain(charge, price, slot.quantity)
    steps = [f"Price: {words} = {_exact(listed, currency)} by the {held.interval}."]
    exact = listed * Fraction(slot.price_factor)
    if exact != listed:
        steps.append(
            f"Grandfathered: × {slot.price_factor} of that = {_exact(exact, currency)}, as far as "
            "renewals may raise it."
        )
    if isinstance(package, Bundle) and package.discount_percent is not None:
        steps.append(
            f"Discount: the bundle's prices are its parts' less {package.discount_percent} %, "
            "which is in the price."
        )
    whole, part = _seconds(held.period), _seconds(line.period)
    share = Fraction(part, whole)
    potential = round_half_away(exact * share)
    if share == 1:
        steps.append(f"Period: all of {_words(held.period)}.")
    else:
        steps.append(
            f"Period: from {format_instant(line.period.start)}, {part:,} of the {whole:,} seconds "
            f"of {_words(held.period)}."
        )
        steps.append(
            f"Share: {_exact(exact, currency)} × {part:,} ÷ {whole:,} = "
            f"{_exact(exact * share, currency)}."
        )
    computed = potential
    if kind is LineKind.CREDIT:
        paid = held.charged.get(slot.key, exact)
        computed = -capped_credit(potential, round_half_away(paid * share))
        if paid != exact:
            steps.append(
                f"A credit is never more than what was charged: {_exact(paid, currency)} for the "
                "whole period."
            )
    rounded = f"Rounded half away from zero, once: {_money(computed, currency)}"
    steps.append(f"{rounded}, given back." if computed < 0 else f"{rounded}.")
    return Explanation(steps=tuple(steps), computed_minor=computed)


def _use(charge: Charge, price: Price, line: Line, slot: Slot) -> Explanation:
    """The units that are to be paid for: what is included was left out before they were counted."""
    assert line.period is not None
    currency, units = price.currency, line.quantity or 0
    beyond = msgspec.structs.replace(charge, included=0)
    exact = amount(beyond, price, units) * Fraction(slot.price_factor)
    computed = round_half_away(exact)
    included = f", beyond {charge.included:,} included for each held" if charge.included else ""
    factor = "" if slot.price_factor == 1 else f" × {slot.price_factor}, grandfathered,"
    steps = (
        f"Use: {units:,} in {_words(line.period)}{included}.",
        f"Price: {explain(beyond, price, units)}{factor} = {_exact(exact, currency)}.",
        f"Rounded half away from zero, once: {_money(computed, currency)}.",
    )
    return Explanation(steps=steps, computed_minor=computed)


def _difference(computed_minor: int | None, line: Line, currency: str) -> Iterator[str]:
    if computed_minor is not None and computed_minor != line.amount_minor:
        off = line.amount_minor - computed_minor
        yield (
            f"Charged: {_money(line.amount_minor, currency)}, as the payment provider has it: "
            f"{_money(abs(off), currency)} {'more' if off > 0 else 'less'} than worked out here."
        )


def _allocations(catalog: Catalog, line: Line, currency: str) -> Iterator[str]:
    if line.allocations:
        parts = ", ".join(
            f"{catalog.version(part.package_id, part.version).name} "
            f"{_money(part.amount_minor, currency)}"
            for part in line.allocations
        )
        yield f"Revenue of: {parts}."


def _seconds(period: Period) -> int:
    return int((period.end - period.start).total_seconds())


def _words(period: Period) -> str:
    return f"{format_instant(period.start)} – {format_instant(period.end)}"


def _money(amount_minor: int, currency: str) -> str:
    return Money(amount_minor, currency).formatted("en_US")


def _exact(minor: Fraction, currency: str) -> str:
    """An amount as it is before it is rounded.

    >>> [_exact(Fraction(minor), "usd") for minor in (9900, Fraction(19833, 2), Fraction(2, 3))]
    ['$99.00', '$99.165', '$0.006666666667 (to 12 decimals)']
    """
    major = minor / 10 ** decimals_of(currency)
    shown = round_rate(major)
    text = rate_text(shown, currency)
    return text if Fraction(shown) == major else f"{text} (to 12 decimals)"
