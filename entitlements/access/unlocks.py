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

import heapq
import itertools
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
from entitlements.kernel.errors import Conflict, TrialNotAvailable, ValidationFailed
from entitlements.kernel.period import to_second
from entitlements.pricing.quantities import counted_features
from entitlements.pricing.selection import parts_of
from entitlements.subscriptions.change import (
    Authority,
    ChangeDirection,
    ChangePlan,
    plan_change,
)
from entitlements.subscriptions.composition import TargetItem, add_ons_held
from entitlements.subscriptions.holdings import (
    after_change,
    entitlement_changes,
    grants_of,
    holdings_of,
)
from entitlements.subscriptions.lines import Book, slots_of
from entitlements.subscriptions.queue import in_effect
from entitlements.subscriptions.quote import due_by
from entitlements.subscriptions.request import ChangeRequest, TrialRequest
from entitlements.subscriptions.state import (
    CustomerState,
    Subscription,
    SubscriptionStatus,
    held_package,
)
from entitlements.subscriptions.trials import NotOffered, trial_available
from entitlements.subscriptions.violations import (
    Used,
    levels_in_use,
    refuse_over_limit,
    usage_violations,
)

UNLOCKS_AT_MOST = 10
PLANNED_AT_MOST = 100
"""How many packages are planned for one denial: of add-ons, whose price is known before, the
cheapest; and as many of all others."""

SIZES_TRIED = 20
"""How often the number to buy of one package is raised before it is given up."""

_WITH_ACCESS = (SubscriptionStatus.TRIALING, SubscriptionStatus.ACTIVE)
_GAINS = (
    ChangeDirection.NEW,
    ChangeDirection.UPGRADE,
    ChangeDirection.ADDITION,
    ChangeDirection.SIDEGRADE,
)


Price = tuple[int, int, str, int]
"""What remedies are ordered by: minor units a month, minor units now, what, and how many of it."""


class Unlock(msgspec.Struct, frozen=True, kw_only=True):
    """One remedy: `quantity` more of the package, and of levels (seats) so many `quantities` more.

    `quantity` is 0 where only more of a level is bought; the package is then the one that counts
    it. `request` pins the versions and levels that `plan` brings. `due_now_minor` is after credit.
    `trial_days`: a trial of the package is open to the customer, and would unlock it, too.
    """

    package: AnyPackage
    quantity: int
    quantities: Mapping[str, int]
    request: ChangeRequest
    plan: ChangePlan
    due_now_minor: int
    trial_days: int | None = None

    @property
    def recurring_delta_minor(self) -> int:
        """What it adds to the recurring amount, per the subscription's own interval."""
        return self.plan.recurring_after_minor - self.plan.recurring_before_minor

    @property
    def price(self) -> Price:
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
    return list(itertools.islice(search.found(sold), first))


class _Wish(msgspec.Struct, frozen=True, kw_only=True):
    """`quantity` more of a package, with as many of the `levels` in all, or of its levels alone.

    `granting` is the version whose entitlements it brings. `there` are held of it by itself,
    `in_all` with those in bundles.
    """

    package: AnyPackage
    granting: AnyPackage
    there: int = 0
    in_all: int = 0
    quantity: int = 1
    levels: Mapping[str, int] = {}

    @property
    def request(self) -> ChangeRequest:
        wanted = {self.package.id: self.in_all + self.quantity}
        match self.package:
            case _ if self.quantity == 0:
                named = ChangeRequest()
            case Plan():
                named = ChangeRequest(plan_id=self.package.id)
            case AddOn():
                named = ChangeRequest(add_ons=wanted)
            case Bundle():
                named = ChangeRequest(bundles=wanted)
        return msgspec.structs.replace(
            named, product_id=self.package.product_id, quantities=self.levels
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

    def found(self, sold: Sold) -> Iterator[Unlock]:
        """Remedies, cheapest first. Nothing is planned that is dearer than what is asked for."""
        waiting: list[tuple[int, int, _Wish]] = []
        planned: list[tuple[Price, int, Unlock]] = []
        order = itertools.count()

        def plan(wish: _Wish) -> None:
            if (unlock := self._sized(wish)) is not None:
                heapq.heappush(planned, (unlock.price, next(order), unlock))

        unknown: list[_Wish] = []
        for wish in self._wishes(sold):
            monthly_minor = self._monthly_minor(wish)
            if monthly_minor is None:
                unknown.append(wish)
            else:
                waiting.append((monthly_minor, next(order), wish))
        waiting = heapq.nsmallest(PLANNED_AT_MOST, waiting)
        for wish in unknown[:PLANNED_AT_MOST]:
            plan(wish)
        while waiting or planned:
            while waiting and (not planned or waiting[0][0] <= planned[0][0][0]):
                plan(heapq.heappop(waiting)[-1])
            if planned and self._holds(unlock := heapq.heappop(planned)[-1]):
                yield msgspec.structs.replace(unlock, trial_days=self._trial_days(unlock))

    def _wishes(self, sold: Sold) -> Iterator[_Wish]:
        """What may help, one package at a time, where there is access or nothing held yet."""
        for package in sold.get(self._feature.id, ()):
            held = self._state.live(package.product_id)
            if held is None:
                if not isinstance(package, AddOn):
                    yield _Wish(package=package, granting=package)
            elif held.status in _WITH_ACCESS:
                yield self._more_of(package, held)
        for held in self._state.subscriptions:
            if held.status in _WITH_ACCESS and self._feature.id in held.quantities:
                level = held.quantities[self._feature.id] + self._short(self._granted)
                counting = self._counting(held)
                yield _Wish(
                    package=counting,
                    granting=counting,
                    quantity=0,
                    levels={self._feature.id: level},
                )

    def _more_of(self, package: AnyPackage, held: Subscription) -> _Wish:
        """One more of a package, or as many as are missing, where each adds to the limit."""
        item = next((i for i in held.items if i.package_id == package.id), None)
        there = item.quantity if item is not None else 0
        in_all = there
        if isinstance(package, AddOn):
            in_all = add_ons_held(self._catalog, held.items)[package.id]
        granting = package
        if item is not None:  # goes on at the version held
            package = held_package(self._catalog, item)
            granting = self._catalog.version(item.package_id, item.entitlements_version)
        wish = _Wish(package=package, granting=granting, there=there, in_all=in_all)
        if isinstance(package, Plan) or not self._adds_alone(granting):
            return wish
        missing = -(-self._short(self._granted) // self._each(wish))
        return msgspec.structs.replace(wish, quantity=missing)

    def _adds_alone(self, package: AnyPackage) -> bool:
        """Whether all that a package does for a limit is to add to it."""
        every = [
            entitlement
            for part in parts_of(self._catalog, package)
            for entitlement in part.package.entitlements
            if entitlement.feature_id == self._feature.id
        ]
        adding = [e for e in every if e.mode is GrantMode.ADD and e.value.limit]
        passable = any(e.value.overage or e.value.unlimited for e in every)
        counted = self._feature.id in counted_features(package.charges)
        return bool(adding) and adding == every and not passable and not counted

    def _counting(self, held: Subscription) -> AnyPackage:
        """The package held whose charge counts the feature."""
        packages = [held_package(self._catalog, item) for item in held.items]
        return next(
            p
            for p in packages
            if any(c.quantity_feature == self._feature.id and not c.metered for c in p.charges)
        )

    # ── how much of it ───────────────────────────────────────────────────────

    def _monthly_minor(self, wish: _Wish) -> int | None:
        """What a wish adds to a month, where that is known before it is planned: an add-on's
        own price, unless it counts a level, or what is held is on trial."""
        held = self._state.live(wish.package.product_id)
        by_level = counted_features(wish.package.charges)
        if held is None or not isinstance(wish.package, AddOn) or wish.levels or by_level:
            return None
        if held.on_trial:  # it joins the trial free, or ends it
            return None

        def of(quantity: int) -> int:
            item = TargetItem(
                package_id=wish.package.id,
                version=wish.package.version,
                entitlements_version=wish.granting.version,
                quantity=quantity,
            )
            slots = slots_of(self._catalog, [item], {})
            return Book(self._catalog, held.currency).mrr(slots, held.interval)

        return of(wish.there + wish.quantity) - of(wish.there)

    def _sized(self, wish: _Wish) -> Unlock | None:
        """As few as suffice, planned; None where that cannot be bought now, or never suffices.

        Every step adds what is missing over what one more brings, and so never goes past it.
        """
        for _ in range(SIZES_TRIED):
            plan = self._planned(wish.request)
            if plan is None:
                return None
            after = self._after(plan)
            if self._allows(after):
                return self._unlock(wish, plan)
            larger = self._larger(wish, plan, self._short(after))
            if larger is None:
                return None
            wish = larger
        return None

    def _larger(self, wish: _Wish, plan: ChangePlan, short: int) -> _Wish | None:
        """With what is missing still; None where more of it does not help."""
        each = self._each(wish) if wish.quantity else 0
        if not short:
            return None
        if each:
            return msgspec.structs.replace(wish, quantity=wish.quantity - (-short // each))
        if self._feature.id in plan.quantities:
            level = plan.quantities[self._feature.id] + short
            return msgspec.structs.replace(wish, levels={**wish.levels, self._feature.id: level})
        return None

    def _plan(self, request: ChangeRequest) -> ChangePlan:
        return plan_change(
            self._catalog,
            self._state,
            request,
            self._at,
            authority=Authority.CUSTOMER,
            levels_in_use=self._levels_in_use,
        )

    def _planned(self, request: ChangeRequest) -> ChangePlan | None:
        try:
            plan = self._plan(request)
        except (ValidationFailed, Conflict):
            return None
        refused = plan.waits or plan.approval_required or plan.direction not in _GAINS
        takes_away = plan.removed_add_ons or plan.dropped
        return None if refused or takes_away else plan

    def _after(self, plan: ChangePlan) -> Grants:
        """What would be granted of this feature alone."""
        then = after_change(self._catalog, self._state, plan)
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

    def _each(self, wish: _Wish) -> int:
        """How many units each more of a package adds to the limit."""
        if isinstance(wish.package, Plan):
            return 0
        return sum(
            (entitlement.value.limit or 0) * part.quantity
            for part in parts_of(self._catalog, wish.granting)
            for entitlement in part.package.entitlements
            if entitlement.feature_id == self._feature.id and entitlement.mode is GrantMode.ADD
        )

    def _unlock(self, wish: _Wish, plan: ChangePlan) -> Unlock:
        held = self._state.live(plan.product_id)
        before = held.quantities if held is not None else {}
        more = {f: n - before.get(f, 0) for f, n in plan.quantities.items()}
        request = msgspec.structs.replace(
            wish.request,
            quantities={f: n for f, n in plan.quantities.items() if more[f] or f in wish.levels},
            versions={i.package_id: i.version for i in plan.items if i.item_id is None},
        )
        return Unlock(
            package=wish.package,
            quantity=wish.quantity,
            quantities={f: n for f, n in more.items() if n > 0},
            request=request,
            plan=plan,
            due_now_minor=due_by(plan, self._state.credit_balance_minor).due_now_minor,
        )

    # ── whether it may be offered ────────────────────────────────────────────

    def _holds(self, unlock: Unlock) -> bool:
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
        then = after_change(self._catalog, self._state, unlock.plan)
        allowed = self._allows(grants_of(self._catalog, then, self._at))
        return not worse and allowed and not self._counts_more(unlock.plan, then)

    def _trial_days(self, unlock: Unlock) -> int | None:
        """How long trying the package would turn the answer into yes; None where it would not."""
        terms = trial_available(self._catalog, self._state, unlock.package.id, self._at)
        if isinstance(terms, NotOffered) or unlock.quantity == 0:
            return None
        try:
            plan = self._plan(ChangeRequest(trial=TrialRequest(package_id=unlock.package.id)))
        except (ValidationFailed, Conflict, TrialNotAvailable):
            return None
        return terms.days if self._allows(self._after(plan)) else None

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
