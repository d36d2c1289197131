"""What is saved: by paying for a year, and by taking a bundle in place of its parts."""

from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction

import msgspec

from entitlements.catalog.model import Bundle, Catalog, Charge, Price
from entitlements.kernel.errors import ValidationFailed
from entitlements.kernel.money import Money, plain, round_half_away
from entitlements.kernel.period import Interval
from entitlements.pricing.charges import licensed, sold_in
from entitlements.pricing.mrr import recurring_minor


class Saving(msgspec.Struct, frozen=True):
    """An amount saved, and its percentage of what would have been paid (two decimals)."""

    amount: Money
    percent: Decimal


def saving_of(full_minor: int, reduced_minor: int, currency: str) -> Saving:
    """What is saved by paying the reduced amount; 0 percent of nothing.

    The three modules of 50 + 75 + 50 for 150:

    >>> saved = saving_of(17500, 15000, "usd")
    >>> saved.amount.formatted(), str(saved.percent)
    ('$25.00', '14.29')
    """
    saved = full_minor - reduced_minor
    return Saving(Money(saved, currency), percent_of(saved, full_minor))


def percent_of(part: Fraction | int, whole: Fraction | int) -> Decimal:
    """`part` in percent of `whole`, rounded half away from zero to two decimals.

    >>> str(percent_of(400, 2400)), str(percent_of(15, 100)), str(percent_of(1, 0))
    ('16.67', '15', '0')
    """
    if whole == 0:
        return Decimal(0)
    hundredths = round_half_away(Fraction(part) / Fraction(whole) * 10_000)
    return plain(Decimal(hundredths).scaleb(-2))


def annual_saving_percent(charge: Charge, currency: str) -> Decimal | None:
    """What a charge's yearly price saves against twelve monthly ones; negative if it is dearer.

    None where one of the two is not sold, or where tiers save differently from each other, so
    that no single figure would be true.

    >>> from entitlements.catalog.model import BillingTime, PricingModel
    >>> month = Price(currency="usd", interval=Interval.MONTH, flat_amount=Decimal(200))
    >>> year = Price(currency="usd", interval=Interval.YEAR, flat_amount=Decimal(2000))
    >>> fee = Charge(id="fee", name="Fee", model=PricingModel.FLAT,
    ...     billing=BillingTime.IN_ADVANCE, prices=(month, year))
    >>> str(annual_saving_percent(fee, "usd"))
    '16.67'
    """
    prices = {price.interval: price for price in charge.prices if price.currency == currency}
    if Interval.MONTH not in prices or Interval.YEAR not in prices:
        return None
    month, year = _rates(prices[Interval.MONTH]), _rates(prices[Interval.YEAR])
    if month.keys() != year.keys():
        return None
    savings = {
        percent_of(12 * Fraction(rate) - Fraction(year[of]), 12 * Fraction(rate))
        for of, rate in month.items()
        if rate or year[of]
    }
    return savings.pop() if len(savings) == 1 else None


def _rates(price: Price) -> dict[tuple[int | None, str], Decimal]:
    """Every amount of a price, by the tier's bound and what it is for."""
    if price.tiers:
        units = {(tier.up_to, "unit"): tier.unit for tier in price.tiers}
        return units | {(tier.up_to, "flat"): tier.flat for tier in price.tiers}
    single = price.flat_amount if price.flat_amount is not None else price.unit_amount
    return {(None, "unit"): single or Decimal(0)}


def bundle_saving(
    catalog: Catalog,
    bundle: Bundle,
    currency: str,
    interval: Interval,
    bought: Mapping[str, int] | None = None,
) -> Saving:
    """What one bundle saves against its parts bought singly, per interval.

    The parts are those that the bundle pins, at their own prices; level features count `bought`,
    or as when first bought. Metered charges stay out. Raises `ValidationFailed` where the
    bundle or a part is not sold in that currency and interval.
    """
    parts = [(catalog.version(c.package_id, c.version), c.quantity) for c in bundle.components]
    for package in (bundle, *(package for package, _ in parts)):
        if not sold_in(package, currency, interval):
            words = f"{package.name} is not sold in {currency.upper()} by the {interval}"
            raise ValidationFailed.of("currency", "NOT_SOLD", words)
    singly = sum(
        recurring_minor(licensed(package, quantity, bought or {}, currency, interval))
        for package, quantity in parts
    )
    together = recurring_minor(licensed(bundle, 1, bought or {}, currency, interval))
    return saving_of(singly, together, currency)
