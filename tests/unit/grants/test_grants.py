"""What a customer may do, and why not."""

from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest

from entitlements.catalog.model import (
    AnyPackage,
    Catalog,
    EntitlementValue,
    GrantMode,
)
from entitlements.grants.decide import Decision, DenialReason, decide
from entitlements.grants.merge import Grants, resolve
from entitlements.grants.overrides import Override, override_issues
from entitlements.grants.sources import GrantSourceKind, HeldPackage, Holding
from entitlements.kernel.errors import ValidationFailed
from tests.unit.pricing.catalogs import (
    ANALYTICS,
    AT,
    CALLS,
    FEATURES,
    PRODUCT,
    PROFESSIONAL,
    STARTER,
    add_on,
    bundle,
    catalog,
    flat,
    grants,
    limit,
    plan,
    volume_seats,
)

FREE = plan("free", flat("0"), gives=grants(calls=100, channel="email"))
PACK = bundle("pack", flat("20"), of={"analytics": 1, "extra-calls": 2})
SOLD = catalog(FREE, STARTER, PROFESSIONAL, ANALYTICS, CALLS, PACK)
WITH_FREE = catalog(FREE, STARTER, PROFESSIONAL, ANALYTICS, CALLS, PACK, fallback_plan="free")
DAY = timedelta(days=1)


def held(*packages: AnyPackage | HeldPackage, **more: Any) -> Holding:
    items = tuple(p if isinstance(p, HeldPackage) else HeldPackage(package=p) for p in packages)
    return Holding(product_id=PRODUCT, items=items, **{"has_access": True, **more})


def override(
    feature_id: str,
    value: EntitlementValue,
    mode: GrantMode = GrantMode.REPLACE,
    *,
    id: str = "ovr_1",
    created_at: datetime = AT,
    ends_at: datetime | None = None,
) -> Override:
    return Override(
        id=id,
        feature_id=feature_id,
        mode=mode,
        value=value,
        reason="agreed by phone",
        created_by="support",
        created_at=created_at,
        ends_at=ends_at,
    )


def on(enabled: bool) -> EntitlementValue:
    return EntitlementValue(enabled=enabled)


def granted(
    *holdings: Holding, overrides: tuple[Override, ...] = (), sold: Catalog = SOLD
) -> Grants:
    return resolve(sold, holdings, overrides, AT)


def check(what: Grants | None, feature_id: str, **asked: Any) -> Decision:
    return decide(what, FEATURES.get(feature_id), **asked)


# What is granted


def test_add_ons_add_to_the_plans_limit_times_the_quantity_held() -> None:
    value = granted(held(STARTER, HeldPackage(package=CALLS, quantity=3))).of("calls").value
    assert value == limit(310_000)


def test_seats_bought_are_what_is_granted_and_the_limit_only_the_most_to_buy() -> None:
    grant = granted(held(PROFESSIONAL, bought={"seats": 12})).of("seats")
    assert grant.value == limit(12)
    [source] = grant.sources
    assert (source.kind, source.mode, source.value.limit) == (
        GrantSourceKind.PLAN,
        GrantMode.SET,
        12,
    )


def test_seats_that_no_held_charge_counts_are_granted_by_the_limit() -> None:
    assert granted(held(STARTER, bought={"seats": 99})).of("seats").value == limit(5)


def test_adds_come_on_top_of_seats_bought() -> None:
    more = add_on("more-seats", flat("5"), gives=grants(seats=("add", 3)))
    assert granted(held(PROFESSIONAL, more, bought={"seats": 12})).of("seats").value == limit(15)


def test_seats_bought_count_where_no_package_sets_a_limit() -> None:
    bare = plan("bare", volume_seats())
    grant = granted(held(bare, bought={"seats": 7})).of("seats")
    assert (grant.value, grant.sources[0].package) == (limit(7), bare)


def test_a_bundles_sources_name_the_bundle_and_the_component() -> None:
    grant = granted(held(STARTER, HeldPackage(package=PACK, quantity=2))).of("calls")
    assert grant.value == limit(410_000)
    [source] = [s for s in grant.sources if s.kind is GrantSourceKind.BUNDLE]
    assert (source.package, source.component, source.quantity) == (PACK, CALLS, 4)


def test_a_later_version_may_give_the_entitlements_at_the_old_price() -> None:
    later = plan("starter", gives=grants(calls=50_000))
    item = HeldPackage(package=STARTER, granting=later)
    assert granted(held(item)).of("calls").value == limit(50_000)


def test_a_trial_grants_until_its_end_and_not_at_it() -> None:
    def access(ends_at: datetime) -> Decision:
        trial = HeldPackage(package=ANALYTICS, trial=True, ends_at=ends_at)
        return check(granted(held(STARTER, trial)), "dashboards")

    assert access(AT + DAY).allowed
    assert access(AT + DAY).sources[0].kind is GrantSourceKind.TRIAL
    assert not access(AT).allowed


def test_a_fallback_plan_counts_only_without_access_to_its_product() -> None:
    lost = granted(held(STARTER, has_access=False), sold=WITH_FREE)
    assert (lost.of("calls").value, lost.of("calls").sources[0].kind) == (
        limit(100),
        GrantSourceKind.FALLBACK,
    )
    assert granted(held(STARTER), sold=WITH_FREE).of("calls").value == limit(10_000)


def test_a_feature_left_out_of_the_catalog_counts_for_those_who_hold_it() -> None:
    kept = {id: feature for id, feature in FEATURES.items() if id != "calls"}
    sold = msgspec.structs.replace(
        SOLD, features=kept, retired_features={"calls": FEATURES["calls"]}
    )
    assert granted(held(STARTER), sold=sold).of("calls").value == limit(10_000)


def test_unlimited_wins_and_has_no_overage() -> None:
    vast = add_on("vast", flat("1"), gives=grants(calls="unlimited"))
    value = granted(held(PROFESSIONAL, vast, CALLS)).of("calls").value
    assert value == EntitlementValue(unlimited=True)


@pytest.mark.parametrize(("value", "allowed"), [(on(True), True), (on(False), False)])
def test_a_replacement_wins_in_either_direction(value: EntitlementValue, allowed: bool) -> None:
    plan_held = STARTER if allowed else PROFESSIONAL  # starter has no single sign-on
    answer = check(granted(held(plan_held), overrides=(override("sso", value),)), "sso")
    assert (answer.allowed, len(answer.sources)) == (allowed, 2)


def test_of_two_replacements_the_later_wins_and_ties_go_by_id() -> None:
    first = override("sso", on(False), id="ovr_1", created_at=AT - DAY)
    second = override("sso", on(True), id="ovr_2", created_at=AT)
    tied = override("sso", on(False), id="ovr_3", created_at=AT)
    assert check(granted(overrides=(second, first)), "sso").allowed
    assert not check(granted(overrides=(tied, second, first)), "sso").allowed


def test_an_override_counts_from_its_start_until_its_end() -> None:
    ended = override("sso", on(True), created_at=AT - DAY, ends_at=AT)
    later = override("sso", on(True), created_at=AT + DAY)
    running = override("calls", limit(5), created_at=AT, ends_at=AT + 2 * DAY)
    grants_now = granted(overrides=(ended, later, running))
    assert not check(grants_now, "sso").allowed
    assert grants_now.holds_until == AT + DAY


def test_the_packages_warnings_outlive_a_replaced_limit() -> None:
    warned = plan("warned", flat("1"), gives=grants(calls=limit(100, warn=(80, 95))))
    what = granted(held(warned), overrides=(override("calls", EntitlementValue(limit=1000)),))
    assert check(what, "calls", used=900).warning == 80


# What is decided


def test_a_limit_allows_what_fits_and_no_more() -> None:
    what = granted(held(STARTER))
    last = check(what, "calls", used=9_999)
    assert (last.allowed, last.remaining, last.over_limit) == (True, 1, False)
    assert check(what, "calls", used=9_998, quantity=2).allowed
    over = check(what, "calls", used=9_998, quantity=3)
    assert (over.allowed, over.reason) == (False, DenialReason.LIMIT_EXCEEDED)


def test_overage_allows_past_the_limit_and_says_so() -> None:
    what = granted(held(PROFESSIONAL, bought={"seats": 1}))
    past = check(what, "calls", used=100_000)
    assert (past.allowed, past.over_limit, past.remaining) == (True, True, 0)
    assert not check(what, "calls", used=99_999).over_limit


def test_the_highest_warning_reached_is_given() -> None:
    warned = granted(held(plan("w", flat("1"), gives=grants(calls=limit(10, warn=(80, 95))))))
    used = [7, 8, 9, 10]
    assert [check(warned, "calls", used=n).warning for n in used] == [None, 80, 80, 95]


@pytest.mark.parametrize(
    ("feature_id", "wanted", "allowed"),
    [
        ("channel", "email", True),
        ("channel", "chat", True),
        ("channel", "phone", False),
        ("support-hours", "48", True),
        ("support-hours", "24.0", True),
        ("support-hours", "4", False),  # lower is better
    ],
)
def test_a_value_is_compared_in_its_features_own_order(
    feature_id: str, wanted: str, allowed: bool
) -> None:
    chatty = plan("chatty", flat("1"), gives=grants(channel="chat", support_hours=24))
    answer = check(granted(held(chatty)), feature_id, at_least=wanted)
    assert answer.allowed is allowed
    assert answer.reason is (None if allowed else DenialReason.VALUE_TOO_LOW)


UNPAID = held(PROFESSIONAL, ANALYTICS, has_access=False, bought={"seats": 5})
ENDED = held(PROFESSIONAL, ANALYTICS, has_access=False, ended=True)
TRIED = held(ANALYTICS, has_access=False, ended=True, unconverted_trial=True)
OFF = override("dashboards", on(False))


@pytest.mark.parametrize(
    ("reason", "what"),
    [
        (DenialReason.CUSTOMER_NOT_FOUND, None),
        (DenialReason.NO_ACTIVE_SUBSCRIPTION, granted()),
        (DenialReason.NO_ACTIVE_SUBSCRIPTION, granted(ENDED)),
        (DenialReason.NO_ACTIVE_SUBSCRIPTION, granted(ENDED, sold=WITH_FREE)),
        (DenialReason.SUBSCRIPTION_UNPAID, granted(UNPAID)),
        (DenialReason.SUBSCRIPTION_UNPAID, granted(UNPAID, TRIED)),
        (DenialReason.SUBSCRIPTION_UNPAID, granted(UNPAID, overrides=(OFF,))),
        (DenialReason.TRIAL_ENDED, granted(TRIED)),
        (DenialReason.TRIAL_ENDED, granted(held(STARTER), TRIED)),
        (DenialReason.TRIAL_ENDED, granted(held(STARTER), TRIED, overrides=(OFF,))),
        (DenialReason.REVOKED, granted(held(STARTER, ANALYTICS), overrides=(OFF,))),
        (DenialReason.REVOKED, granted(held(STARTER, ANALYTICS), TRIED, overrides=(OFF,))),
        (DenialReason.NOT_ENTITLED, granted(held(STARTER))),
        (DenialReason.NOT_ENTITLED, granted(held(STARTER), overrides=(OFF,))),
        (DenialReason.NOT_ENTITLED, granted(held(STARTER), ENDED)),
    ],
)
def test_a_denial_gives_the_first_reason_that_applies(
    reason: DenialReason, what: Grants | None
) -> None:
    answer = check(what, "dashboards")
    assert (answer.allowed, answer.reason) == (False, reason)


def test_a_feature_that_is_not_known_comes_after_the_customer() -> None:
    assert check(granted(), "gone").reason is DenialReason.FEATURE_NOT_FOUND
    assert check(None, "gone").reason is DenialReason.CUSTOMER_NOT_FOUND


def test_revoked_is_only_what_would_be_allowed_without_the_override() -> None:
    lowered = (override("calls", limit(50)),)
    what = granted(held(STARTER), overrides=lowered)
    assert check(what, "calls", used=60).reason is DenialReason.REVOKED
    assert check(what, "calls", used=10_000).reason is DenialReason.LIMIT_EXCEEDED


def test_two_replacements_that_both_say_no_revoke() -> None:
    twice = (OFF, override("dashboards", on(False), id="ovr_2"))
    answer = check(granted(held(STARTER, ANALYTICS), overrides=twice), "dashboards")
    assert answer.reason is DenialReason.REVOKED


def test_paying_is_the_reason_only_where_it_would_help() -> None:
    what = granted(held(STARTER, has_access=False), sold=WITH_FREE)
    assert check(what, "calls", used=500).reason is DenialReason.SUBSCRIPTION_UNPAID
    assert check(what, "calls", used=10_000).reason is DenialReason.LIMIT_EXCEEDED


def test_a_false_source_is_listed_and_denies() -> None:
    answer = check(granted(held(STARTER)), "sso")
    assert (answer.reason, len(answer.sources)) == (DenialReason.NOT_ENTITLED, 1)


@pytest.mark.parametrize(
    ("feature_id", "asked", "issue"),
    [
        ("calls", {"quantity": 0}, ("quantity", "OUT_OF_RANGE")),
        ("sso", {"at_least": "true"}, ("atLeast", "NOT_FOR_KIND")),
        ("calls", {"at_least": "5"}, ("atLeast", "NOT_FOR_KIND")),
        ("channel", {"at_least": "pigeon"}, ("atLeast", "NOT_LISTED")),
        ("support-hours", {"at_least": "soon"}, ("atLeast", "WRONG_KIND")),
        ("support-hours", {"at_least": "NaN"}, ("atLeast", "WRONG_KIND")),
    ],
)
def test_a_check_that_makes_no_sense_is_refused(
    feature_id: str, asked: dict[str, Any], issue: tuple[str, str]
) -> None:
    with pytest.raises(ValidationFailed) as failure:
        check(granted(held(STARTER)), feature_id, **asked)
    assert [(i.path[0], i.code) for i in failure.value.issues] == [issue]


@pytest.mark.parametrize(
    ("feature_id", "mode", "value", "codes"),
    [
        ("calls", GrantMode.ADD, EntitlementValue(limit=5), []),
        ("calls", GrantMode.SET, EntitlementValue(unlimited=True), []),
        ("calls", GrantMode.ADD, EntitlementValue(limit=0), ["OUT_OF_RANGE"]),
        ("calls", GrantMode.SET, EntitlementValue(limit=-1), ["OUT_OF_RANGE"]),
        ("calls", GrantMode.SET, EntitlementValue(limit=1, unlimited=True), ["ONE_OF"]),
        ("calls", GrantMode.SET, EntitlementValue(overage=True), ["ONE_OF"]),
        ("channel", GrantMode.REPLACE, EntitlementValue(choice="chat"), []),
        ("channel", GrantMode.REPLACE, EntitlementValue(choice="fax"), ["NOT_LISTED"]),
        ("sso", GrantMode.SET, EntitlementValue(choice="chat"), ["NOT_FOR_KIND", "MISSING"]),
        ("sso", GrantMode.ADD, on(True), ["ADD_NEEDS_METERED"]),
    ],
)
def test_an_override_has_to_suit_its_feature(
    feature_id: str, mode: GrantMode, value: EntitlementValue, codes: list[str]
) -> None:
    assert [i.code for i in override_issues(FEATURES[feature_id], mode, value)] == codes
