"""How a BILLING_PERIOD feature resets follows from what is held."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from entitlements.access.usage import CALENDAR_MONTHS, Cycle, cycle_of, products_of_features
from entitlements.catalog.document import parse
from entitlements.catalog.model import Catalog
from entitlements.catalog.versions import publish
from entitlements.kernel.period import Interval, Period
from entitlements.subscriptions.state import (
    CustomerState,
    Item,
    Subscription,
    SubscriptionStatus,
)

ANCHOR = datetime(2026, 1, 31, tzinfo=UTC)
OTHER = datetime(2025, 6, 10, tzinfo=UTC)


def _catalog() -> Catalog:
    fee = {"id": "fee", "name": "Fee", "model": "flat",
           "prices": {"usd": {"month": "1.00", "year": "10.00"}}}  # fmt: skip

    def metered(year: str | None) -> dict[str, Any]:
        prices = {"month": "0.01"} | ({"year": year} if year else {})
        return {"id": "calls", "name": "Calls", "model": "per_unit", "quantity": "calls",
                "billing": "in_arrears", "prices": {"usd": prices}}  # fmt: skip

    def plan(id: str, *charges: Any) -> dict[str, Any]:
        return {"id": id, "name": id, "entitlements": {"calls": {"unlimited": True}},
                "charges": [fee, *charges]}  # fmt: skip

    document = {
        "currencies": ["usd"],
        "features": [{"id": "calls", "name": "Calls", "kind": "metered", "unit": "call",
                      "aggregation": "sum", "reset": "billing_period"}],
        "products": [
            {"id": "app", "name": "App",
             "plans": [plan("free-calls"), plan("by-month", metered(None)),
                       plan("by-year", metered("0.01"))]},
        ],
    }  # fmt: skip
    draft = parse(document)
    at = datetime(2020, 1, 1, tzinfo=UTC)
    return publish(draft, Catalog.EMPTY, revision=1, effective_at=at, published_at=at).catalog


CATALOG = _catalog()


def _held(plan: str, interval: Interval, anchor: datetime = ANCHOR, **more: Any) -> Subscription:
    item = Item(
        id="itm", package_id=plan, version=1, entitlements_version=1, quantity=1, started_at=anchor
    )
    return Subscription(
        id="sub",
        product_id="app",
        status=more.pop("status", SubscriptionStatus.ACTIVE),
        interval=interval,
        currency="usd",
        period=Period.containing(anchor, interval, anchor),
        anchor=anchor,
        started_at=anchor,
        items=(item,),
        **more,
    )


@pytest.mark.parametrize(
    ("plan", "interval", "resets"),
    [
        ("free-calls", Interval.MONTH, Interval.MONTH),
        ("free-calls", Interval.YEAR, Interval.MONTH),  # nothing meters it: monthly
        ("by-month", Interval.YEAR, Interval.MONTH),  # billed monthly in a yearly subscription
        ("by-year", Interval.YEAR, Interval.YEAR),
        ("by-year", Interval.MONTH, Interval.MONTH),
    ],
)
def test_it_resets_with_the_charge_that_meters_it_else_monthly_from_the_anchor(
    plan: str, interval: Interval, resets: Interval
) -> None:
    assert products_of_features(CATALOG) == {"calls": "app"}
    state = CustomerState(
        id="ant", currency="usd", revision=1, subscriptions=(_held(plan, interval),)
    )
    assert cycle_of(CATALOG, state, "calls", "app") == Cycle(ANCHOR, resets)


def test_after_the_end_it_goes_on_from_the_last_anchor_and_without_any_by_the_calendar() -> None:
    nobody = CustomerState(id="ant", currency="usd", revision=1)
    assert cycle_of(CATALOG, nobody, "calls", "app") == CALENDAR_MONTHS
    ended = [
        _held("by-year", Interval.YEAR, anchor, status=SubscriptionStatus.CANCELED)
        for anchor in (ANCHOR, OTHER)
    ]
    state = msgspec.structs.replace(nobody, subscriptions=tuple(ended))
    assert cycle_of(CATALOG, state, "calls", "app") == Cycle(ANCHOR, Interval.MONTH)
