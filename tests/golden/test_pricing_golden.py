"""Every figure of `pricing.json`, by the functions that price invoices."""

import json
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from entitlements.catalog.model import BillingTime, Charge, Price, PricingModel, Tier
from entitlements.kernel.period import Interval, Period, parse_instant
from entitlements.pricing.charges import amount_minor
from entitlements.pricing.proration import capped_credit, prorate

GOLDEN = json.loads((Path(__file__).parent / "pricing.json").read_text())


def cases(group: str) -> list[Any]:
    return [pytest.param(case, id=case["id"]) for case in GOLDEN[group]]


def charge_of(written: dict[str, Any], currency: str) -> tuple[Charge, Price]:
    price = Price(
        currency=currency,
        interval=Interval.MONTH,
        flat_amount=Decimal(written["flat"]) if "flat" in written else None,
        unit_amount=Decimal(written["unit"]) if "unit" in written else None,
        tiers=tuple(
            Tier(t["up_to"], Decimal(t["unit"]), Decimal(t["flat"]))
            for t in written.get("tiers", [])
        ),
    )
    charge = Charge(
        id="c",
        name="C",
        model=PricingModel(written["model"]),
        billing=BillingTime.IN_ADVANCE,
        prices=(price,),
        included=written.get("included", 0),
        minimum=written.get("minimum"),
        package_size=written.get("package_size"),
    )
    return charge, price


@pytest.mark.parametrize("case", cases("charges"))
def test_a_charge_costs_what_its_source_says(case: dict[str, Any]) -> None:
    total = 0
    for written in case["charges"]:
        charge, price = charge_of(written, case.get("currency", "usd"))
        # A flat fee beside seats is due once, whatever their number.
        once = charge.model is PricingModel.FLAT and len(case["charges"]) > 1
        total += amount_minor(charge, price, 1 if once else case["quantity"])
    assert total == case["expected_minor"]


@pytest.mark.parametrize("case", cases("prorations"))
def test_a_share_of_a_period_costs_what_its_source_says(case: dict[str, Any]) -> None:
    period = Period(*map(parse_instant, case["period"]))
    start, end = map(parse_instant, case["used"])
    fraction = period.fraction_left(start) - period.fraction_left(end)
    assert prorate(Fraction(case["amount_minor"]), fraction) == case["expected_minor"]


@pytest.mark.parametrize("case", cases("credit_caps"))
def test_a_credit_never_exceeds_what_is_left_of_the_charge(case: dict[str, Any]) -> None:
    credit = capped_credit(case["potential_minor"], case["charged_minor"], case["credited_minor"])
    assert credit == case["expected_minor"]
