"""The product's own figures, asked of the API as a pricing page asks them."""

from typing import Any

from entitlements.services import Services
from tests.api import Api
from tests.conftest import publish

ESTIMATE = """query ($input: EstimateInput!) { estimate(input: $input) {
  lines { package { id } quantity explanation amount { amountMinor } }
  total { amountMinor formatted } monthlyEquivalent { amountMinor }
  annualSaving { percent amount { amountMinor } }
  cheaper { total { amountMinor } saving { amountMinor } planId bundles }
} }"""


async def estimate(api: Api, **input: Any) -> Any:
    asked = {"currency": "usd", "interval": "MONTH", **input}
    return (await api.ask(ESTIMATE, input=asked))["estimate"]


async def test_users_cost_the_rate_of_the_tier_that_their_number_falls_in(
    api: Api, example: Any
) -> None:
    expected = {10: ("10000", "$10.00"), 11: ("8800", "$8.00")}
    expected |= {50: ("40000", "$8.00"), 51: ("30600", "$6.00")}
    for users, (amount_minor, rate) in expected.items():
        add_ons = [{"id": "extra-seats", "quantity": users}]
        answer = await estimate(api, planId="starter", addOns=add_ons)
        line = next(x for x in answer["lines"] if x["package"]["id"] == "extra-seats")
        assert line["amount"]["amountMinor"] == amount_minor
        assert f"{users} × {rate}" in line["explanation"]


async def test_a_year_for_2000_saves_a_sixth_of_twelve_months_at_200(
    api: Api, example: Any
) -> None:
    modules = [{"id": "advanced-analytics", "quantity": 1}]
    month = await estimate(api, addOns=modules)
    assert month["total"] == {"amountMinor": "20000", "formatted": "$200.00"}
    year = await estimate(api, addOns=modules, interval="YEAR")
    assert year["total"] == {"amountMinor": "200000", "formatted": "$2,000.00"}
    assert year["monthlyEquivalent"]["amountMinor"] == "16667"
    assert year["annualSaving"] == {"percent": "16.67", "amount": {"amountMinor": "40000"}}


async def test_three_parts_for_175_are_offered_as_the_bundle_for_150(
    api: Api, example: Any
) -> None:
    parts = ("email-campaigns", "lead-scoring", "landing-pages")
    answer = await estimate(
        api, planId="starter", addOns=[{"id": part, "quantity": 1} for part in parts]
    )
    assert answer["total"]["amountMinor"] == "20400"  # starter for 29, and 50 + 75 + 50
    cheaper = answer["cheaper"][0]
    assert (cheaper["total"]["amountMinor"], cheaper["saving"]["amountMinor"]) == ("17900", "2500")
    assert (cheaper["planId"], cheaper["bundles"]) == ("starter", ["marketing-automation"])
    saving = """{ bundle(id: "marketing-automation") { saving(currency: "usd", interval: MONTH) {
      percent amount { amountMinor } } } }"""
    assert (await api.ask(saving))["bundle"]["saving"] == {
        "percent": "14.29",
        "amount": {"amountMinor": "2500"},
    }


async def test_121_units_in_blocks_of_10_at_100_are_13_started_blocks(
    api: Api, services: Services
) -> None:
    blocks = {"model": "package", "quantity": "calls", "package_size": 10}
    prices = {"usd": {"month": "100.00"}}
    await publish(
        services,
        {
            "currencies": ["usd"],
            "features": [
                {"id": "calls", "name": "Calls", "kind": "metered", "aggregation": "sum"}
                | {"reset": "month", "unit": "call"}
            ],
            "products": [
                {
                    "id": "app",
                    "name": "App",
                    "plans": [
                        {
                            "id": "metered",
                            "name": "Metered",
                            "entitlements": {"calls": {"unlimited": True}},
                            "charges": [{"id": "use", "name": "Use", "prices": prices} | blocks],
                        }
                    ],
                }
            ],
        },
    )
    quantities = [{"featureId": "calls", "quantity": "121"}]
    answer = await estimate(api, planId="metered", quantities=quantities)
    assert answer["total"] == {"amountMinor": "130000", "formatted": "$1,300.00"}
    assert "13" in answer["lines"][0]["explanation"]
