"""Use of METERED features, as far as it can be said without a database: windows and decisions.

A counter counts from the start of its window to the end. No job runs at the boundary: the next
instant falls into the next window, whose counter begins at 0.

    NEVER          one window for ever; a LEVEL has no other
    HOUR DAY WEEK MONTH     the UTC calendar's; a week begins on Monday
    BILLING_PERIOD the period of the held charge that meters the feature, otherwise a month
                   from the subscription's anchor; without a subscription the calendar month

What is stored is counted by `bucket`, which is the window, but for a year of billing: that is
counted by its months, so that a change between a year's and a month's terms loses no use.
"""

from datetime import UTC, datetime, timedelta

import msgspec

from entitlements.catalog.model import Aggregation, Catalog, Feature, FeatureKind, ResetPeriod
from entitlements.grants.decide import Decision, decide, standing
from entitlements.grants.merge import Grants
from entitlements.kernel.period import Interval, Period, add_months
from entitlements.subscriptions.state import CustomerState, Subscription, held_package
from entitlements.subscriptions.violations import Used

QUANTITY_AT_MOST = 10**12
"""Of one request or event, and the highest level."""

COUNT_AT_MOST = 2**62
"""Where a counter is full: half of what 64 bits hold, so that nothing overflows on the way."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
"""When the window of what never resets begins, and where calendar months are counted from."""


class Cycle(msgspec.Struct, frozen=True, gc=False):
    """How a BILLING_PERIOD feature resets: every so many months from an anchor."""

    anchor: datetime
    interval: Interval


CALENDAR_MONTHS = Cycle(EPOCH, Interval.MONTH)


class Window(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The span `[start, end)` that use is counted over; `end` is None where it never resets.

    `bucket_start` and `bucket_end` are of the counter that the instant asked for is counted by,
    `earlier` the starts of those in the same window before it.
    """

    start: datetime
    end: datetime | None
    bucket_start: datetime
    bucket_end: datetime | None
    earlier: tuple[datetime, ...] = ()


NEVER = Window(start=EPOCH, end=None, bucket_start=EPOCH, bucket_end=None)


def window_of(reset: ResetPeriod | None, cycle: Cycle, at: datetime) -> Window:
    """The window that an instant falls in; an instant that is an end belongs to the next one.

    >>> january = Cycle(datetime(2026, 1, 31, 9, tzinfo=UTC), Interval.MONTH)
    >>> window = window_of(ResetPeriod.BILLING_PERIOD, january, datetime(2026, 3, 1, tzinfo=UTC))
    >>> f"{window.start:%d %b} to {window.end:%d %b}"
    '28 Feb to 31 Mar'
    >>> week = window_of(ResetPeriod.WEEK, CALENDAR_MONTHS, datetime(2026, 11, 21, tzinfo=UTC))
    >>> f"{week.start:%A %d} to {week.end:%A %d}"
    'Monday 16 to Monday 23'
    """
    if reset in (None, ResetPeriod.NEVER):
        return NEVER
    if reset is ResetPeriod.BILLING_PERIOD:
        return _billing_window(cycle, at)
    midnight = at.replace(hour=0, minute=0, second=0, microsecond=0)
    if reset is ResetPeriod.HOUR:
        start = midnight.replace(hour=at.hour)
        end = start + timedelta(hours=1)
    elif reset is ResetPeriod.DAY:
        start, end = midnight, midnight + timedelta(days=1)
    elif reset is ResetPeriod.WEEK:
        start = midnight - timedelta(days=at.weekday())
        end = start + timedelta(days=7)
    else:
        start = midnight.replace(day=1)
        end = add_months(start, 1)
    return Window(start=start, end=end, bucket_start=start, bucket_end=end)


def _billing_window(cycle: Cycle, at: datetime) -> Window:
    bucket = Period.containing(cycle.anchor, Interval.MONTH, at)
    whole = Period.containing(cycle.anchor, cycle.interval, at)
    earlier = []
    start = whole.start
    while start < bucket.start:
        earlier.append(start)
        start = Period.containing(cycle.anchor, Interval.MONTH, start).end
    return Window(
        start=whole.start,
        end=whole.end,
        bucket_start=bucket.start,
        bucket_end=bucket.end,
        earlier=tuple(earlier),
    )


def billed_buckets(cycle: Cycle, at: datetime) -> tuple[Period, tuple[datetime, ...]]:
    """The window that is billed at an instant, and the starts of all the counters in it.

    >>> year = Cycle(datetime(2026, 1, 31, tzinfo=UTC), Interval.YEAR)
    >>> window, starts = billed_buckets(year, datetime(2026, 6, 1, tzinfo=UTC))
    >>> window.end.year, len(starts), f"{starts[1]:%d %b}"
    (2027, 12, '28 Feb')
    """
    window = Period.containing(cycle.anchor, cycle.interval, at)
    starts = []
    start = window.start
    while start < window.end:
        starts.append(start)
        start = Period.containing(cycle.anchor, Interval.MONTH, start).end
    return window, tuple(starts)


def is_sum(feature: Feature) -> bool:
    return feature.kind is FeatureKind.METERED and feature.aggregation is Aggregation.SUM


def is_level(feature: Feature) -> bool:
    return feature.kind is FeatureKind.METERED and feature.aggregation is Aggregation.LEVEL


def products_of_features(catalog: Catalog) -> dict[str, str]:
    """The product of each metered feature: it belongs to one (CATALOG, "Quantity")."""
    found: dict[str, str] = {}
    for package in catalog.versions.values():
        named = [e.feature_id for e in package.entitlements]
        named += [c.quantity_feature for c in package.charges if c.quantity_feature]
        for feature_id in named:
            if feature_id in catalog.features:
                found.setdefault(feature_id, package.product_id)
    return found


def billed_apart(catalog: Catalog) -> frozenset[str]:
    """Features that some metered charge bills by its period, and that reset by another."""
    metered = {
        charge.quantity_feature
        for package in catalog.versions.values()
        for charge in package.charges
        if charge.metered
    }
    return frozenset(
        feature.id
        for feature in catalog.features.values()
        if feature.id in metered and feature.reset is not ResetPeriod.BILLING_PERIOD
    )


def cycle_of(
    catalog: Catalog, state: CustomerState, feature_id: str, product_id: str | None
) -> Cycle:
    """How a customer's BILLING_PERIOD feature of a product resets.

    By the live subscription; after its end by that of the last one, so that falling back to a
    free plan counts on.
    """
    held = _subscription(state, product_id)
    if held is None:
        return CALENDAR_MONTHS
    metering = (
        charge
        for item in held.items
        for charge in held_package(catalog, item).charges
        if charge.metered and charge.quantity_feature == feature_id
    )
    by_the_year = any(
        price.interval is Interval.YEAR and price.currency == held.currency
        for charge in metering
        for price in charge.prices
    )
    yearly = held.live and held.interval is Interval.YEAR and by_the_year
    return Cycle(held.anchor, Interval.YEAR if yearly else Interval.MONTH)


def _subscription(state: CustomerState, product_id: str | None) -> Subscription | None:
    if product_id is None:
        return None
    ended = [s for s in state.subscriptions if s.product_id == product_id and not s.live]
    return state.live(product_id) or max(ended, key=lambda s: s.started_at, default=None)


# ── deciding ─────────────────────────────────────────────────────────────────


NOT_USED = Used(0, None)


def bound_of(grants: Grants, feature_id: str) -> int:
    """The most that may be counted; -1 where nothing is granted, `COUNT_AT_MOST` without a limit.

    >>> bound_of(Grants(features={}, has_subscription=True, holds_until=None), "api-calls")
    -1
    """
    value = grants.of(feature_id).value
    if value is None:
        return -1
    if value.unlimited or value.overage:
        return COUNT_AT_MOST
    return value.limit or 0


def decide_consumed(
    grants: Grants, feature: Feature, quantity: int, *, used: int, counted: bool
) -> Decision:
    """The answer once a quantity was counted, or was not, as `bound_of` has it.

    `used` is what the counter says afterwards; so do the answer's figures.

    >>> from entitlements.catalog.model import EntitlementValue
    >>> from entitlements.grants.merge import FeatureGrants
    >>> calls = Feature(id="calls", name="Calls", kind=FeatureKind.METERED)
    >>> ten = FeatureGrants(value=EntitlementValue(limit=10, unlimited=False, overage=False))
    >>> grants = Grants(features={"calls": ten}, has_subscription=True, holds_until=None)
    >>> yes = decide_consumed(grants, calls, 4, used=10, counted=True)
    >>> no = decide_consumed(grants, calls, 4, used=8, counted=False)
    >>> yes.allowed, yes.used, yes.remaining, no.reason.name, no.remaining
    (True, 10, 0, 'LIMIT_EXCEEDED', 2)
    """
    before = used - quantity if counted else used
    decision = decide(grants, feature, quantity=quantity, used=before)
    return _at(decision, used)


def decide_level(
    grants: Grants, feature: Feature, level: int, *, used: int, counted: bool
) -> Decision:
    """The answer once a level was set, or was not because it is above what may be counted.

    Lowering is always fine: `counted` may be true above the limit, or with nothing granted.

    >>> from entitlements.catalog.model import EntitlementValue
    >>> from entitlements.grants.merge import FeatureGrants
    >>> seats = Feature(id="seats", name="Seats", kind=FeatureKind.METERED)
    >>> five = FeatureGrants(value=EntitlementValue(limit=5, unlimited=False, overage=False))
    >>> grants = Grants(features={"seats": five}, has_subscription=True, holds_until=None)
    >>> no = decide_level(grants, seats, 6, used=4, counted=False)
    >>> no.allowed, no.reason.name, no.used, no.remaining
    (False, 'LIMIT_EXCEEDED', 4, 1)
    """
    granted = grants.of(feature.id)
    if not counted:
        return _at(decide(grants, feature, quantity=max(level, 1)), used)
    value = granted.value
    over = value is not None and not value.unlimited and level > (value.limit or 0)
    over_limit = bool(over and value is not None and value.overage)
    return _at(Decision(True, None, over_limit, value, sources=granted.sources), used)


def _at(decision: Decision, used: int) -> Decision:
    remaining, warning = standing(decision.value, used)
    return msgspec.structs.replace(decision, used=used, remaining=remaining, warning=warning)
