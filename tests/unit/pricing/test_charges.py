"""What things cost, by the figures that the product was built for."""

from decimal import Decimal
from fractions import Fraction

import pytest

from entitlements.catalog.model import Charge, Price, PricingModel, Tier
from entitlements.kernel.period import Interval
from entitlements.pricing.charges import amount_minor, explain, licensed
from entitlements.pricing.discounts import annual_saving_percent, bundle_saving
from entitlements.pricing.mrr import mrr_minor, recurring_minor
from entitlements.pricing.proration import allocate
from entitlements.pricing.quantities import charged_quantity, first_bought
from tests.unit.pricing.catalogs import (
    ANALYTICS,
    CALLS,
    MARKETING,
    PROFESSIONAL,
    WORKSPACE,
    bundle,
    catalog,
    flat,
    overage,
    tiered,
    volume_seats,
)


def month(charge: Charge) -> Price:
    price = charge.price("usd", Interval.MONTH)
    assert price is not None
    return price


def test_a_volume_amount_is_explained_by_its_one_tier() -> None:
    seats = volume_seats()
    assert explain(seats, month(seats), 60) == "51+: 60 × $6.00"
    assert explain(seats, month(seats), 0) == "0 × $10.00"


def test_a_graduated_amount_is_explained_slice_by_slice() -> None:
    seats = tiered(PricingModel.GRADUATED, (10, "10"), (50, "8"), (None, "6"))
    words = "1–10: 10 × $10.00 + 11–50: 40 × $8.00 + 51–60: 10 × $6.00"
    assert explain(seats, month(seats), 60) == words


def test_the_minimum_and_the_included_units_are_explained() -> None:
    seats = volume_seats(minimum=5, included=2)
    assert explain(seats, month(seats), 3) == "at least 5: 5 − 2 included = 3: 1–10: 3 × $10.00"


def test_a_flat_fee_in_a_tier_is_explained() -> None:
    price = Price(
        currency="usd",
        interval=Interval.MONTH,
        tiers=(Tier(5, Decimal(0), Decimal(100)), Tier(None, Decimal("0.5"), Decimal(0))),
    )
    charge = tiered(PricingModel.GRADUATED, (None, "1"))
    assert explain(charge, price, 0) == "0 × $0.00 + $100.00 flat"
    assert explain(charge, price, 7) == "1–5: 5 × $0.00 + $100.00 flat + 6–7: 2 × $0.50"


def test_a_metered_charge_leaves_out_what_each_package_held_includes() -> None:
    calls = overage("1.50", 1000, included=100_000)
    assert amount_minor(calls, month(calls), 250_001) == 151 * 150
    assert amount_minor(calls, month(calls), 250_001, packages=2) == 51 * 150


def test_a_bundle_that_holds_a_part_several_times_counts_all_of_them() -> None:
    twice = flat("15", units_per_package=2)
    assert charged_quantity(twice, 3, {}) == 6
    assert amount_minor(twice, month(twice), 6) == 9000


def test_a_level_not_bought_yet_counts_the_minimum_or_what_is_in_use() -> None:
    assert charged_quantity(volume_seats(minimum=3), 1, {}) == 3
    assert charged_quantity(volume_seats(), 1, {}) == 1
    assert first_bought([volume_seats(minimum=3)], in_use=7) == 7


def test_a_package_costs_the_sum_of_its_licensed_charges() -> None:
    charges = licensed(PROFESSIONAL, 1, {"seats": 51}, "usd", Interval.MONTH)
    assert [(c.charge.id, c.quantity, c.amount_minor) for c in charges] == [
        ("fee", 1, 9900),
        ("seats", 51, 30600),
    ]
    assert recurring_minor(charges) == 40500


def test_a_year_is_worth_a_twelfth_of_it_each_month_rounded_once_per_item() -> None:
    yearly = licensed(ANALYTICS, 1, {}, "usd", Interval.YEAR)
    assert recurring_minor(yearly) == 200_000
    assert mrr_minor(sum(charge.exact for charge in yearly), Interval.YEAR) == 16_667
    third = [c for _ in range(3) for c in licensed(CALLS, 1, {}, "usd", Interval.YEAR)]
    assert mrr_minor(sum(charge.exact for charge in third), Interval.YEAR) == 3750


def test_paying_by_the_year_saves_a_sixth() -> None:
    assert annual_saving_percent(ANALYTICS.charges[0], "usd") == Decimal("16.67")
    assert annual_saving_percent(PROFESSIONAL.charges[0], "usd") == Decimal("17")
    assert annual_saving_percent(volume_seats(), "usd") == Decimal("16.67")
    assert annual_saving_percent(overage("1", 1000), "usd") is None


def test_the_marketing_bundle_costs_150_in_place_of_175() -> None:
    saving = bundle_saving(WORKSPACE, MARKETING, "usd", Interval.MONTH)
    assert (saving.amount.amount_minor, saving.percent) == (2500, Decimal("14.29"))


def test_a_bundle_line_is_split_over_its_modules_by_their_own_prices() -> None:
    charge = MARKETING.charges[0]
    shares = allocate(WORKSPACE, MARKETING, charge, 15000, {}, "usd", Interval.MONTH)
    assert [(a.package.id, a.amount_minor) for a in shares] == [
        ("email-campaigns", 4286),
        ("lead-scoring", 6428),
        ("landing-pages", 4286),
    ]


def test_a_line_for_one_component_is_all_its_own() -> None:
    pack = bundle("pack", flat("12", component_id="extra-calls"), of={"extra-calls": 1})
    sold = catalog(CALLS, pack)
    [share] = allocate(sold, pack, pack.charges[0], -1200, {}, "usd", Interval.MONTH)
    assert (share.package.id, share.amount_minor) == ("extra-calls", -1200)


def test_a_package_is_not_priced_where_it_is_not_sold() -> None:
    with pytest.raises(ValueError, match="not sold in eur"):
        licensed(ANALYTICS, 1, {}, "eur", Interval.MONTH)


def test_exact_amounts_are_not_rounded_before_their_share_is_taken() -> None:
    price = Price(currency="usd", interval=Interval.MONTH, unit_amount=Decimal("0.333333333333"))
    charge = tiered(PricingModel.PER_UNIT, (None, "1"))
    assert amount_minor(charge, price, 3) == 100
    assert amount_minor(charge, price, 1) == 33
    charges = licensed(CALLS, 1, {}, "usd", Interval.MONTH)
    assert charges[0].exact == Fraction(1500)
