"""Windows of use tile time, and counting is decided as checking is."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from entitlements.access.usage import (
    COUNT_AT_MOST,
    NEVER,
    Cycle,
    bound_of,
    decide_consumed,
    decide_level,
    window_of,
)
from entitlements.catalog.model import EntitlementValue, Feature, FeatureKind, ResetPeriod
from entitlements.grants.decide import decide
from entitlements.grants.merge import FeatureGrants, Grants
from entitlements.kernel.period import Interval

LEAPS = [datetime.fromisoformat(day) for day in ("2019-12-01", "2033-02-01")]
INSTANTS = st.datetimes(*LEAPS, timezones=st.just(UTC))
RESETS = st.sampled_from([r for r in ResetPeriod if r is not ResetPeriod.NEVER])
CYCLES = st.builds(Cycle, INSTANTS, st.sampled_from(list(Interval)))


@given(RESETS, CYCLES, INSTANTS)
def test_every_instant_is_in_one_window_and_each_follows_the_other(
    reset: ResetPeriod, cycle: Cycle, at: datetime
) -> None:
    window = window_of(reset, cycle, at)
    assert window.end is not None
    assert window.bucket_end is not None
    assert window.start <= window.bucket_start <= at < window.bucket_end <= window.end
    for inside in (window.start, window.end - timedelta(microseconds=1)):
        same = window_of(reset, cycle, inside)
        assert (same.start, same.end) == (window.start, window.end)
    assert window_of(reset, cycle, window.end).start == window.end


@given(CYCLES, INSTANTS)
def test_a_billing_window_is_made_of_whole_months_of_its_anchor(cycle: Cycle, at: datetime) -> None:
    window = window_of(ResetPeriod.BILLING_PERIOD, cycle, at)
    by_month = Cycle(cycle.anchor, Interval.MONTH)
    starts = [*window.earlier, window.bucket_start]
    assert starts[0] == window.start
    for start, following in zip(starts, [*starts[1:], window.bucket_end], strict=True):
        month = window_of(ResetPeriod.BILLING_PERIOD, by_month, start)
        assert (month.start, month.end) == (start, following)
        days = cycle.anchor.day, start.day
        assert days[1] == days[0] or (start + timedelta(days=1)).day == 1
    assert len(starts) <= cycle.interval.months


@given(INSTANTS)
def test_calendar_windows_begin_where_people_expect_them(at: datetime) -> None:
    def start(reset: ResetPeriod) -> datetime:
        return window_of(reset, Cycle(at, Interval.MONTH), at).start

    assert start(ResetPeriod.WEEK).weekday() == 0
    assert start(ResetPeriod.MONTH).day == 1
    for reset in (ResetPeriod.DAY, ResetPeriod.WEEK, ResetPeriod.MONTH):
        assert start(reset).timetz() == datetime.min.replace(tzinfo=UTC).timetz()
    assert start(ResetPeriod.HOUR) == at.replace(minute=0, second=0, microsecond=0)
    assert window_of(None, Cycle(at, Interval.MONTH), at) is NEVER


CALLS = Feature(id="calls", name="Calls", kind=FeatureKind.METERED)
VALUES = st.none() | st.builds(
    EntitlementValue,
    limit=st.integers(0, 20),
    unlimited=st.booleans(),
    overage=st.booleans(),
    warn_at_percent=st.just((50, 80)),
)


def _grants(value: EntitlementValue | None) -> Grants:
    features = {"calls": FeatureGrants(value=value)}
    return Grants(features=features, has_subscription=True, holds_until=None)


@given(VALUES, st.integers(0, 30), st.integers(1, 30))
def test_what_is_counted_is_exactly_what_a_check_allows(
    value: EntitlementValue | None, used: int, quantity: int
) -> None:
    grants = _grants(value)
    check = decide(grants, CALLS, quantity=quantity, used=used)
    counted = used + quantity <= bound_of(grants, "calls")
    after = used + quantity if counted else used
    answer = decide_consumed(grants, CALLS, quantity, used=after, counted=counted)
    assert counted is check.allowed is answer.allowed
    assert (answer.reason, answer.over_limit) == (check.reason, check.over_limit)
    asked_next = decide(grants, CALLS, used=after)
    assert (answer.used, answer.remaining, answer.warning) == (
        asked_next.used, asked_next.remaining, asked_next.warning,
    )  # fmt: skip


@given(VALUES, st.integers(0, 30), st.integers(0, 30))
def test_a_level_is_set_when_it_fits_or_falls(
    value: EntitlementValue | None, level: int, before: int
) -> None:
    grants = _grants(value)
    bound = bound_of(grants, "calls")
    counted = level <= max(bound, before)
    answer = decide_level(grants, CALLS, level, used=level if counted else before, counted=counted)
    assert answer.allowed is counted
    assert (answer.reason is None) is counted
    if answer.over_limit:
        assert bound == COUNT_AT_MOST
