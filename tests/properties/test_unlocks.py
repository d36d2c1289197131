"""Remedies against a search that tries every package in every number, whatever is sold and held."""

from collections.abc import Iterator
from datetime import timedelta

import msgspec
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from entitlements.access.service import Check
from entitlements.access.unlocks import Unlock, unlocks
from entitlements.catalog.model import AddOn, Bundle, Catalog, FeatureKind, GrantMode, Plan
from entitlements.grants.decide import decide
from entitlements.grants.merge import Grants
from entitlements.kernel.errors import ValidationFailed
from entitlements.pricing.selection import parts_of
from entitlements.subscriptions.change import Authority, ChangeDirection, ChangePlan, plan_change
from entitlements.subscriptions.composition import add_ons_held
from entitlements.subscriptions.holdings import after_change, grants_of
from entitlements.subscriptions.quote import digest, due_by
from entitlements.subscriptions.request import ChangeRequest
from entitlements.subscriptions.state import CustomerState, SubscriptionStatus
from entitlements.subscriptions.violations import Used
from tests.properties.test_pricing_cheaper import catalogs
from tests.unit.pricing.catalogs import AT, FEATURES, PRODUCT, STARTER, WORKSPACE, catalog
from tests.unit.subscriptions.test_change import after

NOBODY = CustomerState(id="acme", currency="usd", revision=1)
LATER = AT + timedelta(days=9)
MOST = 12  # of one package, and of seats beyond those held: what is asked for here needs no more


def planned(
    sold: Catalog, state: CustomerState, request: ChangeRequest, used: dict[str, Used]
) -> ChangePlan | None:
    try:
        return plan_change(
            sold,
            state,
            request,
            LATER,
            authority=Authority.CUSTOMER,
            levels_in_use={"seats": used["seats"].quantity},
        )
    except ValidationFailed:
        return None


@st.composite
def populations(draw: st.DrawFn) -> tuple[Catalog, CustomerState]:
    """A catalog, and somebody with a plan of it and some more, or with nothing."""
    sold = draw(catalogs())
    if draw(st.integers(0, 5)) == 0:
        return sold, NOBODY
    packages = list(sold.current.values())
    plans = [p.id for p in packages if isinstance(p, Plan)]
    more = {p.id: draw(st.integers(0, 2)) for p in packages if draw(st.integers(0, 2)) == 0}
    request = ChangeRequest(
        product_id=PRODUCT,
        plan_id=draw(st.sampled_from(plans)),
        add_ons={id: n for id, n in more.items() if isinstance(sold.current[id], AddOn)},
        bundles={id: n for id, n in more.items() if isinstance(sold.current[id], Bundle)},
    )
    try:
        plan = plan_change(sold, NOBODY, request, AT, authority=Authority.CUSTOMER)
    except ValidationFailed:
        plan = None
    assume(plan is not None)
    assert plan is not None
    return sold, after(NOBODY, plan)


@st.composite
def checks(draw: st.DrawFn) -> tuple[Check, dict[str, Used]]:
    feature = draw(st.sampled_from(sorted(FEATURES)))
    used = {
        "seats": Used(draw(st.integers(0, 8)), None),
        "calls": Used(draw(st.sampled_from([0, 90, 300])), None),
    }
    at_least = {
        "channel": draw(st.sampled_from([None, "chat", "phone"])),
        "support-hours": draw(st.sampled_from([None, "24", "4"])),
    }.get(feature)
    quantity = draw(st.integers(1, 8)) if feature == "seats" else 1
    if feature == "calls":
        quantity = draw(st.sampled_from([1, 60, 250]))
    return Check(feature, quantity, at_least), used


def wanted(
    sold: Catalog, state: CustomerState, check: Check, in_use: int
) -> Iterator[list[ChangeRequest]]:
    """Every package: with ever more of it where each adds to the limit, else with ever more seats,
    as far as they are sold; and the seats alone."""
    held = state.live(PRODUCT)
    add_ons = add_ons_held(sold, held.items) if held else {}
    bundles = {i.package_id: i.quantity for i in held.items} if held else {}
    seats = held.quantities.get("seats", 0) if held else max(in_use - 1, 0)
    levels = [{"seats": n} for n in range(seats + 1, seats + 2 * MOST)]
    for package in sold.current.values():
        adds = any(
            e.mode is GrantMode.ADD and e.feature_id == check.feature_id
            for part in parts_of(sold, package)
            for e in part.package.entitlements
        )
        bare = [
            ChangeRequest(plan_id=package.id)
            if isinstance(package, Plan)
            else ChangeRequest(add_ons={package.id: add_ons.get(package.id, 0) + n})
            if isinstance(package, AddOn)
            else ChangeRequest(bundles={package.id: bundles.get(package.id, 0) + n})
            for n in range(1, MOST)
        ]
        if adds:
            yield bare
        else:
            more = [msgspec.structs.replace(bare[0], quantities=level) for level in levels]
            yield [bare[0], *more]
    if "seats" in (held.quantities if held else {}):
        yield [ChangeRequest(product_id=PRODUCT, quantities=level) for level in levels]


def allows(grants: Grants, sold: Catalog, check: Check, used: dict[str, Used]) -> bool:
    return decide(
        grants,
        sold.features[check.feature_id],
        quantity=check.quantity,
        at_least=check.at_least,
        used=used[check.feature_id].quantity if check.feature_id in used else 0,
    ).allowed


def gives(
    sold: Catalog, state: CustomerState, plan: ChangePlan, check: Check, used: dict[str, Used]
) -> bool:
    return allows(grants_of(sold, after_change(sold, state, plan), plan.at), sold, check, used)


def price(plan: ChangePlan, state: CustomerState) -> tuple[int, int]:
    return plan.mrr_delta_minor, due_by(plan, state.credit_balance_minor).due_now_minor


@settings(max_examples=150)
@given(populations(), checks())
def test_the_cheapest_package_that_helps_is_the_first_and_none_is_offered_in_vain(
    population: tuple[Catalog, CustomerState], asked: tuple[Check, dict[str, Used]]
) -> None:
    (sold, state), (check, used) = population, asked
    found = unlocks(sold, state, check, used, LATER, first=10)
    assert [u.price for u in found] == sorted(u.price for u in found)
    for unlock in found:
        accepted(sold, state, unlock, check, used)
    best = {}
    for wishes in wanted(sold, state, check, used["seats"].quantity):
        for request in wishes:
            plan = planned(sold, state, request, used)
            if plan is not None and gives(sold, state, plan, check, used):
                if may_be_offered(sold, state, plan, used):
                    best[price(plan, state)] = request
                break
    if allows(grants_of(sold, state, LATER), sold, check, used):
        assert not found
    else:
        assert [price(u.plan, state) for u in found[:1]] == sorted(best)[:1], (
            best,
            [u.request for u in found],
        )


def may_be_offered(
    sold: Catalog, state: CustomerState, plan: ChangePlan, used: dict[str, Used]
) -> bool:
    """Now, by the customer alone, a gain, and nothing is taken away (said in other words)."""
    if plan.waits or plan.approval_required or plan.removed_add_ons:
        return False
    if plan.direction in (ChangeDirection.DOWNGRADE, ChangeDirection.REMOVAL):
        return False
    before, after = (
        grants_of(sold, state, plan.at),
        grants_of(sold, after_change(sold, state, plan), plan.at),
    )
    for feature in sold.features.values():
        was, will = before.of(feature.id).value, after.of(feature.id).value
        if was is None or was == will:
            continue
        if feature.kind is FeatureKind.METERED:
            fits = will is not None and (
                will.unlimited
                or (not was.unlimited and (will.limit or 0) >= (was.limit or 0)
                    and (will.overage or not was.overage))
                or (feature.id in plan.quantities
                    and (will.limit or 0) >= used[feature.id].quantity)
            )  # fmt: skip
        elif feature.kind is FeatureKind.BOOLEAN:
            fits = not was.enabled or (will is not None and bool(will.enabled))
        elif feature.kind is FeatureKind.ENUM:
            order = ("email", "chat", "phone")
            fits = will is not None and order.index(will.choice or "") >= order.index(
                was.choice or ""
            )
        else:
            fits = will is not None and (will.number or 0) <= (was.number or 0)  # hours
        if not fits:
            return False
    return True


def accepted(
    sold: Catalog, state: CustomerState, unlock: Unlock, check: Check, used: dict[str, Used]
) -> None:
    """What the offer's own request comes to, also once the packages are sold at other prices."""
    newer = msgspec.structs.replace(
        sold,
        revision=2,
        current={
            id: msgspec.structs.replace(package, version=2, charges=(), entitlements=())
            for id, package in sold.current.items()
        },
        latest_versions=dict.fromkeys(sold.current, 2),
    )
    for catalog_then in (sold, newer):
        plan = planned(catalog_then, state, unlock.request, used)
        assert plan is not None
        assert digest(plan.invoice_lines) == digest(unlock.plan.invoice_lines)
        assert due_by(plan, state.credit_balance_minor).due_now_minor == unlock.due_now_minor
        assert gives(catalog_then, state, plan, check, used)


def test_in_arrears_and_while_paused_nothing_of_the_product_is_offered() -> None:
    plan = plan_change(
        WORKSPACE, NOBODY, ChangeRequest(plan_id="starter"), AT, authority=Authority.CUSTOMER
    )
    state, check = after(NOBODY, plan), Check("dashboards")
    assert [u.package.id for u in unlocks(WORKSPACE, state, check, {}, AT)] == ["analytics"]
    for status in SubscriptionStatus:
        [held] = state.subscriptions
        ends_at = LATER if status is SubscriptionStatus.TRIALING else None
        now = msgspec.structs.replace(held, status=status, trial_ends_at=ends_at)
        found = unlocks(
            WORKSPACE, msgspec.structs.replace(state, subscriptions=(now,)), check, {}, AT
        )
        with_access = status in (SubscriptionStatus.ACTIVE, SubscriptionStatus.TRIALING)
        assert [u.package.id for u in found] == (["analytics"] if with_access else [])
    assert unlocks(catalog(STARTER), state, check, {}, AT) == []
