"""Words and figures of a line: below list, of use, and where the provider has another amount."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec

from entitlements.finance.explanation import Configuration, Explanation, explain_line
from entitlements.kernel.period import Interval, Period
from entitlements.subscriptions.invoice_line import Line, LineKind
from entitlements.subscriptions.lines import Slot
from tests.unit.pricing.catalogs import catalog, flat, overage, plan, volume_seats

MARCH = Period(datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC))
CATALOG = catalog(plan("pro", flat("150"), volume_seats(), overage("1.50", 1000, included=500)))
HELD = Configuration(
    currency="usd",
    interval=Interval.MONTH,
    period=MARCH,
    slots=(
        Slot("pro", 1, "fee", 1, 1, price_factor=Decimal("0.8")),
        Slot("pro", 1, "seats", 12, 12),
        Slot("pro", 1, "overage", 0, 0, metered=True),
    ),
)


def line(charge_id: str, amount_minor: int, **more: Any) -> Line:
    wanted = {"kind": LineKind.CHARGE, "description": "", "period": MARCH} | more
    return Line(
        package_id="pro", version=1, charge_id=charge_id, amount_minor=amount_minor, **wanted
    )


def explained(line: Line, *held: Configuration) -> Explanation:
    return explain_line(CATALOG, line, "usd", held)


def test_a_price_below_list_says_by_which_factor() -> None:
    found = explained(line("fee", 12000), HELD)
    assert found.computed_minor == 12000
    assert found.steps[1:3] == (
        "Price: 1 × $150.00 = $150.00 by the month.",
        "Grandfathered: × 0.8 of that = $120.00, as far as renewals may raise it.",
    )


def test_a_tier_is_named_and_a_part_of_a_period_counted_in_seconds() -> None:
    half = Period(datetime(2026, 3, 16, 12, tzinfo=UTC), MARCH.end)
    found = explained(line("seats", 4800, period=half), HELD)
    assert found.computed_minor == 4800
    assert "Price: 11–50: 12 × $8.00 = $96.00 by the month." in found.steps
    assert "Share: $96.00 × 1,339,200 ÷ 2,678,400 = $48.00." in found.steps


def test_use_is_explained_by_the_units_beyond_what_is_included() -> None:
    found = explained(line("overage", 450, quantity=2100, metered=True), HELD)
    assert found.computed_minor == 450
    assert found.steps[2] == "Price: 3 blocks of 1,000 × $1.50 = $4.50."


def test_what_the_provider_charged_otherwise_is_told_and_by_how_much() -> None:
    found = explained(line("seats", 9601), HELD)
    assert found.computed_minor == 9600
    told = "Charged: $96.01, as the payment provider has it: $0.01 more than worked out here."
    assert told in found.steps


def test_a_credit_is_held_to_what_was_charged() -> None:
    gift = msgspec.structs.replace(HELD, charged={"pro/seats": 0})
    found = explained(line("seats", 0, kind=LineKind.CREDIT), gift)
    assert found.computed_minor == 0
    assert any(step.startswith("A credit is never more") for step in found.steps)


def test_what_was_not_recorded_cannot_be_worked_out() -> None:
    found = explained(line("seats", 9600))
    assert found.computed_minor is None
    assert "not recorded" in found.steps[-1]
