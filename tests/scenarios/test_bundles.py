"""A bundle bought out of the parts that are held, and taken apart again."""

from typing import Any

import pytest

from tests.api import Api
from tests.conftest import on_sqlite

LINES = """query ($id: ID) { customer(id: $id) { invoices { nodes { lines { package { id }
  amount { amountMinor } allocations { package { id } amount { amountMinor } } } } }
  subscriptions { items { package { id } quantity } } } }"""


async def _as_previewed(api: Api, key: str, **change: Any) -> Any:
    """Commit, and see that every line and the total are what the preview said."""
    quote = await api.preview(customerId="acme", **change)
    assert quote["__typename"] == "Quote", quote
    done = await api.commit(quote["token"], key)
    assert done["__typename"] == "ChangeCommitted", done
    said = [(x["kind"], x["chargeId"], x["amount"]) for x in quote["lines"]]
    assert [(x["kind"], x["chargeId"], x["amount"]) for x in done["change"]["lines"]] == said
    return quote


def _held(customer: Any) -> dict[str, int]:
    [subscription] = customer["subscriptions"]
    return {item["package"]["id"]: item["quantity"] for item in subscription["items"]}


@pytest.mark.usefixtures("example")
async def test_parts_become_a_bundle_at_a_credit_and_a_bundle_becomes_parts_again(
    api: Api,
) -> None:
    await api.create_customer("acme")
    await api.change("start", customerId="acme", planId="starter", addOns=[
        {"id": "advanced-analytics"}, {"id": "extra-calls", "quantity": 2}])  # fmt: skip
    await api.advance("2026-03-16T12:00:00Z")

    quote = await _as_previewed(api, "bundle", bundles=[{"id": "growth-pack"}])
    assert quote["direction"] == "SIDEGRADE"
    assert int(quote["recurringAfter"]["amountMinor"]) < int(
        quote["recurringBefore"]["amountMinor"]
    )
    customer = (await api.ask(LINES, id="acme"))["customer"]
    assert _held(customer) == {"starter": 1, "growth-pack": 1}
    allocated = [line for line in customer["invoices"]["nodes"][0]["lines"] if line["allocations"]]
    assert {x["allocations"][0]["package"]["id"] for x in allocated} == {
        "advanced-analytics",
        "extra-calls",
    }
    for line in allocated:
        parts = sum(int(part["amount"]["amountMinor"]) for part in line["allocations"])
        assert parts == int(line["amount"]["amountMinor"])
    for feature in ("dashboards", "api-calls"):
        sources = (await api.access("acme", feature))["sources"]
        assert "BUNDLE" in {source["kind"] for source in sources}

    again = await api.preview(customerId="acme", addOns=[{"id": "extra-calls", "quantity": 2}])
    assert again["issues"][0]["code"] == "NOTHING_TO_CHANGE"

    await _as_previewed(
        api, "apart", addOns=[{"id": "extra-calls", "quantity": 1}], timing="NOW",
        reason="for a test")  # fmt: skip
    customer = (await api.ask(LINES, id="acme"))["customer"]
    assert _held(customer) == {"starter": 1, "advanced-analytics": 1, "extra-calls": 1}


@pytest.mark.usefixtures("example")
async def test_one_click_on_an_add_on_adds_to_what_a_bundle_gives(api: Api) -> None:
    await api.create_customer("acme")
    await api.change("start", customerId="acme", planId="starter", bundles=[{"id": "growth-pack"}])
    before = (await api.access("acme", "api-calls"))["value"]["limit"]
    bought = await api.purchase(customerId="acme", addOnId="extra-calls", idempotencyKey="more")
    assert bought["__typename"] == "ChangeCommitted", bought
    customer = await api.customer("acme")
    assert len(customer["subscriptions"][0]["items"]) == 3
    after = (await api.access("acme", "api-calls"))["value"]["limit"]
    assert int(after) - int(before) == 100_000


@on_sqlite
@pytest.mark.usefixtures("example")
async def test_parts_of_a_bundle_that_a_plan_leaves_no_room_for_are_named_in_the_quote(
    api: Api,
) -> None:
    await api.create_customer("acme")
    marketing = [{"id": "marketing-automation"}]
    await api.change("start", customerId="acme", planId="starter", bundles=marketing)
    quote = await api.preview(customerId="acme", planId="enterprise")
    removed = [add_on["id"] for add_on in quote["removedAddOns"]]
    assert removed == ["email-campaigns", "lead-scoring", "landing-pages"]
