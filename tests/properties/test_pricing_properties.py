"""What must be true of any price, whatever the catalog."""

from decimal import Decimal
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from entitlements.catalog.model import BillingTime, Charge, Price, PricingModel, Tier
from entitlements.kernel.money import round_half_away
from entitlements.kernel.period import Interval
from entitlements.pricing.charges import amount, amount_minor, billable_quantity
from entitlements.pricing.discounts import percent_of
from entitlements.pricing.proration import allocate, capped_credit, prorate
from tests.unit.pricing.catalogs import add_on, bundle, catalog, flat

quantities = st.integers(0, 500)
rates = st.decimals(0, 1000, places=4, allow_nan=False, allow_infinity=False)
fractions = st.fractions(0, 1)


def charge_of(model: PricingModel, *, included: int = 0, minimum: int | None = None) -> Charge:
    return Charge(
        id="c",
        name="C",
        model=model,
        billing=BillingTime.IN_ADVANCE,
        prices=(),
        included=included,
        minimum=minimum,
        package_size=10,
    )


def price_of(tiers: tuple[Tier, ...] = (), unit: Decimal | None = None) -> Price:
    return Price(currency="usd", interval=Interval.MONTH, tiers=tiers, unit_amount=unit)


@st.composite
def tiers(draw: st.DrawFn, *, falling: bool = False, flats: bool = True) -> tuple[Tier, ...]:
    bounds = sorted(draw(st.sets(st.integers(1, 400), max_size=4)))
    count = len(bounds) + 1
    units = draw(st.lists(rates, min_size=count, max_size=count))
    units = sorted(units, reverse=True) if falling else units
    fees = draw(st.lists(rates, min_size=count, max_size=count)) if flats else [Decimal(0)] * count
    return tuple(map(Tier, [*bounds, None], units, fees))


@given(tiers(), quantities, st.integers(0, 50))
def test_a_graduated_total_never_falls_with_quantity(
    steps: tuple[Tier, ...], quantity: int, more: int
) -> None:
    graduated = charge_of(PricingModel.GRADUATED)
    less = amount(graduated, price_of(steps), quantity)
    assert less <= amount(graduated, price_of(steps), quantity + more)


@given(rates, rates, quantities)
def test_volume_is_graduated_where_there_is_one_tier(
    unit: Decimal, fee: Decimal, quantity: int
) -> None:
    price = price_of((Tier(None, unit, fee),))
    volume = amount(charge_of(PricingModel.VOLUME), price, quantity)
    assert volume == amount(charge_of(PricingModel.GRADUATED), price, quantity)


@given(tiers(falling=True, flats=False), quantities, quantities)
def test_with_falling_rates_and_no_flat_fees_two_lines_never_cost_less_than_one(
    steps: tuple[Tier, ...], first: int, second: int
) -> None:
    graduated, price = charge_of(PricingModel.GRADUATED), price_of(steps)
    apart = amount(graduated, price, first) + amount(graduated, price, second)
    assert amount(graduated, price, first + second) <= apart


@given(tiers(), quantities)
def test_graduated_is_the_sum_of_every_unit_at_its_own_rate(
    steps: tuple[Tier, ...], quantity: int
) -> None:
    def tier_of(unit: int) -> int:
        return next(i for i, t in enumerate(steps) if t.up_to is None or unit <= t.up_to)

    units = [tier_of(n) for n in range(1, quantity + 1)]
    entered = set(units) | {0}
    owed = [*(steps[i].unit for i in units), *(steps[i].flat for i in entered)]
    expected = sum(map(Fraction, owed), Fraction(0))
    assert amount(charge_of(PricingModel.GRADUATED), price_of(steps), quantity) == 100 * expected


@given(quantities, st.integers(0, 50), st.none() | st.integers(0, 50))
def test_what_is_paid_for_is_what_exceeds_the_included_of_the_minimum_or_more(
    quantity: int, included: int, minimum: int | None
) -> None:
    charge = charge_of(PricingModel.PER_UNIT, included=included, minimum=minimum)
    billable = billable_quantity(charge, quantity)
    counted = quantity if minimum is None or quantity > minimum else minimum
    assert billable == (counted - included if counted > included else 0)
    assert amount(charge, price_of(unit=Decimal(2)), quantity) == 200 * billable


@given(quantities, rates)
def test_started_blocks_are_whole_blocks(quantity: int, rate: Decimal) -> None:
    blocks = amount(charge_of(PricingModel.PACKAGE), price_of(unit=rate), quantity)
    assert blocks == len(range(0, quantity, 10)) * 100 * Fraction(rate)


@given(tiers(), quantities)
def test_a_line_is_within_half_a_minor_unit_of_the_exact_amount(
    steps: tuple[Tier, ...], quantity: int
) -> None:
    charge, price = charge_of(PricingModel.VOLUME), price_of(steps)
    exact = amount(charge, price, quantity)
    assert abs(amount_minor(charge, price, quantity) - exact) <= Fraction(1, 2)


@given(st.integers(0, 10**9), fractions)
def test_changing_and_reversing_at_one_instant_nets_to_zero(price: int, left: Fraction) -> None:
    charged = prorate(price, left)
    assert charged - capped_credit(prorate(price, left), charged) == 0


@given(st.integers(0, 10**6), fractions, st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_credit_never_exceeds_what_was_charged(
    price: int, left: Fraction, charged: int, credited: int
) -> None:
    credit = capped_credit(prorate(price, left), charged, credited)
    assert 0 <= credit <= max(charged - credited, 0)


@given(st.lists(st.integers(0, 300), min_size=1, max_size=6), st.integers(-(10**6), 10**6))
def test_the_parts_of_a_bundle_sum_to_its_line_and_follow_their_prices(
    prices: list[int], line: int
) -> None:
    parts = [add_on(f"part-{i}", flat(str(price))) for i, price in enumerate(prices)]
    pack = bundle("pack", flat("1"), of={part.id: 1 for part in parts})
    sold = catalog(*parts, pack)
    shares = allocate(sold, pack, pack.charges[0], line, {}, "usd", Interval.MONTH)
    assert sum(share.amount_minor for share in shares) == line
    whole = sum(prices) or 1
    for price, share in zip(prices, shares, strict=True):
        if sum(prices):
            assert abs(share.amount_minor - Fraction(line * price, whole)) < 1


@given(st.integers(-(10**9), 10**9), st.integers(1, 10**9))
def test_a_percentage_is_rounded_to_two_decimals(part: int, whole: int) -> None:
    assert percent_of(part, whole) * 100 == round_half_away(Fraction(part * 10_000, whole))
