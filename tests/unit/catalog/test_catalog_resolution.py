"""What a document leaves to be computed: inherited entitlements, years, bundles, intervals."""

from decimal import Decimal

import pytest

from entitlements.catalog.document import Draft, parse, read
from entitlements.catalog.model import (
    Bundle,
    Catalog,
    Charge,
    EntitlementValue,
    GrantMode,
    Price,
    ResetPeriod,
)
from entitlements.catalog.versions import check_against, publish
from entitlements.kernel.errors import ValidationFailed
from entitlements.kernel.period import Interval

PRELUDE = """
currencies: [usd, jpy, kwd]
features:
  - {id: sso, name: SSO, kind: boolean}
  - {id: dashboards, name: Dashboards, kind: boolean}
  - {id: hours, name: Response, kind: number, higher_is_better: false}
  - {id: channel, name: Channel, kind: enum, values: [email, chat, phone]}
  - {id: seats, name: Seats, kind: metered, aggregation: level}
  - {id: calls, name: Calls, kind: metered, aggregation: sum, reset: month}
"""


def catalog(product: str) -> Draft:
    return parse(read(f"{PRELUDE}\nproducts: [{{id: p, name: P, {product}}}]").document)


def flat(usd: str, id: str = "fee") -> str:
    """A monthly flat charge; the other currencies cost 1."""
    return (
        f"{{id: {id}, name: Fee, model: flat, prices: {{usd: {{month: {usd}}},"
        " jpy: {month: 1}, kwd: {month: 1}}}"
    )


def price(charge: Charge, currency: str = "usd", interval: Interval = Interval.MONTH) -> Price:
    found = charge.price(currency, interval)
    assert found is not None
    return found


def granted(draft: Draft, package_id: str) -> dict[tuple[str, str], EntitlementValue]:
    entitlements = draft.packages[package_id].entitlements
    return {(e.feature_id, e.mode.value): e.value for e in entitlements}


def test_a_plan_takes_the_entitlements_of_its_base_and_then_its_own() -> None:
    draft = catalog(
        "plans: [{id: top, name: T, extends: mid, charges: [], entitlements: {channel: phone}},"
        " {id: low, name: L, charges: [], entitlements: {sso: false, channel: email, hours: 48}},"
        " {id: mid, name: M, extends: low, charges: [], entitlements: {channel: chat, sso: true}}]"
    )
    assert granted(draft, "top") == {
        ("sso", "set"): EntitlementValue(enabled=True),
        ("hours", "set"): EntitlementValue(number=Decimal(48)),
        ("channel", "set"): EntitlementValue(choice="phone"),
    }
    assert [(p.id, p.rank) for p in draft.products["p"].plans] == [
        ("top", 0),
        ("low", 1),
        ("mid", 2),
    ]


def test_an_own_limit_replaces_an_inherited_one_whole() -> None:
    draft = catalog(
        "plans: [{id: low, name: L, charges: [],"
        " entitlements: {calls: {limit: 10, overage: true, warn_at_percent: [80]}}},"
        " {id: mid, name: M, extends: low, charges: [], entitlements: {calls: {limit: 20}}}]"
    )
    assert granted(draft, "mid") == {
        ("calls", "set"): EntitlementValue(limit=20, unlimited=False, overage=False)
    }


def test_a_level_needs_no_reset_and_never_does() -> None:
    draft = catalog("plans: []")
    assert draft.features["seats"].reset is ResetPeriod.NEVER


@pytest.mark.parametrize(
    ("currency", "month", "percent", "year"),
    [
        ("usd", "99.00", "17", "986.04"),
        ("usd", "9.99", "12.5", "104.90"),  # 104.895: half a cent goes away from zero
        ("jpy", "1", "10", "11"),  # 10.8
        ("jpy", "5", "17.5", "50"),  # 49.5
        ("kwd", "1.001", "10", "10.811"),  # 10.8108
        ("usd", "0", "50", "0.00"),
    ],
)
def test_the_year_is_rounded_once_to_the_minor_unit(
    currency: str, month: str, percent: str, year: str
) -> None:
    months = {"usd": "1", "jpy": "1", "kwd": "1"} | {currency: month}
    prices = ", ".join(f"{c}: {{month: {m}}}" for c, m in months.items())
    draft = catalog(
        "plans: [{id: a, name: A, entitlements: {}, charges: [{id: fee, name: Fee, model: flat,"
        f" annual_discount_percent: {percent}, prices: {{{prices}}}}}]}}]"
    )
    (charge,) = draft.packages["a"].charges
    found = price(charge, currency, Interval.YEAR).flat_amount
    assert str(found) == year
    assert draft.products["p"].intervals == (Interval.MONTH, Interval.YEAR)


def test_a_years_unit_rates_keep_twelve_decimals_and_its_flat_fees_cents() -> None:
    (charge,) = _graduated("0.000000123456", "0.333").packages["a"].charges
    first, last = price(charge, "usd", Interval.YEAR).tiers
    # 0.000000123456 × 12 × 0.9 = 0.0000013333248; 0.333 × 10.8 = 3.5964; 7 × 10.8 = 75.6
    assert (first.unit, first.flat, last.unit) == (
        Decimal("0.000001333325"),
        Decimal("3.60"),
        Decimal("75.6"),
    )


def _graduated(unit: str, fee: str) -> Draft:
    tiers = f"[{{up_to: 10, unit: '{unit}', flat: {fee}}}, {{up_to: null, unit: 7}}]"
    prices = ", ".join(f"{c}: {{month: {tiers}}}" for c in ("usd", "jpy", "kwd"))
    return catalog(
        "plans: [{id: a, name: A, entitlements: {seats: {unlimited: true}}, charges: [{id: fee,"
        " name: Fee, model: graduated, quantity: seats, annual_discount_percent: 10,"
        f" prices: {{{prices}}}}}]}}]"
    )


def test_an_amount_stays_as_it_is_written() -> None:
    draft = catalog(f"plans: [{{id: a, name: A, entitlements: {{}}, charges: [{flat('29.10')}]}}]")
    assert str(price(draft.packages["a"].charges[0]).flat_amount) == "29.10"


def test_a_float_of_json_is_the_number_its_author_wrote() -> None:
    document = read(
        f"{PRELUDE}\nproducts: [{{id: p, name: P, plans: [{{id: a, name: A, entitlements: {{}},"
        f" charges: [{flat('1')}]}}]}}]"
    ).document
    prices = document["products"][0]["plans"][0]["charges"][0]["prices"]
    for written, exact in (
        (0.1, "0.1"),
        (29.1, "29.1"),
        (1e-05, "0.00001"),
        (7, "7"),
        (1e3, "1000"),
    ):
        prices["usd"]["month"] = written
        found = price(parse(document).packages["a"].charges[0]).flat_amount
        assert found == Decimal(exact)


# Metered charges and intervals


METERED = (
    "{id: calls, name: Calls, model: package, quantity: calls, package_size: 1000,"
    " included: 100, prices: {usd: {month: 1.50}, jpy: {month: 1}, kwd: {month: 1}}}"
)


def test_a_metered_charge_may_leave_out_the_year_and_then_has_the_months_price() -> None:
    base = (
        "{id: fee, name: Fee, model: flat, annual_discount_percent: 10,"
        " prices: {usd: {month: 1}, jpy: {month: 1}, kwd: {month: 1}}}"
    )
    draft = catalog(
        "plans: [{id: a, name: A, entitlements: {calls: {limit: 100, overage: true}},"
        f" charges: [{base}, {METERED}]}}]"
    )
    charge = draft.packages["a"].charge("calls")
    assert charge.metered
    assert charge.billing.value == "in_arrears"
    assert price(charge, "usd", Interval.YEAR).unit_amount == Decimal("1.50")


def test_a_product_sells_in_the_intervals_of_its_licensed_charges() -> None:
    only_year = (
        "{id: fee, name: F, model: flat, prices: {usd: {year: 9}, jpy: {year: 9}, kwd: {year: 9}}}"
    )
    free_limits = "entitlements: {calls: {limit: 100, overage: true}}"
    for charges, intervals in (
        ("", (Interval.MONTH,)),
        (METERED, (Interval.MONTH,)),
        (only_year, (Interval.YEAR,)),
        (f"{only_year}, {METERED}", (Interval.YEAR,)),
    ):
        draft = catalog(f"plans: [{{id: a, name: A, {free_limits}, charges: [{charges}]}}]")
        assert draft.products["p"].intervals == intervals


def test_a_policy_has_the_defaults_of_the_format() -> None:
    draft = catalog(
        "policy: {upgrade: {timing: period_end}, customer_may_choose: [now]}, plans: []"
    )
    policy = draft.products["p"].policy
    assert (policy.upgrade.timing.value, policy.upgrade.proration.value) == (
        "period_end",
        "invoice_now",
    )
    assert (policy.downgrade.timing.value, policy.over_limit.value) == ("period_end", "allow")
    assert policy.past_due_grace_days == 14
    assert [timing.value for timing in policy.customer_may_choose] == ["now"]


# Bundles


def bundle(parts: str, terms: str, add_ons: str) -> Bundle:
    plan = f"{{id: base, name: B, entitlements: {{seats: {{limit: 5}}}}, charges: [{flat('20')}]}}"
    draft = catalog(
        f"plans: [{plan}], add_ons: [{add_ons}],"
        f" bundles: [{{id: b, name: B, components: [{parts}], {terms}}}]"
    )
    found = draft.packages["b"]
    assert isinstance(found, Bundle)
    return found


def add_on(id: str, entitlements: str, *charges: str) -> str:
    return (
        f"{{id: {id}, name: N, kind: module, entitlements: {{{entitlements}}},"
        f" charges: [{', '.join(charges)}]}}"
    )


def test_a_discounted_bundle_has_the_charges_of_its_parts_scaled() -> None:
    found = bundle(
        "{id: x}, {id: y, quantity: 3}",
        "discount_percent: 15",
        add_on("x", "sso: true", flat("200.00"))
        + ", "
        + add_on("y", "calls: {add: 50, overage: true}", flat("0.01"), METERED),
    )
    assert [
        (c.id, c.component_id, c.units_per_package, c.included, price(c).flat_amount)
        for c in found.charges
    ] == [
        ("x.fee", "x", 1, 0, Decimal("170")),
        ("y.fee", "y", 3, 0, Decimal("0.0085")),  # not rounded to cents: the line is
        ("y.calls", "y", 3, 100, None),
    ]
    assert price(found.charges[2]).unit_amount == Decimal("1.50")  # use keeps its own rate
    assert [(e.feature_id, e.mode, e.value.limit) for e in found.entitlements] == [
        ("sso", GrantMode.SET, None),
        ("calls", GrantMode.ADD, 150),
    ]


def test_scaled_amounts_round_half_away_at_the_twelfth_decimal() -> None:
    found = bundle("{id: x}", "discount_percent: 50", add_on("x", "", flat("0.000000000003")))
    assert price(found.charges[0]).flat_amount == Decimal("0.000000000002")


def test_a_bundle_grants_the_best_of_its_parts_and_both_a_limit_and_what_is_added() -> None:
    found = bundle(
        "{id: base}, {id: x, quantity: 2}, {id: y}",
        "discount_percent: 10",
        add_on("x", "seats: {add: 5}, hours: 24, channel: chat", flat("1"))
        + ", "
        + add_on("y", "seats: {limit: 3}, hours: 4, channel: email, sso: true", flat("1")),
    )
    given = {(e.feature_id, e.mode.value): e.value for e in found.entitlements}
    assert given["hours", "set"].number == Decimal(4)
    assert given["channel", "set"].choice == "chat"
    assert given["seats", "set"].limit == 5
    assert given["seats", "add"].limit == 10
    assert [c.package_id for c in found.components] == ["base", "x", "y"]


def test_a_bundle_of_its_own_price_is_cheaper_by_a_cent_or_refused() -> None:
    parts = ", ".join(add_on(id, "", flat(usd)) for id, usd in (("x", "50"), ("y", "75")))
    own = "charges: [{}]"
    assert bundle("{id: x}, {id: y}", own.format(flat("124.99")), parts)
    with pytest.raises(ValidationFailed, match="as much as its parts or more, per month in usd"):
        bundle("{id: x}, {id: y}", own.format(flat("125")), parts)


@pytest.mark.parametrize(
    ("part", "own", "cheaper"),
    [
        # Per seat against per seat: at every number of seats.
        ("[{up_to: null, unit: 10}]", "[{up_to: null, unit: 9.99}]", True),
        ("[{up_to: null, unit: 10}]", "[{up_to: null, unit: 10.01}]", False),
        # Dearer only from 51 seats on, where the parts get cheaper.
        ("[{up_to: 50, unit: 10}, {up_to: null, unit: 6}]", "[{up_to: null, unit: 8}]", False),
        # Dearer only at a single seat, by a flat fee.
        ("[{up_to: null, unit: 10}]", "[{up_to: null, unit: 5, flat: 5}]", False),
        ("[{up_to: null, unit: 10}]", "[{up_to: null, unit: 5, flat: 4.99}]", True),
        # Dearer only between two bounds.
        (
            "[{up_to: null, unit: 10}]",
            "[{up_to: 10, unit: 9}, {up_to: 20, unit: 11}, {up_to: null, unit: 9}]",
            False,
        ),
    ],
)
def test_a_bundle_that_counts_seats_is_cheaper_at_every_number_of_them(
    part: str, own: str, cheaper: bool
) -> None:
    def seats(tiers: str) -> str:
        prices = ", ".join(f"{c}: {{month: {tiers}}}" for c in ("usd", "jpy", "kwd"))
        return f"{{id: seats, name: Seats, model: volume, quantity: seats, prices: {{{prices}}}}}"

    arguments = ("{id: x}", f"charges: [{seats(own)}]", add_on("x", "", seats(part)))
    if cheaper:
        assert bundle(*arguments)
    else:
        with pytest.raises(ValidationFailed, match="as much as its parts or more"):
            bundle(*arguments)


def test_a_limit_bounds_the_comparison() -> None:
    """Dearer beyond 20 seats, but 20 is the most that may be bought."""
    per_seat = (
        "{{id: seats, name: S, model: per_unit, quantity: seats,"
        " prices: {{usd: {{month: {0}}}, jpy: {{month: {0}}}, kwd: {{month: {0}}}}}}}"
    )
    part = add_on(
        "x", "seats: {limit: 20}", per_seat.format(1), flat("30").replace("month: 1}", "month: 30}")
    )
    own = f"charges: [{per_seat.format(2)}]"
    assert bundle("{id: x}", own, part)
    with pytest.raises(ValidationFailed, match="as much as its parts"):
        bundle("{id: x}", own, part.replace("limit: 20", "limit: 40"))


def test_a_bundle_without_charges_is_contact_sales_and_compared_with_nothing() -> None:
    assert bundle("{id: x}", "charges: []", add_on("x", "")).contact_sales


def test_null_at_an_optional_key_is_the_key_left_out() -> None:
    document = read(f"{PRELUDE}\nproducts: [{{id: p, name: P, plans: []}}]").document
    product = document["products"][0]
    nulls = {"policy": None, "add_ons": None, "bundles": None, "fallback_plan": None}
    assert parse(document | {"products": [product | nulls]}) == parse(document)


def test_a_large_catalog_is_read_checked_and_published_at_once() -> None:
    """5,000 features, 200 packages of 200 entitlements, three currencies."""
    every = {c: {"month": "10", "year": "100"} for c in ("usd", "jpy", "kwd")}
    fee = [{"id": "fee", "name": "Fee", "model": "flat", "prices": every}]
    shared = {"name": "N", "charges": fee}

    def grants(i: int) -> dict[str, bool]:
        return {f"f{n}": True for n in range(20 * i, 20 * i + 200)}

    document = {
        "currencies": ["usd", "jpy", "kwd"],
        "features": [{"id": f"f{n}", "name": "F", "kind": "boolean"} for n in range(5000)],
        "products": [
            {
                **{"id": "p", "name": "P"},
                "plans": [
                    {"id": f"plan-{i}", "entitlements": grants(i), **shared}
                    | ({"extends": f"plan-{i - 1}"} if i else {})
                    for i in range(20)
                ],
                "add_ons": [
                    {"id": f"add-{i}", "kind": "module", "entitlements": grants(i), **shared}
                    for i in range(150)
                ],
                "bundles": [
                    {
                        **{"id": f"bundle-{i}", "name": "B", "discount_percent": 10},
                        "components": [{"id": f"add-{i}"}, {"id": f"add-{i + 1}"}],
                    }
                    for i in range(30)
                ],
            }
        ],
    }
    draft = parse(document)
    at = Catalog.EMPTY.effective_at
    first = publish(draft, Catalog.EMPTY, revision=1, effective_at=at, published_at=at)
    again = publish(draft, first.catalog, revision=2, effective_at=at, published_at=at)
    assert check_against(draft, first.catalog, set(first.catalog.versions)) == []
    assert (len(first.new_versions), again.new_versions) == (200, ())
