"""The least-cost packages of a product that give at least what was asked for.

For each plan that could serve as the base (a plan, or a bundle that brings one) the best set of
add-ons and bundles beside it is found exactly, by branch and bound. The bound is the value of a
feasible solution of the covering problem's dual (weak duality: it never exceeds the true rest).
The work is bounded by a count of nodes; an answer that was cut short says so.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

import msgspec

from entitlements.catalog.model import (
    AddOn,
    AnyPackage,
    Catalog,
    Charge,
    EntitlementValue,
    FeatureKind,
    GrantMode,
    Plan,
    PricingModel,
    Product,
)
from entitlements.catalog.values import at_least, is_granted
from entitlements.kernel.period import Interval
from entitlements.pricing.charges import amount_minor, sold_in
from entitlements.pricing.quantities import charged_quantity, counted_features, first_bought
from entitlements.pricing.selection import (
    Part,
    Selected,
    all_parts,
    broken_relations,
    charges_of,
    granted_values,
    most_to_buy,
    parts_of,
)

MAX_NODES = 20_000
"""Steps of the search per answer, over all bases: a fraction of a second."""
WORK_PER_NODE = 1_000
"""Where more steps than this have to be compared with gaps, a visit counts for several nodes."""
MAX_OPTIONS = 40
"""Add-ons and bundles considered beside one base, the cheapest first."""
MAX_QUANTITIES = 100
"""Quantities of one package that are tried."""

_SCALE = 1 << 32  # bounds are integers of 2⁻³² minor units, so that no fraction is lost to a float


class Market(msgspec.Struct, frozen=True):
    """Where and how something is sold, and the use that its metered charges will bill.

    `usage` is what is expected of each sum feature in a month, by feature id.
    """

    catalog: Catalog
    product: Product
    currency: str
    interval: Interval
    usage: Mapping[str, int] = msgspec.field(default_factory=dict)


class Asked(msgspec.Struct, frozen=True):
    """What an offer must give: a plan or not, the values, the levels bought, and what it costs."""

    items: tuple[Selected, ...]
    bought: Mapping[str, int]
    total_minor: int


class Offer(msgspec.Struct, frozen=True):
    """Packages that give all that was asked, what is bought of level features, and the total."""

    items: tuple[Selected, ...]
    bought: dict[str, int]
    total_minor: int


def metered_cost(charge: Charge, market: Market, packages: int) -> tuple[int, int, int]:
    """What a metered charge bills in one interval: the units it counts at each of its bills, how
    many bills there are, and the sum of them in minor units.

    Use is expected by the month. A charge without a yearly price is billed each month, so twelve
    times in a year; one with a yearly price counts twelve months of use at once.
    """
    price = charge.price(market.currency, market.interval)
    if price is None or charge.quantity_feature is None:
        raise ValueError(f"{charge.id} is not sold in {market.currency}")
    bills = market.interval.months // price.interval.months
    units = market.usage.get(charge.quantity_feature, 0) * price.interval.months
    return units, bills, bills * amount_minor(charge, price, units, packages)


def cheaper_offers(market: Market, asked: Asked) -> tuple[list[Offer], bool]:
    """The best offer of each base that costs less than what was asked, cheapest first, and
    whether the search was complete.

    Everything granted counts, not only what is in use. An add-on asked for that grants nothing
    measurable (no entitlements, or several of one whose entitlements do not add up) is kept.
    Contact-sales packages, and those not sold in the currency and interval, are left out.
    """
    task = _Task(market, asked)
    bases = list(_bases(task))
    offers, complete = [], True
    for base in bases:
        search = _Search(task, base, MAX_NODES // max(len(bases), 1))
        if search.best:
            offers.append(search.best)
        complete = complete and search.complete
    return sorted(offers, key=lambda o: (o.total_minor, len(o.items), _ids(o))), complete


def _ids(offer: Offer) -> list[str]:
    return [item.package.id for item in offer.items]


class _Task:
    """What is wanted, in the forms that the search needs."""

    def __init__(self, market: Market, asked: Asked) -> None:
        self.market, self.asked = market, asked
        catalog = market.catalog
        values = granted_values(catalog, asked.items, asked.bought)
        self.values = {f: value for f, value in values.items() if is_granted(value)}
        parts = all_parts(catalog, asked.items)
        self.needs_plan = any(isinstance(part.package, Plan) for part in parts)
        self.kept = _kept(parts)

    def evaluate(self, items: Sequence[Selected]) -> Offer | None:
        """The items as an offer, or None where they do not give all that is wanted."""
        catalog = self.market.catalog
        if any(True for _ in broken_relations(catalog, items)):
            return None
        held = _quantities(all_parts(catalog, items))
        if any(held.get(add_on, 0) < quantity for add_on, quantity in self.kept.items()):
            return None
        bought: dict[str, int] = {}
        total = sum(self.cost(item.package, item.quantity) for item in items)
        for feature_id, charges in _counting(charges_of(items)).items():
            need = self.need(feature_id, charges, _added(catalog, items, feature_id))
            most = most_to_buy(catalog, items, feature_id)
            found = self.cheapest_level(feature_id, charges, need, most)
            if found is None:
                return None
            cost, bought[feature_id] = found
            total += cost
        values = granted_values(catalog, items, bought)
        for feature_id, wanted in self.values.items():
            if not at_least(catalog.feature(feature_id), values.get(feature_id), wanted):
                return None
        return Offer(tuple(items), bought, total)

    def cost(self, package: AnyPackage, quantity: int) -> int:
        """What a package costs apart from charges that count a level feature."""
        market, total = self.market, 0
        for charge in package.charges:
            if charge.metered:
                total += metered_cost(charge, market, quantity)[2]
            elif charge.quantity_feature is None:
                total += self._licensed(charge, charged_quantity(charge, quantity, {}))
        return total

    def need(self, feature_id: str, charges: Sequence[Charge], added: int) -> int:
        """The least of a counted level feature that may be bought, `added` being granted too."""
        first = first_bought(charges)
        wanted = self.values.get(feature_id, EntitlementValue(limit=0)).limit or 0
        return max(wanted - added, min(first, self.asked.bought.get(feature_id, first)))

    def cheapest_level(
        self, feature_id: str, charges: Sequence[Charge], need: int, most: int | None
    ) -> tuple[int, int] | None:
        """The cost and the quantity, at least `need`, that costs least; None if none is allowed.

        Under volume pricing more may cost less: 51 at $6 against 50 at $8. Only the start of a
        tier can do so.
        """
        tried = [q for q in {need, *_tier_starts(charges)} if q >= need]
        allowed = [q for q in tried if most is None or q <= most]
        costs = [
            (sum(self._licensed(c, charged_quantity(c, 1, {feature_id: q})) for c in charges), q)
            for q in allowed
        ]
        return min(costs, default=None)

    def _licensed(self, charge: Charge, units: int) -> int:
        price = charge.price(self.market.currency, self.market.interval)
        if price is None:
            raise ValueError(f"{charge.id} is not sold in {self.market.currency}")
        return amount_minor(charge, price, units)

    def for_sale(self, package: AnyPackage) -> bool:
        market = self.market
        return not package.contact_sales and sold_in(package, market.currency, market.interval)


def _bases(task: _Task) -> Iterator[tuple[Selected, ...]]:
    market = task.market
    if not task.needs_plan:
        yield ()
    packages: list[AnyPackage] = [*market.product.plans, *market.product.bundles]
    for package in packages:
        brings_plan = any(isinstance(p.package, Plan) for p in parts_of(market.catalog, package))
        if brings_plan and task.for_sale(package):
            yield (Selected(package),)


def _kept(parts: Sequence[Part]) -> dict[str, int]:
    """Add-ons asked for whose worth their entitlements do not tell, with the quantities."""
    quantities = _quantities(parts)
    kept = {}
    for add_on in (part.package for part in parts if isinstance(part.package, AddOn)):
        adds = any(e.mode is GrantMode.ADD for e in add_on.entitlements)
        if not add_on.entitlements or (quantities[add_on.id] > 1 and not adds):
            kept[add_on.id] = quantities[add_on.id]
    return kept


def _quantities(parts: Sequence[Part]) -> dict[str, int]:
    held: dict[str, int] = defaultdict(int)
    for part in parts:
        held[part.package.id] += part.quantity
    return held


def _counting(charges: Sequence[Charge]) -> dict[str, list[Charge]]:
    """The charges that count each level feature."""
    counting: dict[str, list[Charge]] = defaultdict(list)
    for charge in charges:
        if charge.quantity_feature and not charge.metered:
            counting[charge.quantity_feature].append(charge)
    return counting


def _added(catalog: Catalog, items: Sequence[Selected], feature_id: str) -> int:
    return sum(
        (entitlement.value.limit or 0) * part.quantity
        for part in all_parts(catalog, items)
        for entitlement in part.package.entitlements
        if entitlement.feature_id == feature_id and entitlement.mode is GrantMode.ADD
    )


def _tier_starts(charges: Sequence[Charge]) -> set[int]:
    """The quantities at which a volume tier begins."""
    return {
        tier.up_to + 1 + charge.included
        for charge in charges
        if charge.model is PricingModel.VOLUME
        for price in charge.prices
        for tier in price.tiers
        if tier.up_to is not None
    }


class _Step(NamedTuple):
    """A quantity of a package that may be taken: its cost, and the most each gap can shrink."""

    quantity: int
    cost: int
    covers: tuple[int, ...]


class _Option(msgspec.Struct, frozen=True):
    """An add-on or bundle that may be taken beside the base.

    `only_covers`: it is good for the gaps that it covers and for nothing else, and covers them
    exactly; so it is not worth taking where they are closed.
    """

    package: AnyPackage
    steps: tuple[_Step, ...]
    only_covers: bool


class _Bound:
    """A lower bound of what closing gaps costs, beside the options from some index on."""

    def __init__(self, options: Sequence[_Option], gaps: int) -> None:
        steps = [step for option in options for step in option.steps]
        self._costs = [step.cost * _SCALE for step in steps]
        self._starts = list(accumulate((len(option.steps) for option in options), initial=0))
        # By gap, the steps that cover some of it, and how much: most cover little of all there is.
        self._covering: list[list[tuple[int, int]]] = [[] for _ in range(gaps)]
        for j, step in enumerate(steps):
            for i, cover in enumerate(step.covers):
                if cover:
                    self._covering[i].append((j, cover))
        self.work = sum(map(len, self._covering))

    def least_rest(self, gaps: tuple[int, ...], index: int) -> int | None:
        """Scaled; None if the gaps cannot be closed.

        Dual ascent: each open gap in turn is given the highest price per unit at which no step
        sells what it covers for more than it costs.
        """
        start = self._starts[index]
        left = self._costs.copy()
        rest = 0
        for i, gap in enumerate(gaps):
            if not gap:
                continue
            every = self._covering[i]
            from_here = bisect_left(every, (start,))
            covering = [(j, min(gap, cover)) for j, cover in every[from_here:]]
            if not covering:
                return None
            rate = min(left[j] // cover for j, cover in covering)
            for j, cover in covering:
                left[j] -= cover * rate
            rest += gap * rate
        return rest


class _Search:
    """Branch and bound over the options beside one base. `best` is None if nothing is cheaper.

    A *gap* is one thing that the base does not give, in units: 1 for what is had or not, the
    missing units for a limit. Closing every gap is necessary, not sufficient; each full set is
    evaluated with the real rules.
    """

    def __init__(self, task: _Task, base: tuple[Selected, ...], max_nodes: int) -> None:
        self.task, self.base = task, base
        self.best: Offer | None = None
        self.best_minor = task.asked.total_minor
        self.nodes_left, self.complete = max_nodes, True
        self.gaps = self._gaps()
        self.places = self._places()
        self.options = self._options()
        self.bound = _Bound(self.options, len(self.gaps))
        self.nodes_a_visit = 1 + self.bound.work // WORK_PER_NODE
        fixed = sum(task.cost(item.package, item.quantity) for item in base)
        fixed += self._least_level_cost()
        self._visit(0, fixed * _SCALE, tuple(self.gaps.values()), ())

    def _visit(
        self, index: int, cost: int, gaps: tuple[int, ...], chosen: tuple[Selected, ...]
    ) -> None:
        if self.nodes_left <= 0:
            self.complete = False
            return
        self.nodes_left -= self.nodes_a_visit
        rest = self.bound.least_rest(gaps, index)
        if rest is None or cost + rest > (self.best_minor - 1) * _SCALE:
            return
        if index == len(self.options):
            self._evaluate(chosen)
            return
        option = self.options[index]
        helps = any(gap and cover for gap, cover in zip(gaps, option.steps[-1].covers, strict=True))
        leave = _Step(0, 0, (0,) * len(gaps))
        if helps:
            steps = (*option.steps, leave)
        else:
            steps = (leave,) if option.only_covers else (leave, *option.steps)
        for step in steps:
            left = tuple(max(g - c, 0) for g, c in zip(gaps, step.covers, strict=True))
            taken = (*chosen, Selected(option.package, step.quantity)) if step.quantity else chosen
            self._visit(index + 1, cost + step.cost * _SCALE, left, taken)

    def _evaluate(self, chosen: tuple[Selected, ...]) -> None:
        self.nodes_left -= 10  # what an evaluation costs beside a node
        offer = self.task.evaluate((*self.base, *chosen))
        if offer and offer.total_minor < self.best_minor:
            self.best, self.best_minor = offer, offer.total_minor

    def _gaps(self) -> dict[tuple[str, str], int]:
        """What the base lacks: (feature or add-on id, aspect) with the units missing."""
        task, catalog = self.task, self.task.market.catalog
        gaps: dict[tuple[str, str], int] = {}
        counting = counted_features(charges_of(self.base))
        held = granted_values(catalog, self.base, dict.fromkeys(counting, 0))
        for feature_id, wanted in task.values.items():
            has = held.get(feature_id)
            if catalog.feature(feature_id).kind is not FeatureKind.METERED:
                if not at_least(catalog.feature(feature_id), has, wanted):
                    gaps[feature_id, "value"] = 1
                continue
            if has and has.unlimited:
                continue
            if wanted.overage and not (has and has.overage):
                gaps[feature_id, "overage"] = 1
            if wanted.unlimited:
                gaps[feature_id, "unlimited"] = 1
                continue
            reach = has.limit or 0 if has else 0
            if feature_id in counting:
                most = most_to_buy(catalog, self.base, feature_id)
                if most is None:
                    continue
                reach += most
            if reach < (wanted.limit or 0):
                gaps[feature_id, "limit"] = (wanted.limit or 0) - reach
        quantities = _quantities(all_parts(catalog, self.base))
        for add_on_id, quantity in task.kept.items():
            if quantity > quantities.get(add_on_id, 0):
                gaps[add_on_id, "kept"] = quantity - quantities.get(add_on_id, 0)
        return gaps

    def _places(self) -> dict[str, list[tuple[int, str, int]]]:
        """The gaps of each feature, and of each add-on to be kept: position, aspect and units."""
        places: dict[str, list[tuple[int, str, int]]] = defaultdict(list)
        for position, ((id, aspect), gap) in enumerate(self.gaps.items()):
            places[id].append((position, aspect, gap))
        return places

    def _options(self) -> list[_Option]:
        """What may be worth adding, the cheapest first; cut to MAX_OPTIONS."""
        task, product = self.task, self.task.market.product
        sold: list[AnyPackage] = [*product.add_ons, *product.bundles]
        candidates = [p for p in sold if task.for_sale(p) and self._can_join(p)]
        counted = counted_features(charges_of(self.base))
        useful: dict[str, AnyPackage] = {}
        needed, grew = self._required(()), True
        while grew:
            grew = False
            for package in candidates:
                if package.id not in useful and (
                    any(self._covers(package)) or self._helps_otherwise(package, counted, needed)
                ):
                    useful[package.id] = package
                    counted |= counted_features(package.charges)
                    needed |= self._required([package])
                    grew = True
        options = [self._option(package, counted, needed) for package in useful.values()]
        options = [option for option in options if option.steps]
        options.sort(key=lambda o: (o.steps[0].cost, o.package.id))
        if len(options) > MAX_OPTIONS:
            self.complete = False
        return options[:MAX_OPTIONS]

    def _required(self, packages: Sequence[AnyPackage]) -> set[str]:
        """The add-ons that these packages and the base require."""
        return {
            required
            for package in (*packages, *(item.package for item in self.base))
            for part in parts_of(self.task.market.catalog, package)
            if isinstance(part.package, AddOn)
            for required in part.package.requires
        }

    def _can_join(self, package: AnyPackage) -> bool:
        """Whether the package fits the base's plan, and brings none of its own."""
        catalog = self.task.market.catalog
        plans = [
            part.package.id
            for part in all_parts(catalog, self.base)
            if isinstance(part.package, Plan)
        ]
        return all(
            isinstance(part.package, AddOn) and all(part.package.fits(plan) for plan in plans)
            for part in parts_of(catalog, package)
        )

    def _helps_otherwise(
        self, package: AnyPackage, counted: frozenset[str], needed: set[str]
    ) -> bool:
        """Whether something else requires it, or it adds to a level that is bought otherwise:
        it may be the cheaper way to it."""
        return any(
            part.package.id in needed
            or any(
                e.mode is GrantMode.ADD and e.feature_id in counted & self.task.values.keys()
                for e in part.package.entitlements
            )
            for part in parts_of(self.task.market.catalog, package)
        )

    def _covers(self, package: AnyPackage, quantity: int = 1) -> tuple[int, ...]:
        """The most that each gap can shrink by this package."""
        covers = [0] * len(self.gaps)
        for part in parts_of(self.task.market.catalog, package, quantity):
            for position, aspect, gap in self.places.get(part.package.id, ()):
                if aspect == "kept":
                    covers[position] = min(gap, covers[position] + part.quantity)
            for e in part.package.entitlements:
                times = part.quantity if e.mode is GrantMode.ADD else 1
                for position, aspect, gap in self.places.get(e.feature_id, ()):
                    if aspect != "kept":  # an add-on's, of the same name
                        cover = self._cover_of(e.value, e.feature_id, aspect, times)
                        covers[position] = min(gap, covers[position] + cover)
        for feature_id in counted_features(package.charges):
            for position, aspect, gap in self.places.get(feature_id, ()):
                if aspect == "limit":
                    covers[position] = gap
        return tuple(covers)

    def _cover_of(self, value: EntitlementValue, feature_id: str, aspect: str, times: int) -> int:
        if aspect == "value":
            feature = self.task.market.catalog.feature(feature_id)
            return int(at_least(feature, value, self.task.values[feature_id]))
        if aspect == "overage":
            return int(bool(value.overage or value.unlimited))
        if aspect == "unlimited":
            return int(bool(value.unlimited))
        return self.gaps[feature_id, "limit"] if value.unlimited else (value.limit or 0) * times

    def _option(self, package: AnyPackage, counted: frozenset[str], needed: set[str]) -> _Option:
        quantities = self._quantities_to_try(package, counted)
        steps = tuple(
            _Step(n, self.task.cost(package, n), self._covers(package, n)) for n in quantities
        )
        covered = zip(self.gaps, self._covers(package), strict=True)
        only_covers = not self._helps_otherwise(package, counted, needed) and all(
            aspect in ("value", "kept") for (_, aspect), cover in covered if cover
        )
        return _Option(package, steps, only_covers)

    def _quantities_to_try(self, package: AnyPackage, counted: frozenset[str]) -> list[int]:
        """1 up to the quantity after which no more is gained, and the starts of its tiers."""
        catalog = self.task.market.catalog
        enough, most = 1, None
        for part in parts_of(catalog, package):
            for e in part.package.entitlements:
                per_unit = (e.value.limit or 0) * part.quantity
                if e.mode is GrantMode.ADD and per_unit and e.feature_id in self.task.values:
                    wanted = self.task.values[e.feature_id].limit or 0
                    if e.feature_id not in counted:
                        wanted = self.gaps.get((e.feature_id, "limit"), 0)
                    enough = max(enough, -(-wanted // per_unit))
            enough = max(enough, -(-self.gaps.get((part.package.id, "kept"), 0) // part.quantity))
            if isinstance(part.package, AddOn) and part.package.max_quantity is not None:
                allowed = part.package.max_quantity // part.quantity
                most = allowed if most is None else min(most, allowed)
        own = [c for c in package.charges if c.quantity_feature is None]
        starts = {-(-s // c.units_per_package) for c in own for s in _tier_starts([c])}
        if enough > MAX_QUANTITIES:
            self.complete = False
            starts |= {enough}
        tried = {*range(1, min(enough, MAX_QUANTITIES) + 1), *starts}
        return sorted(n for n in tried if most is None or n <= most)

    def _least_level_cost(self) -> int:
        """The least that the base's charges on level features can come to, whatever is added."""
        task, total = self.task, 0
        for feature_id, charges in _counting(charges_of(self.base)).items():
            base_adds = _added(task.market.catalog, self.base, feature_id)
            most_added = sum(
                _added(
                    task.market.catalog,
                    [Selected(option.package, option.steps[-1].quantity)],
                    feature_id,
                )
                for option in self.options
            )
            need = task.need(feature_id, charges, base_adds + most_added)
            found = task.cheapest_level(feature_id, charges, need, None)
            total += found[0] if found else 0
        return total
