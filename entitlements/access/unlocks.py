"""The remedy of a denial: what could be bought to turn exactly this answer into yes. PURE.

    CustomerState + Check + what is used + Catalog + at  →  Unlocks, cheapest first

A remedy is one more package (an add-on, a bundle, a higher tier, a first plan), as few of it as
suffice, or more of a level that is held. Each is planned by the change engine as the customer's own
change, and decided on what would be granted after it: what is offered can be bought, and helps.

    not offered   what waits for the period's end, needs sales, takes away anything that is granted,
                  or an add-on, or a change that waits; what would be refused for what is used;
                  anything of a product whose subscription has no access (it has to be paid first)
    cheapest      by what it adds to the recurring amount of a month, then by what is due now,
                  then by the package's id
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

import msgspec

from entitlements.access.service import Check
from entitlements.access.usage import NOT_USED, cycle_of, window_of
from entitlements.catalog.model import (
    AddOn,
    AnyPackage,
    Bundle,
    Catalog,
    Feature,
    FeatureKind,
    GrantMode,
    Plan,
    ResetPeriod,
)
from entitlements.grants.decide import decide
from entitlements.grants.merge import FeatureGrants, Grants, merge
from entitlements.grants.sources import sources
from entitlements.kernel.errors import Conflict, ValidationFailed
from entitlements.kernel.period import to_second
from entitlements.pricing.selection import parts_of
from entitlements.subscriptions.change import (
    Authority,
    ChangeDirection,
    ChangePlan,
    plan_change,
)
from entitlements.subscriptions.composition import add_ons_held
from entitlements.subscriptions.holdings import (
    after_change,
    entitlement_changes,
    grants_of,
    holdings_of,
)
from entitlements.subscriptions.queue import in_effect
from entitlements.subscriptions.quote import due_by
from entitlements.subscriptions.request import ChangeRequest
from entitlements.subscriptions.state import (
    CustomerState,
    Subscription,
    SubscriptionStatus,
    held_package,
)
from entitlements.subscriptions.violations import (
    Used,
    levels_in_use,
    refuse_over_limit,
    usage_violations,
)

UNLOCKS_AT_MOST = 10
SIZES_TRIED = 20
"""How often the number to buy of one package is raised before it is given up."""

_WITH_ACCESS = (SubscriptionStatus.TRIALING, SubscriptionStatus.ACTIVE)
_GAINS = (
    ChangeDirection.NEW,
    ChangeDirection.UPGRADE,
    ChangeDirection.ADDITION,
    ChangeDirection.SIDEGRADE,
)


class Unlock(msgspec.Struct, frozen=True, kw_only=True):
    """One remedy: `quantity` more of the package, and of levels (seats) so many `quantities` more.

    `quantity` is 0 where only more of a level is bought; the package is then the one that counts
    it. `request` pins the versions and levels that `plan` brings. `due_now_minor` is after credit.
    """

    package: AnyPackage
    quantity: int
    quantities: Mapping[str, int]
    request: ChangeRequest
    plan: ChangePlan
    due_now_minor: int

    @property
    def recurring_delta_minor(self) -> int:
        """What it adds to the recurring amount, per the subscription's own interval."""
        return self.plan.recurring_after_minor - self.plan.recurring_before_minor

    @property
    def price(self) -> tuple[int, int, str, int]:
        """What remedies are ordered by."""
        return self.plan.mrr_delta_minor, self.due_now_minor, self.package.id, self.quantity


Sold = Mapping[str, tuple[AnyPackage, ...]]
"""What is sold that grants a feature or counts it, by the feature's id."""


def sold_by_feature(catalog: Catalog) -> Sold:
    """Of what is sold now, what may help with each feature; made once per catalog."""
    found: dict[str, list[AnyPackage]] = {}
    for package in catalog.current.values():
        for feature_id in _features(catalog, package):
            found.setdefault(feature_id, []).append(package)
    return {feature_id: tuple(packages) for feature_id, packages in found.items()}


def _features(catalog: Catalog, package: AnyPackage) -> Iterable[str]:
    named: dict[str, None] = {}
    for part in parts_of(catalog, package):
        named |= dict.fromkeys(e.feature_id for e in part.package.entitlements)
    counted = (c.quantity_feature for c in package.charges if not c.metered)
    return named | dict.fromkeys(filter(None, counted))


def unlocks(
    catalog: Catalog,
    state: CustomerState,
    check: Check,
    used: Mapping[str, Used],
    at: datetime,
    *,
    first: int = 3,
    sold: Sold | None = None,
) -> list[Unlock]:
    """Up to `first` remedies, cheapest first; none where the answer is yes already.

    METERED: `check.quantity` more units than are used. `used` has what is used of every METERED
    feature. `sold` is `sold_by_feature` of the catalog.
    """
    feature = catalog.features.get(check.feature_id)
    if feature is None:
        return []
    at = to_second(at)
    state = in_effect(catalog, state, at)
    search = _Search(catalog, state, check, feature, used, at)
    if search.hopeless:
        return []
    sold = sold_by_feature(catalog) if sold is None else sold
    found = [unlock for wish in search.wishes(sold) if (unlock := search.sized(wish)) is not None]
    chosen: list[Unlock] = []
    for unlock in sorted(found, key=lambda u: u.price):
        if len(chosen) == first:
            break
        if search.holds(unlock):
            chosen.append(unlock)
    return chosen


class _Wish(msgspec.Struct, frozen=True):
    """A package to buy more of (`held` of it are there), or, with `levels`, of its levels alone."""

    package: AnyPackage
    held: int = 0
    levels: Mapping[str, int] = {}

    def request(self, quantity: int, levels: Mapping[str, int]) -> ChangeRequest:
        wanted = {self.package.id: self.held + quantity}
        match self.package:
            case _ if quantity == 0:
                named = ChangeRequest()
            case Plan():
                named = ChangeRequest(plan_id=self.package.id)
            case AddOn():
                named = ChangeRequest(add_ons=wanted)
            case Bundle():
                named = ChangeRequest(bundles=wanted)
        return msgspec.structs.replace(
            named, product_id=self.package.product_id, quantities=dict(levels)
        )


class _Search:
    """One check of one customer, that was denied."""

    def __init__(
        self,
        catalog: Catalog,
        state: CustomerState,
        check: Check,
        feature: Feature,
        used: Mapping[str, Used],
        at: datetime,
    ) -> None:
        self._catalog = catalog
        self._state = state
        self._check = check
        self._feature = feature
        self._used = used
        self._at = at
        self._levels_in_use = levels_in_use(catalog, used)
        self._granted = grants_of(catalog, state, at)

    @property
    def hopeless(self) -> bool:
        """Whether the answer is yes, or an override says what holds whatever is bought."""
        every = self._granted.of(self._feature.id).sources
        replaced = any(source.mode is GrantMode.REPLACE for source in every)
        return replaced or self._allows(self._granted)

    def wishes(self, sold: Sold) -> Iterator[_Wish]:
        """What may help, one package at a time, where there is access or nothing held yet."""
        for package in sold.get(self._feature.id, ()):
            held = self._state.live(package.product_id)
            if held is None:
                if not isinstance(package, AddOn):
                    yield _Wish(package)
            elif held.status in _WITH_ACCESS:
                yield _Wish(package, self._held_of(package, held))
        for held in self._state.subscriptions:
            if held.status in _WITH_ACCESS and self._feature.id in held.quantities:
                yield _Wish(
                    self._counting(held),
                    levels={self._feature.id: held.quantities[self._feature.id]},
                )

    def _held_of(self, package: AnyPackage, held: Subscription) -> int:
        if isinstance(package, AddOn):
            return add_ons_held(self._catalog, held.items)[package.id]
        return sum(item.quantity for item in held.items if item.package_id == package.id)

    def _counting(self, held: Subscription) -> AnyPackage:
        """The package held whose charge counts the feature."""
        packages = [held_package(self._catalog, item) for item in held.items]
        return next(
            p
            for p in packages
            if any(c.quantity_feature == self._feature.id and not c.metered for c in p.charges)
        )

    # ── how much of it ───────────────────────────────────────────────────────

    def sized(self, wish: _Wish) -> Unlock | None:
        """As few as suffice, planned; None where that cannot be bought now, or never suffices.

        Every step adds what is missing over what one more brings, and so never goes past it.
        """
        quantity, levels = (0, dict(wish.levels)) if wish.levels else (1, {})
        if wish.levels:
            levels[self._feature.id] += self._short(self._granted)
        for _ in range(SIZES_TRIED):
            plan = self._planned(wish.request(quantity, levels))
            if plan is None:
                return None
            after = self._after(plan)
            if self._allows(after):
                return self._unlock(wish, quantity, levels, plan)
            short = self._short(after)
            each = self._each(wish.package, plan) if quantity else 0
            if not short:
                return None
            if each:
                quantity += -(-short // each)
            elif self._feature.id in plan.quantities:
                levels[self._feature.id] = plan.quantities[self._feature.id] + short
            else:
                return None
        return None

    def _planned(self, request: ChangeRequest) -> ChangePlan | None:
        try:
            plan = plan_change(
                self._catalog,
                self._state,
                request,
                self._at,
                authority=Authority.CUSTOMER,
                levels_in_use=self._levels_in_use,
            )
        except (ValidationFailed, Conflict):
            return None
        refused = plan.waits or plan.approval_required or plan.direction not in _GAINS
        takes_away = plan.removed_add_ons or plan.dropped
        return None if refused or takes_away else plan

    def _after(self, plan: ChangePlan) -> Grants:
        """What would be granted of this feature alone."""
        then = after_change(self._state, plan)
        holdings = holdings_of(self._catalog, then, self._at)
        every = sources(self._catalog, holdings, then.overrides, self._at)
        value = merge(self._feature, every.get(self._feature.id, []))
        granted = {self._feature.id: FeatureGrants(value=value)}
        return Grants(features=granted, has_subscription=True, holds_until=None)

    def _allows(self, grants: Grants) -> bool:
        return decide(
            grants,
            self._feature,
            quantity=self._check.quantity,
            at_least=self._check.at_least,
            used=self._used_now.quantity,
        ).allowed

    @property
    def _used_now(self) -> Used:
        return self._used.get(self._feature.id, NOT_USED)

    def _short(self, grants: Grants) -> int:
        """How many units of a METERED feature are missing, at least 1; 0 for other kinds."""
        if self._feature.kind is not FeatureKind.METERED:
            return 0
        value = grants.of(self._feature.id).value
        limit = value.limit or 0 if value is not None else 0
        return max(1, self._used_now.quantity + self._check.quantity - limit)

    def _each(self, package: AnyPackage, plan: ChangePlan) -> int:
        """How many units one more of a package adds to the limit."""
        if isinstance(package, Plan):
            return 0
        item = next((i for i in plan.items if i.package_id == package.id), None)
        version = item.entitlements_version if item is not None else package.version
        return sum(
            (entitlement.value.limit or 0) * part.quantity
            for part in parts_of(self._catalog, self._catalog.version(package.id, version))
            for entitlement in part.package.entitlements
            if entitlement.feature_id == self._feature.id and entitlement.mode is GrantMode.ADD
        )

    def _unlock(
        self, wish: _Wish, quantity: int, levels: Mapping[str, int], plan: ChangePlan
    ) -> Unlock:
        held = self._state.live(plan.product_id)
        before = held.quantities if held is not None else {}
        more = {f: n - before.get(f, 0) for f, n in plan.quantities.items()}
        request = wish.request(quantity, levels)
        return Unlock(
            package=wish.package,
            quantity=quantity,
            quantities={f: n for f, n in more.items() if n > 0},
            request=msgspec.structs.replace(
                request,
                quantities={f: n for f, n in plan.quantities.items() if more[f] or f in levels},
                versions={i.package_id: i.version for i in plan.items if i.item_id is None},
            ),
            plan=plan,
            due_now_minor=due_by(plan, self._state.credit_balance_minor).due_now_minor,
        )

    # ── whether it may be offered ────────────────────────────────────────────

    def holds(self, unlock: Unlock) -> bool:
        """Whether the whole of what is granted after it says yes, and nothing is taken away."""
        changes = entitlement_changes(self._catalog, self._state, unlock.plan)
        violations = usage_violations(changes, self._used)
        try:
            refuse_over_limit(self._catalog, unlock.request, unlock.plan, violations)
        except ValidationFailed:
            return False
        over = {violation.feature.id for violation in violations}
        sold = unlock.plan.quantities  # of what is sold by quantity, what is in use has to fit
        worse = [
            c
            for c in changes
            if not c.better and (c.feature.id not in sold or c.feature.id in over)
        ]
        then = after_change(self._state, unlock.plan)
        allowed = self._allows(grants_of(self._catalog, then, self._at))
        return not worse and allowed and not self._counts_more(unlock.plan, then)

    def _counts_more(self, plan: ChangePlan, then: CustomerState) -> bool:
        """Whether use would be counted from further back, so that the limit may be reached."""
        if self._feature.reset is not ResetPeriod.BILLING_PERIOD:
            return False
        windows = [
            window_of(
                self._feature.reset,
                cycle_of(self._catalog, state, self._feature.id, plan.product_id),
                self._at,
            )
            for state in (self._state, then)
        ]
        return windows[1].start < windows[0].start
