"""What a choice of packages would cost, for somebody who has not bought it yet.

Nothing of a customer is known here: prices are those sold now. Licensed charges are billed once
per interval. Expected use is given **by the month**, in a yearly estimate too, where a metered
charge that has no yearly price is billed twelve times; so one input can be compared over
intervals and plans.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction

import msgspec

from entitlements.catalog.model import (
    AddOn,
    Aggregation,
    AnyPackage,
    Bundle,
    Catalog,
    Charge,
    FeatureKind,
    Plan,
    Product,
    ResetPeriod,
)
from entitlements.kernel.errors import Issue, ValidationFailed
from entitlements.kernel.money import Money, round_half_away
from entitlements.kernel.period import Interval
from entitlements.pricing.charges import explain, licensed, sold_in
from entitlements.pricing.cheaper import Asked, Market, Offer, cheaper_offers, metered_cost
from entitlements.pricing.discounts import Saving, saving_of
from entitlements.pricing.quantities import counted_features, first_bought
from entitlements.pricing.selection import (
    Selected,
    broken_relations,
    charges_of,
    granted_values,
    most_to_buy,
)

MAX_QUANTITY = 10**12
"""The most units of anything that an estimate takes."""

_MAX_AMOUNT_MINOR = 2**63 - 1  # what the API's BigInt and the database hold


class PackageQuantity(msgspec.Struct, frozen=True):
    """How many of a package, by its id."""

    id: str
    quantity: int = 1


class FeatureQuantity(msgspec.Struct, frozen=True):
    """Units of a metered feature: a level to be bought, or the use expected in a month."""

    feature_id: str
    quantity: int


class EstimateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What is looked at. `currency` defaults to the catalog's first.

    A level that is left out is taken as first bought: max(`minimum`, 1). Use that is left out
    is none.
    """

    plan_id: str | None = None
    add_ons: tuple[PackageQuantity, ...] = ()
    bundles: tuple[PackageQuantity, ...] = ()
    quantities: tuple[FeatureQuantity, ...] = ()
    currency: str | None = None
    interval: Interval = Interval.MONTH


class EstimateLine(msgspec.Struct, frozen=True):
    """One charge: the units it counts, what it comes to per interval, and how, in English.

    `quantity` of a metered charge is what it counts at each of its bills: a month's use, unless
    it is billed by the year.
    """

    package: AnyPackage
    charge: Charge
    quantity: int
    amount: Money
    explanation: str


class CheaperOption(msgspec.Struct, frozen=True, kw_only=True):
    """Packages that give at least all that was asked for less.

    `plan_id` is None where no plan, or one within a bundle, is part of it. `quantities` are the
    levels to buy.
    """

    description: str
    total: Money
    saving: Money
    plan_id: str | None
    add_ons: tuple[PackageQuantity, ...]
    bundles: tuple[PackageQuantity, ...]
    quantities: tuple[FeatureQuantity, ...]


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """The answer. Amounts are per interval, but for `monthly_equivalent` (the year ÷ 12).

    `annual_saving` is what paying by the year would save in a year; None where it saves nothing
    or is not offered. `cheaper` has the best offer of each plan, the cheapest first;
    `cheaper_complete` is False where the search was cut short, so that a better one may exist.
    """

    product: Product
    currency: str
    interval: Interval
    lines: tuple[EstimateLine, ...]
    total: Money
    monthly_equivalent: Money
    annual_saving: Saving | None
    cheaper: tuple[CheaperOption, ...]
    cheaper_complete: bool


def estimate(catalog: Catalog, request: EstimateRequest, *, with_cheaper: bool = True) -> Estimate:
    """Price what is asked. Raises `ValidationFailed` with every mistake and its path.

    `with_cheaper=False` leaves out the search for cheaper options, most of the work (some
    milliseconds, at worst some tenths of a second).

    Codes: NOTHING_CHOSEN, UNKNOWN_PLAN, UNKNOWN_ADD_ON, UNKNOWN_BUNDLE, UNKNOWN_FEATURE,
    UNKNOWN_CURRENCY, NOT_SOLD (in that currency or interval), CONTACT_SALES, OTHER_PRODUCT,
    DUPLICATE, OUT_OF_RANGE, NOT_METERED, ABOVE_LIMIT, TOO_LARGE, and those of `BrokenRelation`.
    """
    choice = _Choice(catalog, request)
    if choice.issues:
        raise ValidationFailed(choice.issues)
    market, items, bought = choice.market(), choice.items, choice.bought
    lines = estimate_lines(market, items, bought)
    total = sum(line.amount.amount_minor for line in lines)
    if total > _MAX_AMOUNT_MINOR:
        raise ValidationFailed.of("quantities", "TOO_LARGE", "that is more than can be counted")
    offers: list[Offer] = []
    complete = True
    if with_cheaper:
        offers, complete = cheaper_offers(market, Asked(tuple(items), bought, total))
    return Estimate(
        product=market.product,
        currency=market.currency,
        interval=market.interval,
        lines=tuple(lines),
        total=Money(total, market.currency),
        monthly_equivalent=Money(
            round_half_away(Fraction(total, market.interval.months)), market.currency
        ),
        annual_saving=_annual_saving(market, items, bought),
        cheaper=tuple(_cheaper_option(market, offer, total, bought) for offer in offers),
        cheaper_complete=complete,
    )


def estimate_lines(
    market: Market, items: Sequence[Selected], bought: Mapping[str, int]
) -> list[EstimateLine]:
    """A line for each charge, in the order given; metered ones only where something is billed or
    use was expected."""
    lines = []
    for item in items:
        package = item.package
        for priced in licensed(package, item.quantity, bought, market.currency, market.interval):
            words = explain(priced.charge, priced.price, priced.quantity)
            amount = Money(priced.amount_minor, market.currency)
            lines.append(EstimateLine(package, priced.charge, priced.quantity, amount, words))
        lines += [
            line
            for charge in package.charges
            if charge.metered and (line := _metered_line(market, item, charge))
        ]
    return lines


def _metered_line(market: Market, item: Selected, charge: Charge) -> EstimateLine | None:
    units, bills, cost = metered_cost(charge, market, item.quantity)
    price = charge.price(market.currency, market.interval)
    if price is None or not (units or cost):
        return None
    words = explain(charge, price, units, item.quantity)
    words = f"{bills} months, each {words}" if bills > 1 else words
    return EstimateLine(item.package, charge, units, Money(cost, market.currency), words)


def _annual_saving(
    market: Market, items: Sequence[Selected], bought: Mapping[str, int]
) -> Saving | None:
    """Twelve months against a year of the same, with the same use."""
    if not all(sold_in(item.package, market.currency, i) for item in items for i in Interval):
        return None
    month, year = (
        sum(
            line.amount.amount_minor
            for line in estimate_lines(
                msgspec.structs.replace(market, interval=interval), items, bought
            )
        )
        for interval in (Interval.MONTH, Interval.YEAR)
    )
    return saving_of(12 * month, year, market.currency) if year < 12 * month else None


def _cheaper_option(
    market: Market, offer: Offer, total: int, asked_bought: Mapping[str, int]
) -> CheaperOption:
    of_kind = {
        kind: tuple(
            PackageQuantity(item.package.id, item.quantity)
            for item in offer.items
            if isinstance(item.package, kind)
        )
        for kind in (Plan, AddOn, Bundle)
    }
    names = [
        f"{item.quantity} × {item.package.name}" if item.quantity > 1 else item.package.name
        for item in offer.items
    ]
    moved = [
        f"{quantity:,} {market.catalog.features[feature_id].name}"
        for feature_id, quantity in offer.bought.items()
        if quantity != asked_bought.get(feature_id)
    ]
    return CheaperOption(
        description=" + ".join(names) + (f" with {' and '.join(moved)}" if moved else ""),
        total=Money(offer.total_minor, market.currency),
        saving=Money(total - offer.total_minor, market.currency),
        plan_id=next((plan.id for plan in of_kind[Plan]), None),
        add_ons=of_kind[AddOn],
        bundles=of_kind[Bundle],
        quantities=tuple(FeatureQuantity(f, q) for f, q in offer.bought.items()),
    )


class _Choice:
    """A request read against the catalog: what it means, or every mistake in it."""

    def __init__(self, catalog: Catalog, request: EstimateRequest) -> None:
        self.catalog, self.request = catalog, request
        self.issues: list[Issue] = []
        self.items: list[Selected] = []
        self.paths: dict[str, tuple[str, ...]] = {}
        self.bought: dict[str, int] = {}
        self.usage: dict[str, int] = {}
        self.currency = request.currency or next(iter(catalog.currencies), "")
        self._read_packages()
        self._read_quantities()
        self._check_market()
        if not self.issues:
            self._check_together()

    def market(self) -> Market:
        product = self.catalog.products[self.items[0].package.product_id]
        return Market(self.catalog, product, self.currency, self.request.interval, self.usage)

    def _refuse(self, path: tuple[str, ...], code: str, message: str) -> None:
        issue = Issue(path, code, message)
        if issue not in self.issues:
            self.issues.append(issue)

    def _read_packages(self) -> None:
        request = self.request
        if request.plan_id is not None:
            self._read_package(PackageQuantity(request.plan_id), Plan, ("planId",))
        for i, wanted in enumerate(request.add_ons):
            self._read_package(wanted, AddOn, ("addOns", str(i), "id"))
        for i, wanted in enumerate(request.bundles):
            self._read_package(wanted, Bundle, ("bundles", str(i), "id"))
        if request.plan_id is None and not request.add_ons and not request.bundles:
            self._refuse(("planId",), "NOTHING_CHOSEN", "choose a plan, an add-on or a bundle")

    def _read_package(
        self, wanted: PackageQuantity, kind: type[AnyPackage], path: tuple[str, ...]
    ) -> None:
        package = self.catalog.current.get(wanted.id)
        if not isinstance(package, kind):
            noun = {Plan: "plan", AddOn: "add-on", Bundle: "bundle"}[kind]
            code = f"UNKNOWN_{noun.upper().replace('-', '_')}"
            self._refuse(path, code, f"there is no {noun} {wanted.id!r}")
            return
        if wanted.id in self.paths:
            self._refuse(path, "DUPLICATE", f"{wanted.id!r} is named twice")
            return
        if not 1 <= wanted.quantity <= MAX_QUANTITY:
            message = f"the quantity must be from 1 to {MAX_QUANTITY:,}"
            self._refuse((*path[:-1], "quantity"), "OUT_OF_RANGE", message)
        if package.contact_sales:
            self._refuse(path, "CONTACT_SALES", f"{package.name} is sold by our staff")
        if self.items and package.product_id != self.items[0].package.product_id:
            message = f"{package.name} is part of another product than {self.items[0].package.name}"
            self._refuse(path, "OTHER_PRODUCT", message)
        self.paths[wanted.id] = path
        self.items.append(Selected(package, wanted.quantity))

    def _read_quantities(self) -> None:
        """Levels that a charge counts are bought; all others are use, of a month or at a time."""
        counted = counted_features(charges_of(self.items))
        for feature_id in sorted(counted):
            charges = [c for c in charges_of(self.items) if c.quantity_feature == feature_id]
            self.bought[feature_id] = first_bought(charges)
        seen = set()
        for i, wanted in enumerate(self.request.quantities):
            path = ("quantities", str(i), "featureId")
            feature = self.catalog.features.get(wanted.feature_id)
            if feature is None:
                self._refuse(path, "UNKNOWN_FEATURE", f"there is no feature {wanted.feature_id!r}")
                continue
            if feature.kind is not FeatureKind.METERED:
                self._refuse(path, "NOT_METERED", f"{feature.name} has no quantity")
            if feature.id in seen:
                self._refuse(path, "DUPLICATE", f"{feature.id!r} is named twice")
            if not 0 <= wanted.quantity <= MAX_QUANTITY:
                message = f"the quantity must be from 0 to {MAX_QUANTITY:,}"
                self._refuse((*path[:-1], "quantity"), "OUT_OF_RANGE", message)
            seen.add(feature.id)
            (self.bought if feature.id in counted else self.usage)[feature.id] = wanted.quantity

    def _check_market(self) -> None:
        if self.currency not in self.catalog.currencies:
            listed = ", ".join(self.catalog.currencies)
            message = f"{self.currency!r} is not a currency of the catalog ({listed})"
            self._refuse(("currency",), "UNKNOWN_CURRENCY", message)
            return
        for item in self.items:
            package, interval = item.package, self.request.interval
            if not package.contact_sales and not sold_in(package, self.currency, interval):
                other = any(sold_in(package, self.currency, i) for i in Interval)
                message = f"{package.name} is not sold in {self.currency.upper()} by the {interval}"
                self._refuse(("interval",) if other else ("currency",), "NOT_SOLD", message)

    def _check_together(self) -> None:
        for broken in broken_relations(self.catalog, self.items):
            self._refuse(self.paths[broken.package_id], broken.code, broken.message)
        values = granted_values(self.catalog, self.items, self.bought)
        for i, wanted in enumerate(self.request.quantities):
            feature = self.catalog.features[wanted.feature_id]
            if feature.id in self.bought:
                most = most_to_buy(self.catalog, self.items, feature.id)
            else:
                value = values.get(feature.id)
                most = value.limit or 0 if value else 0
                if value and (value.unlimited or value.overage):
                    most = None
            used = wanted.quantity * self._months_per_reset(feature.id)
            if most is not None and used > most:
                path = ("quantities", str(i), "quantity")
                message = f"{feature.name}: at most {most:,} with this choice, not {used:,}"
                self._refuse(path, "ABOVE_LIMIT", message)

    def _months_per_reset(self, feature_id: str) -> int:
        """How many months of expected use a limit has to hold.

        Use that resets within hours, days or weeks cannot be told from a month's: 0.
        """
        feature = self.catalog.features[feature_id]
        if feature.aggregation is not Aggregation.SUM:
            return 1
        if feature.reset in (ResetPeriod.HOUR, ResetPeriod.DAY, ResetPeriod.WEEK):
            return 0
        if feature.reset is not ResetPeriod.BILLING_PERIOD:
            return 1
        metering = [c for c in charges_of(self.items) if c.quantity_feature == feature_id]
        prices = [c.price(self.currency, self.request.interval) for c in metering]
        return max((price.interval.months for price in prices if price), default=1)
