"""The catalog's own figure for what a charge costs is the pricing room's, to the last decimal."""

from decimal import Decimal
from fractions import Fraction

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from entitlements.catalog.bundles import cost, least_saving
from entitlements.catalog.model import (
    AddOn,
    AddOnKind,
    BillingTime,
    Charge,
    Price,
    PricingModel,
    Tier,
)
from entitlements.kernel.money import minor_from_major
from entitlements.kernel.period import Interval
from entitlements.pricing.charges import amount

rates = st.decimals(min_value=0, max_value=100, places=6)
counts = st.integers(0, 40)


@st.composite
def priced(
    draw: st.DrawFn, models: tuple[PricingModel, ...] = tuple(PricingModel), currency: str = ""
) -> tuple[Charge, Price]:
    model = draw(st.sampled_from(models))
    bounds = sorted(draw(st.sets(st.integers(1, 40), max_size=3)))
    flat = model is PricingModel.FLAT
    tiers = tuple(Tier(bound, draw(rates), draw(rates)) for bound in [*bounds, None])
    tiered = model in (PricingModel.VOLUME, PricingModel.GRADUATED)
    price = Price(
        currency=currency or draw(st.sampled_from(["usd", "jpy", "kwd"])),
        interval=Interval.MONTH,
        flat_amount=draw(rates) if flat else None,
        unit_amount=None if flat or tiered else draw(rates),
        tiers=tiers if tiered else (),
    )
    charge = Charge(
        id="c",
        name="C",
        model=model,
        billing=BillingTime.IN_ADVANCE,
        prices=(price,),
        included=0 if flat else draw(counts),
        minimum=None if flat else draw(st.none() | counts),
        package_size=draw(st.integers(1, 10)) if model is PricingModel.PACKAGE else None,
    )
    return charge, price


@given(priced(), st.integers(0, 60))
def test_the_catalog_and_the_pricing_room_agree_on_what_a_charge_costs(
    charge_and_price: tuple[Charge, Price], quantity: int
) -> None:
    charge, price = charge_and_price
    here: Fraction | Decimal = cost(charge, price, quantity)
    assert minor_from_major(here, price.currency) == amount(charge, price, quantity)


COUNTING = (PricingModel.PER_UNIT, PricingModel.VOLUME, PricingModel.GRADUATED)


@st.composite
def on_seats(draw: st.DrawFn, models: tuple[PricingModel, ...] = COUNTING) -> Charge:
    charge, price = draw(priced(models, "usd"))
    return msgspec.structs.replace(charge, quantity_feature="seats", prices=(price,))


@settings(max_examples=60)
@given(
    st.lists(on_seats(), min_size=1, max_size=2),
    on_seats((*COUNTING, PricingModel.PACKAGE)),
    st.none() | st.integers(1, 120),
)
def test_the_least_saving_of_a_bundle_is_that_of_its_worst_number_of_seats(
    charges: list[Charge], own: Charge, limit: int | None
) -> None:
    part = AddOn(id="a", product_id="p", name="A", kind=AddOnKind.MODULE, charges=tuple(charges))
    limits = {} if limit is None else {"seats": limit}
    found = least_saving([(part, 1)], [own], "usd", Interval.MONTH, limits)
    seats = range(1, (limit or 200) + 1)
    savings = [
        sum((cost(c, c.prices[0], n) for c in charges), Fraction(0)) - cost(own, own.prices[0], n)
        for n in seats
    ]
    if found is None:
        assert savings[-1] < savings[-101]
    else:
        assert found == min(savings)
