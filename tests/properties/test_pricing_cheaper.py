"""The cheaper options against a search that tries everything, with rules of its own."""

import itertools
from collections.abc import Iterator, Sequence
from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st

from entitlements.catalog.model import AddOn, AnyPackage, Bundle, Catalog, GrantMode, Plan
from entitlements.kernel.errors import ValidationFailed
from entitlements.pricing.charges import amount_minor
from entitlements.pricing.estimate import (
    EstimateRequest,
    FeatureQuantity,
    PackageQuantity,
    estimate,
)
from tests.unit.pricing.catalogs import (
    FEATURES,
    PRODUCT,
    add_on,
    bundle,
    catalog,
    flat,
    grants,
    limit,
    plan,
    volume_seats,
)

Chosen = tuple[tuple[AnyPackage, int], ...]
MAX_SEATS = 80  # above every need that can arise here, and above the last tier's start

fees = st.integers(1, 120).map(str)
optional = {
    "dashboards": st.booleans(),
    "sso": st.booleans(),
    "support_hours": st.sampled_from([4, 24, 48]),
    "channel": st.sampled_from(["email", "chat", "phone"]),
}
plan_gives = st.fixed_dictionaries(
    {},
    optional=optional
    | {
        "seats": st.sampled_from([3, 20, 60, "unlimited"]),
        "calls": st.sampled_from([100, 300, limit(100, overage=True), "unlimited"]),
    },
)
add_on_gives = st.fixed_dictionaries(
    {},
    optional=optional
    | {
        "seats": st.sampled_from([("add", 2), ("add", 10), 20]),
        "calls": st.sampled_from([("add", 100), ("add", 50), 300]),
    },
)


@st.composite
def catalogs(draw: st.DrawFn) -> Catalog:
    plans = [
        plan(
            f"plan-{i}",
            flat(draw(fees)),
            *([volume_seats()] if draw(st.booleans()) else []),
            rank=i,
            gives=grants(**draw(plan_gives)),
        )
        for i in range(draw(st.integers(1, 2)))
    ]
    ids = [f"add-{i}" for i in range(draw(st.integers(1, 3)))]
    others = st.lists(st.sampled_from(ids), max_size=1)
    add_ons = [
        add_on(
            id,
            volume_seats() if draw(st.integers(0, 9)) == 0 else flat(draw(fees)),
            max_quantity=draw(st.integers(1, 3)),
            works_with=draw(st.none() | st.just(("plan-0",))),
            requires=tuple(o for o in draw(others) if o < id),
            excludes=tuple(o for o in draw(others) if o > id and draw(st.booleans())),
            gives=grants(**draw(add_on_gives)),
        )
        for id in ids
    ]
    bundles = [
        bundle(
            f"bundle-{i}",
            flat(draw(fees)),
            of=draw(
                st.dictionaries(
                    st.sampled_from([*ids, "plan-0"]), st.just(1), min_size=1, max_size=3
                )
            ),
        )
        for i in range(draw(st.integers(0, 2)))
    ]
    return catalog(*plans, *add_ons, *bundles)


def parts(sold: Catalog, chosen: Chosen) -> list[tuple[Plan | AddOn, int]]:
    found: list[tuple[Plan | AddOn, int]] = []
    for package, quantity in chosen:
        if isinstance(package, Bundle):
            for component in package.components:
                part = sold.current[component.package_id]
                assert isinstance(part, Plan | AddOn)
                found.append((part, quantity * component.quantity))
        else:
            found.append((package, quantity))
    return found


def allowed(sold: Catalog, chosen: Chosen) -> bool:
    held = parts(sold, chosen)
    plans = [p.id for p, n in held if isinstance(p, Plan) for _ in range(n)]
    total = {p.id: sum(n for q, n in held if q.id == p.id) for p, _ in held}
    return len(plans) <= 1 and all(
        total[a.id] <= (a.max_quantity or 99)
        and all(a.works_with is None or p in a.works_with for p in plans)
        and all(r in total for r in a.requires)
        and not any(e in total for e in a.excludes)
        for a, _ in held
        if isinstance(a, AddOn)
    )


def seats_counted(chosen: Chosen) -> bool:
    return any(c.quantity_feature == "seats" for p, _ in chosen for c in p.charges)


def gives(sold: Catalog, chosen: Chosen, bought: int) -> dict[str, object]:
    """Each feature as something that can be compared: a number, or (limit, overage)."""
    held = parts(sold, chosen)
    answer: dict[str, object] = {}
    for id in FEATURES:
        own = [(e, n) for p, n in held for e in p.entitlements if e.feature_id == id]
        if id in ("seats", "calls"):
            counted = id == "seats" and seats_counted(chosen)
            sets = [e.value for e, _ in own if e.mode is GrantMode.SET]
            limits = [bought if counted else float(v.limit or "inf") for v in sets]
            limits += [bought] if counted else []
            adds = sum((e.value.limit or 0) * n for e, n in own if e.mode is GrantMode.ADD)
            most = max(limits, default=0) + adds
            answer[id] = (most, most == float("inf") or any(e.value.overage for e, _ in own))
        else:
            answer[id] = max((strength(id, e.value) for e, _ in own), default=-1000)
    return answer


def strength(feature_id: str, value: object) -> float:
    if feature_id == "support-hours":
        return -float(value.number)  # type: ignore[attr-defined]
    if feature_id == "channel":
        return ("email", "chat", "phone").index(value.choice)  # type: ignore[attr-defined]
    return 1 if value.enabled else -1000  # type: ignore[attr-defined]


def no_less(has: dict[str, object], wanted: dict[str, object]) -> bool:
    for id, want in wanted.items():
        have = has[id]
        if isinstance(want, tuple) and isinstance(have, tuple):
            if have[0] < want[0] or (want[1] and not have[1]):
                return False
        elif have < want:  # type: ignore[operator]
            return False
    return True


def fees_of(chosen: Chosen) -> int:
    return sum(
        amount_minor(charge, charge.prices[0], quantity)
        for package, quantity in chosen
        for charge in package.charges
        if not charge.quantity_feature
    )


@cache
def seat_price(bought: int) -> int:
    charge = volume_seats()
    return amount_minor(charge, charge.prices[0], bought)


def cost(chosen: Chosen, bought: int) -> int:
    counting = sum(1 for p, _ in chosen for c in p.charges if c.quantity_feature)
    return fees_of(chosen) + counting * seat_price(bought)


def seats_that_may_be_bought(sold: Catalog, chosen: Chosen) -> Sequence[int]:
    if not seats_counted(chosen):
        return [0]
    sets = [
        e.value
        for p, _ in parts(sold, chosen)
        for e in p.entitlements
        if e.feature_id == "seats" and e.mode is GrantMode.SET
    ]
    most = max((MAX_SEATS if v.unlimited else v.limit or 0 for v in sets), default=MAX_SEATS)
    return range(1, min(most, MAX_SEATS) + 1)


def everything(sold: Catalog) -> Iterator[Chosen]:
    product = sold.products[PRODUCT]
    beside: list[AnyPackage] = [*product.add_ons, *product.bundles]
    ranges = [range(4)] * len(beside)  # at least one component may be held three times at most
    for base in [None, *product.plans]:
        for counts in itertools.product(*ranges):
            chosen = tuple((p, n) for p, n in zip(beside, counts, strict=True) if n)
            yield ((base, 1), *chosen) if base else chosen


def kept(sold: Catalog, chosen: Chosen) -> dict[str, int]:
    held = parts(sold, chosen)
    return {
        a.id: total
        for a, _ in held
        if isinstance(a, AddOn)
        and (total := sum(n for p, n in held if p.id == a.id))
        and (
            not a.entitlements
            or (total > 1 and all(e.mode is not GrantMode.ADD for e in a.entitlements))
        )
    }


@settings(max_examples=60, deadline=None)
@given(catalogs(), st.data())
def test_the_cheapest_option_is_the_cheapest_there_is(sold: Catalog, data: st.DataObject) -> None:
    product = sold.products[PRODUCT]
    plan_id = data.draw(st.sampled_from([p.id for p in product.plans]))
    wanted = data.draw(
        st.dictionaries(
            st.sampled_from([a.id for a in product.add_ons]), st.integers(1, 2), max_size=3
        )
    )
    seats = data.draw(st.none() | st.integers(1, 60))
    request = EstimateRequest(
        plan_id=plan_id,
        add_ons=tuple(PackageQuantity(id, n) for id, n in wanted.items()),
        quantities=() if seats is None else (FeatureQuantity("seats", seats),),
    )
    try:
        answer = estimate(sold, request)
    except ValidationFailed:
        return
    assert answer.cheaper_complete

    asked: Chosen = tuple((sold.current[id], n) for id, n in {plan_id: 1, **wanted}.items())
    needed = gives(sold, asked, seats or 1)
    must_keep = kept(sold, asked)
    best = cost(asked, seats or 1)
    assert best == answer.total.amount_minor
    for chosen in everything(sold):
        if fees_of(chosen) >= best or not allowed(sold, chosen):
            continue
        held = parts(sold, chosen)
        if not any(isinstance(p, Plan) for p, _ in held):
            continue
        if any(sum(n for p, n in held if p.id == id) < n0 for id, n0 in must_keep.items()):
            continue
        for bought in seats_that_may_be_bought(sold, chosen):
            if cost(chosen, bought) < best and no_less(gives(sold, chosen, bought), needed):
                best = cost(chosen, bought)
    found = min((o.total.amount_minor for o in answer.cheaper), default=answer.total.amount_minor)
    assert found == best
