"""What a request comes to: the items and quantities to be held, checked against what is sold."""

from collections.abc import Iterable, Mapping

from entitlements.catalog.model import AddOn, AnyPackage, Bundle, Catalog, Plan, Product
from entitlements.kernel.errors import Issue, ValidationFailed
from entitlements.kernel.period import Interval
from entitlements.pricing.quantities import first_bought
from entitlements.pricing.selection import Part, Selected, broken_relations, most_to_buy
from entitlements.subscriptions.composition import Composer, TargetItem, parts_held
from entitlements.subscriptions.lines import slots_of
from entitlements.subscriptions.request import ChangeRequest
from entitlements.subscriptions.state import CustomerState, Subscription, held_package

MAX_PROVIDER_ITEMS = 20
MAX_QUANTITY = 1_000_000


_KINDS: Mapping[str, type[AnyPackage]] = {"planId": Plan, "addOns": AddOn, "bundles": Bundle}


def product_of(catalog: Catalog, state: CustomerState, request: ChangeRequest) -> Product:
    """The one product that everything named belongs to."""
    issues: list[Issue] = []
    found: dict[str, None] = {}
    for path, package_id in _named(request):
        package = _package_named(catalog, state, request, package_id)
        if package is None or type(package) is not _KINDS[path[0]]:
            issues.append(Issue(path, "UNKNOWN_PACKAGE", f"{package_id!r} is not sold"))
        else:
            found[package.product_id] = None
    if request.product_id is not None:
        if request.product_id in catalog.products:
            found[request.product_id] = None
        else:
            issues.append(
                Issue(("productId",), "UNKNOWN_PRODUCT", f"{request.product_id!r} is not sold")
            )
    for feature_id in request.quantities:
        if feature_id not in catalog.features:
            path = ("quantities", feature_id)
            issues.append(Issue(path, "UNKNOWN_FEATURE", f"there is no feature {feature_id!r}"))
    if issues:
        raise ValidationFailed(issues)
    if not found:
        live = {s.product_id: None for s in state.subscriptions if s.live}
        found = live or dict.fromkeys(catalog.products)
    if len(found) != 1:
        raise ValidationFailed.of(
            "productId", "AMBIGUOUS_PRODUCT", "name one product: " + ", ".join(sorted(found))
        )
    return catalog.products[next(iter(found))]


def _named(request: ChangeRequest) -> Iterable[tuple[tuple[str, ...], str]]:
    if request.plan_id is not None:
        yield ("planId",), request.plan_id
    for field, wanted in (("addOns", request.add_ons), ("bundles", request.bundles)):
        for package_id in wanted:
            yield (field, package_id), package_id


def _package_named(
    catalog: Catalog, state: CustomerState, request: ChangeRequest, package_id: str
) -> AnyPackage | None:
    """A package on sale, or one that was promised, or is retired and still held."""
    if package_id in request.versions:
        return catalog.version(package_id, request.versions[package_id])
    if package_id in catalog.current:
        return catalog.current[package_id]
    for subscription in state.subscriptions:
        for item in subscription.items:
            if subscription.live and item.package_id == package_id:
                return held_package(catalog, item)
    return None


class Target:
    """The items and quantities that the request asks for, checked against what is sold."""

    def __init__(
        self,
        catalog: Catalog,
        product: Product,
        state: CustomerState,
        held: Subscription | None,
        request: ChangeRequest,
        levels_in_use: Mapping[str, int],
    ) -> None:
        self.catalog = catalog
        self.product = product
        self.held = held
        self.request = request
        self.issues: list[Issue] = []
        self.removed_add_ons: dict[str, AddOn] = {}
        self.currency = held.currency if held else state.currency
        self.interval = request.interval or (held.interval if held else self._default_interval())
        self._composer = Composer(catalog, held, request)
        self.items = self._composed()
        self.issues += self._composer.issues
        self._check_relations()
        self.quantities = self._quantities(levels_in_use)
        self._check_prices()
        if self.issues:
            raise ValidationFailed(self.issues)

    def _default_interval(self) -> Interval:
        intervals = self.product.intervals
        return Interval.MONTH if Interval.MONTH in intervals or not intervals else intervals[0]

    def package(self, item: TargetItem) -> AnyPackage:
        return self.catalog.version(item.package_id, item.version)

    def _refuse(self, path: tuple[str, ...], code: str, message: str) -> None:
        self.issues.append(Issue(path, code, message))

    @property
    def parts(self) -> list[Part]:
        """The plan and the add-ons to be held, components of bundles included."""
        return parts_held(self.catalog, self.items)

    @property
    def plan(self) -> Plan:
        return next(p.package for p in self.parts if isinstance(p.package, Plan))

    def _composed(self) -> list[TargetItem]:
        """What is to be held, without what a change of plan leaves no room for."""
        for field, quantities in (
            ("addOns", self.request.add_ons),
            ("bundles", self.request.bundles),
        ):
            for package_id, quantity in quantities.items():
                if not 0 <= quantity <= MAX_QUANTITY:
                    message = f"a quantity is from 0 to {MAX_QUANTITY}"
                    self._refuse((field, package_id, "quantity"), "QUANTITY_OUT_OF_RANGE", message)
        while True:
            self.items = self._composer.items(self.removed_add_ons)
            unfit = [part.package for part in self.parts if self._unfit(part)]
            if not unfit:
                return self.items
            self.removed_add_ons |= {
                add_on.id: add_on for add_on in unfit if isinstance(add_on, AddOn)
            }

    def _unfit(self, part: Part) -> bool:
        """Whether a held add-on does not fit the plan, or lacks what has gone for that reason.

        What the request itself names is refused instead, by `_check_relations`.
        """
        named = part.package.id in self.request.add_ons or part.held.id in self.request.bundles
        named = named or (self.request.move and self.request.move.package_id) == part.held.id
        if named or not isinstance(part.package, AddOn):
            return False
        if not part.package.fits(self.plan.id):
            return True
        there = {other.package.id for other in self.parts}
        return bool(self.removed_add_ons) and not there.issuperset(part.package.requires)

    def _check_relations(self) -> None:
        """What may not be held together is refused, at what the request names of it."""
        selected = [Selected(self.package(item), item.quantity) for item in self.items]
        for broken in broken_relations(self.catalog, selected):
            path, code = self._path_of(broken.package_id), broken.code
            removed = self._removed_although_required_by(broken.package_id)
            if code == "REQUIRES" and removed is not None:
                path, code = ("addOns", removed), "REQUIRED_BY"
            self._refuse(path, code, broken.message)

    def _path_of(self, package_id: str) -> tuple[str, ...]:
        for field, named in (("addOns", self.request.add_ons), ("bundles", self.request.bundles)):
            if package_id in named:
                return field, package_id
        return ("planId",)

    def _removed_although_required_by(self, package_id: str) -> str | None:
        for part in self.parts:
            if part.held.id == package_id and isinstance(part.package, AddOn):
                for other in part.package.requires:
                    if self.request.add_ons.get(other) == 0:
                        return other
        return None

    def _quantities(self, levels_in_use: Mapping[str, int]) -> dict[str, int]:
        """The levels bought: as named, else as held, else the most of minimum, 1 and in use."""
        counted = {
            charge.quantity_feature: (package, charge)
            for package in map(self.package, self.items)
            for charge in package.charges
            if charge.quantity_feature is not None and not charge.metered
        }
        for feature_id in self.request.quantities:
            if feature_id not in counted:
                message = f"{feature_id!r} is not sold by quantity here"
                self._refuse(("quantities", feature_id), "NOT_SOLD_BY_QUANTITY", message)
        held = self.held.quantities if self.held else {}
        selected = [Selected(self.package(item), item.quantity) for item in self.items]
        chosen: dict[str, int] = {}
        for feature_id, (_, charge) in counted.items():
            assert feature_id is not None
            default = first_bought([charge], levels_in_use.get(feature_id, 0))
            quantity = self.request.quantities.get(feature_id, held.get(feature_id, default))
            path = ("quantities", feature_id, "quantity")
            most = most_to_buy(self.catalog, selected, feature_id)
            if not 0 <= quantity <= MAX_QUANTITY:
                message = f"a quantity is from 0 to {MAX_QUANTITY}"
                self._refuse(path, "QUANTITY_OUT_OF_RANGE", message)
            elif most is not None and quantity > most:
                self._refuse(path, "OVER_LIMIT", f"at most {most} of {feature_id} can be bought")
            chosen[feature_id] = quantity
        return chosen

    def _check_prices(self) -> None:
        """Every licensed charge has a price where the subscription is billed."""
        for item in self.items:
            package = self.package(item)
            for charge in package.charges:
                if charge.price(self.currency, self.interval) is None:
                    self._refuse(
                        ("interval",) if self.request.interval else ("currency",),
                        "NO_PRICE",
                        f"{package.name} has no price in {self.currency} per {self.interval}",
                    )
        slots = list(slots_of(self.catalog, self.items, {}))
        if len(slots) > MAX_PROVIDER_ITEMS:
            message = f"a subscription has at most {MAX_PROVIDER_ITEMS} charges, not {len(slots)}"
            self._refuse(("addOns",), "TOO_MANY_ITEMS", message)
