"""What a package costs, as the document says it: charges with a price per currency and interval."""

from collections.abc import Iterable, Mapping
from decimal import Decimal
from fractions import Fraction

from entitlements.catalog.model import (
    Aggregation,
    BillingTime,
    Charge,
    Feature,
    FeatureKind,
    Price,
    PricingModel,
    Tier,
)
from entitlements.catalog.report import Report, present
from entitlements.catalog.schema import ChargeShape, TierShape
from entitlements.catalog.source import Path
from entitlements.kernel.money import decimals_of, minor_from_major, round_half_away, round_rate
from entitlements.kernel.period import Interval

Features = Mapping[str, Feature | None]
"""By id; None is a feature that the document has, but that is not well formed."""

_TIERED = (PricingModel.VOLUME, PricingModel.GRADUATED)


def read_charges(
    shapes: Iterable[ChargeShape] | None,
    path: Path,
    features: Features,
    currencies: Iterable[str],
    report: Report,
) -> tuple[tuple[Path, Charge], ...]:
    """Each charge that can be read, with its path. Mistakes go to the report."""
    found = list(present(shapes, path))
    report.unique((((*p, "id"), shape.id) for p, shape in found), "charge")
    charges = [(p, _charge(shape, p, features, report)) for p, shape in found]
    for p, shape in found:
        _check_currencies(shape, p, frozenset(currencies), report)
    metered = [(p, c) for p, c in charges if c.metered and features.get(c.quantity_feature or "")]
    _check_metered_once(metered, report)
    return tuple(charges)


def _check_metered_once(charges: list[tuple[Path, Charge]], report: Report) -> None:
    seen: set[str | None] = set()
    for path, charge in charges:
        if charge.quantity_feature in seen:
            words = f"two charges meter {charge.quantity_feature!r}"
            report.add((*path, "quantity"), "METERED_TWICE", words)
        seen.add(charge.quantity_feature)


def _charge(shape: ChargeShape, path: Path, features: Features, report: Report) -> Charge:
    metered = _is_metered(shape, path, features, report)
    _check_model(shape, path, report)
    if metered:
        _check_metered(shape, path, report)
    elif metered is False and shape.billing is BillingTime.IN_ARREARS:
        words = "a licensed charge is billed in advance; only use (a sum) is billed in arrears"
        report.add((*path, "billing"), "WRONG_BILLING", words)
    return Charge(
        id=shape.id,
        name=shape.name,
        model=shape.model,
        billing=BillingTime.IN_ADVANCE if metered is False else BillingTime.IN_ARREARS,
        prices=_prices(shape, path, report),
        quantity_feature=shape.quantity,
        metered=metered is not False,
        included=shape.included,
        minimum=shape.minimum,
        package_size=shape.package_size,
    )


def _is_metered(shape: ChargeShape, path: Path, features: Features, report: Report) -> bool | None:
    """Whether use is billed; None where the feature is not in order, so that nobody can tell."""
    if shape.quantity is None:
        return False
    at = (*path, "quantity")
    feature = features.get(shape.quantity)
    if shape.quantity not in features:
        report.add(at, "NOT_FOUND", f"there is no feature {shape.quantity!r}")
    elif feature is not None and feature.kind is not FeatureKind.METERED:
        words = f"{shape.quantity!r} is {feature.kind}; a metered feature is expected"
        report.add(at, "WRONG_KIND", words)
    if feature is None or feature.aggregation is None:
        return None
    return feature.aggregation is Aggregation.SUM


def _check_model(shape: ChargeShape, path: Path, report: Report) -> None:
    if shape.model is PricingModel.FLAT:
        given = {"quantity": shape.quantity, "minimum": shape.minimum, "included": shape.included}
        for key, value in given.items():
            if value:
                words = "a flat charge counts no quantity; per_unit does"
                report.add((*path, key), "NOT_FOR_MODEL", words)
    if shape.model is PricingModel.PACKAGE and shape.package_size is None:
        report.add((*path, "package_size"), "MISSING", "package needs the units per block")
    if shape.model is not PricingModel.PACKAGE and shape.package_size is not None:
        words = f"{shape.model} has no blocks; the model package has"
        report.add((*path, "package_size"), "NOT_FOR_MODEL", words)


def _check_metered(shape: ChargeShape, path: Path, report: Report) -> None:
    if shape.minimum is not None:
        words = "a metered charge bills what is used; a minimum is refused on it"
        report.add((*path, "minimum"), "MINIMUM_ON_METERED", words)
    if shape.billing is BillingTime.IN_ADVANCE:
        words = "what is used is billed in arrears"
        report.add((*path, "billing"), "WRONG_BILLING", words)
    if shape.annual_discount_percent is not None:
        words = "a rate of use is the same in a year; write the year's rate or leave it out"
        report.add((*path, "annual_discount_percent"), "DISCOUNT_ON_METERED", words)


def _check_currencies(
    shape: ChargeShape, path: Path, currencies: frozenset[str], report: Report
) -> None:
    for currency in shape.prices:
        at = (*path, "prices", currency)
        if currency not in currencies and report.is_clean(("currencies",)):
            words = f"{currency!r} is not among the catalog's currencies"
            report.add(at, "UNKNOWN_CURRENCY", words)


def _prices(shape: ChargeShape, path: Path, report: Report) -> tuple[Price, ...]:
    prices = []
    for currency, by_interval in shape.prices.items():
        at = (*path, "prices", currency)
        month = _price(shape, currency, Interval.MONTH, by_interval.month, at, report)
        year = _price(shape, currency, Interval.YEAR, by_interval.year, at, report)
        if shape.annual_discount_percent is not None:
            year = _discounted_year(shape, month, year, at, report)
        prices += [price for price in (month, year) if price is not None]
    return tuple(prices)


def _price(
    shape: ChargeShape,
    currency: str,
    interval: Interval,
    written: Decimal | list[TierShape] | None,
    path: Path,
    report: Report,
) -> Price | None:
    """One price, or None where there is none; of the form that the model wants."""
    if written is None:
        return None
    at = (*path, interval.value)
    if isinstance(written, Decimal):
        if shape.model in _TIERED:
            report.add(at, "WRONG_FORM", f"{shape.model} is priced in tiers")
            return None
        if shape.model is PricingModel.FLAT:
            return Price(currency=currency, interval=interval, flat_amount=written)
        return Price(currency=currency, interval=interval, unit_amount=written)
    if shape.model not in _TIERED:
        report.add(
            at, "WRONG_FORM", f"{shape.model} has one amount; volume and graduated have tiers"
        )
        return None
    return Price(currency=currency, interval=interval, tiers=_tiers(written, at, report))


def _tiers(written: list[TierShape], path: Path, report: Report) -> tuple[Tier, ...]:
    """The steps in order: bounds inclusive above, rising, and open at the end alone."""
    below = 0
    found = list(present(written, path))
    for i, (at, tier) in enumerate(found if len(found) == len(written) else ()):
        bound, is_last = (*at, "up_to"), i == len(found) - 1
        if tier.up_to is None and not is_last:
            report.add(bound, "TIER_WITHOUT_END", "only the last tier has no end")
        elif tier.up_to is not None and is_last:
            report.add(bound, "TIER_WITH_END", "the last tier has no end: up_to is null")
        elif tier.up_to is not None and tier.up_to <= below:
            words = f"tiers rise: more than {below:,} is expected"
            report.add(bound, "TIERS_NOT_RISING", words)
        below = tier.up_to or below
    return tuple(Tier(tier.up_to, tier.unit, tier.flat) for _, tier in found)


def _discounted_year(
    shape: ChargeShape, month: Price | None, year: Price | None, path: Path, report: Report
) -> Price | None:
    assert shape.annual_discount_percent is not None
    if year is not None:
        words = "the year follows from annual_discount_percent; write one of the two"
        report.add((*path, "year"), "YEAR_TWICE", words)
        return year
    if month is None:
        words = "annual_discount_percent needs the month's price"
        report.add((*path, "month"), "MISSING_PRICE", words)
        return None
    return annual(month, shape.annual_discount_percent)


def annual(month: Price, discount_percent: Decimal) -> Price:
    """The year's price from the month's: month × 12 × (1 − p/100), rounded once.

    Amounts and a tier's flat fee round to the currency's minor unit, unit rates to 12 decimals.

    >>> monthly = Price(currency="usd", interval=Interval.MONTH, flat_amount=Decimal("99.00"))
    >>> annual(monthly, Decimal(17)).flat_amount
    Decimal('986.04')
    """
    factor = 12 * (1 - Fraction(discount_percent) / 100)

    def rate(value: Decimal) -> Decimal:
        return round_rate(Fraction(value) * factor)

    def amount(value: Decimal) -> Decimal:
        return _to_minor_unit(Fraction(value) * factor, month.currency)

    return Price(
        currency=month.currency,
        interval=Interval.YEAR,
        flat_amount=None if month.flat_amount is None else amount(month.flat_amount),
        unit_amount=None if month.unit_amount is None else rate(month.unit_amount),
        tiers=tuple(Tier(t.up_to, rate(t.unit), amount(t.flat)) for t in month.tiers),
    )


def _to_minor_unit(amount: Fraction, currency: str) -> Decimal:
    minor = round_half_away(minor_from_major(amount, currency))
    return Decimal(minor).scaleb(-decimals_of(currency))


def sold_intervals(charges: Iterable[Charge]) -> tuple[Interval, ...]:
    """The intervals that a product sells in: those of its licensed charges.

    Where it has none, those of its metered ones; where nothing has a price, the month.
    """
    every = list(charges)
    licensed = {p.interval for c in every if not c.metered for p in c.prices}
    metered = {p.interval for c in every for p in c.prices}
    found = licensed or metered or {Interval.MONTH}
    return tuple(interval for interval in Interval if interval in found)


def check_complete(
    path: Path,
    charge: Charge,
    currencies: Iterable[str],
    intervals: tuple[Interval, ...],
    report: Report,
) -> None:
    """Every charge has a price in every currency and interval that its product sells in.

    A metered one may leave out the year, unless that is all it could have.
    """
    if report.is_lost((*path, "annual_discount_percent")):
        intervals = (Interval.MONTH,)  # nobody can tell whether the year would follow
    priced = {(p.currency, p.interval) for p in charge.prices}
    needed = (Interval.MONTH,) if charge.metered and Interval.MONTH in intervals else intervals
    for currency in currencies:
        has = {interval for c, interval in priced if c == currency}
        missing = [i for i in needed if i not in has]
        if charge.metered and has and Interval.MONTH not in needed:
            missing = []
        if not has and missing:
            _missing((*path, "prices", currency), f"a price in {currency} is missing", report)
            continue
        for interval in missing:
            words = f"the price per {interval} in {currency} is missing"
            _missing((*path, "prices", currency, interval.value), words, report)


def _missing(path: Path, words: str, report: Report) -> None:
    """A price that is missing for a reason that was reported already goes without saying."""
    if report.is_clean(path):
        report.add(path, "MISSING_PRICE", words)
