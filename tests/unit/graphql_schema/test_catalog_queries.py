"""What a pricing page, a shop and staff read of the catalog."""

from datetime import UTC, datetime
from typing import Any

import pytest

from entitlements.kernel.ids import new_id
from entitlements.subscriptions.tables import CustomerRow, SubscriptionItemRow, SubscriptionRow
from tests.unit.graphql_schema.asking import ADMIN, ANN, BOB, SHOP, Api, customer

OLD_PROFESSIONAL = '{ plan(id: "professional", version: 1) { versionId latestVersion } }'


async def test_before_anything_is_published_the_catalog_is_empty(api: Api) -> None:
    data = await api.ask("{ catalog { revision currencies products { id } features { id } } }")
    assert data["catalog"] == {"revision": 0, "currencies": [], "products": [], "features": []}


async def test_a_pricing_page_is_one_query(shop: Api) -> None:
    data = await shop.ask(
        """{ catalog { revision currencies products { id plans {
            id rank selfServe extends { id } trial { days atEnd guide { week title } }
            addOns { id }
            charges { model billing includedQuantity minimumQuantity packageSize
              quantityFeature { id aggregation reset }
              prices { currency interval flatAmount unitAmount annualSavingPercent
                       tiers { upTo unitAmount flatAmount } } }
        } } } }"""
    )
    assert (data["catalog"]["revision"], data["catalog"]["currencies"]) == (2, ["usd", "eur"])
    workspace, help_desk = data["catalog"]["products"]
    starter, professional, enterprise = workspace["plans"]
    assert [p["rank"] for p in workspace["plans"]] == [0, 1, 2]
    assert starter["charges"][0]["prices"][:2] == [
        {
            "currency": "usd",
            "interval": interval,
            "flatAmount": amount,
            "unitAmount": None,
            "annualSavingPercent": saving,
            "tiers": None,
        }
        for interval, amount, saving in (("MONTH", "29.00", None), ("YEAR", "290.00", "16.67"))
    ]
    assert professional["extends"] == {"id": "starter"}
    assert "api-access" in [a["id"] for a in professional["addOns"]]
    assert "api-access" not in [a["id"] for a in starter["addOns"]]
    assert (enterprise["selfServe"], enterprise["charges"]) == (False, [])
    agents, conversations = help_desk["plans"][0]["charges"]
    assert agents["quantityFeature"] == {"id": "agents", "aggregation": "LEVEL", "reset": "NEVER"}
    assert (agents["model"], agents["minimumQuantity"]) == ("VOLUME", "2")
    assert agents["prices"][0]["tiers"][-1] == {
        "upTo": None,
        "unitAmount": "9.00",
        "flatAmount": "0",
    }
    assert (conversations["includedQuantity"], conversations["packageSize"]) == ("1000", "100")
    assert [p["interval"] for p in conversations["prices"]] == ["MONTH", "MONTH"]


@pytest.mark.parametrize(
    ("feature_id", "mode", "value"),
    [
        ("dashboards", "SET", {"enabled": True}),
        ("integrations", "SET", {"number": "1000"}),
        ("support-channel", "SET", {"choice": "phone"}),
        ("seats", "SET", {"unlimited": True, "warnAtPercent": []}),
    ],
)
async def test_a_grant_sets_the_fields_of_its_features_kind(
    shop: Api, feature_id: str, mode: str, value: dict[str, Any]
) -> None:
    data = await shop.ask(
        """{ plan(id: "enterprise") { entitlements { feature { id } mode value {
            enabled number choice limit unlimited overage warnAtPercent } } } }"""
    )
    (granted,) = [e for e in data["plan"]["entitlements"] if e["feature"]["id"] == feature_id]
    assert granted["mode"] == mode
    assert {key: v for key, v in granted["value"].items() if v is not None} == value


async def test_what_an_add_on_gives_is_added_to_the_limit(shop: Api) -> None:
    data = await shop.ask(
        """{ addOn(id: "extra-calls") { kind maxQuantity worksWith { id } requires { id }
            entitlements { mode value { limit unlimited overage } } } }"""
    )
    assert data["addOn"] == {
        "kind": "CAPACITY",
        "maxQuantity": None,
        "worksWith": [{"id": "starter"}, {"id": "professional"}],
        "requires": [],
        "entitlements": [
            {"mode": "ADD", "value": {"limit": "100000", "unlimited": False, "overage": False}}
        ],
    }


async def test_three_parts_for_175_are_a_bundle_for_150(shop: Api) -> None:
    data = await shop.ask(
        """{ bundle(id: "marketing-automation") {
            components { quantity package { __typename ... on AddOn { requires { id } } } }
            saving(currency: "usd", interval: MONTH) { percent amount { amountMinor formatted } }
            german: saving(currency: "eur", interval: YEAR) {
              amount { formatted(locale: "de-DE") } }
        } }"""
    )
    bundle = data["bundle"]
    assert bundle["saving"] == {
        "percent": "14.29",
        "amount": {"amountMinor": "2500", "formatted": "$25.00"},
    }
    assert bundle["german"]["amount"]["formatted"] == "230,00\N{NO-BREAK SPACE}€"
    assert [c["package"]["__typename"] for c in bundle["components"]] == ["AddOn"] * 3
    assert bundle["components"][1]["package"]["requires"] == [{"id": "email-campaigns"}]


@pytest.mark.parametrize(
    ("field", "code"),
    [
        ('saving(currency: "gbp", interval: MONTH) { percent }', "NOT_SOLD"),
        (
            'saving(currency: "usd", interval: MONTH) { amount { formatted(locale: "xx_XX") } }',
            "UNKNOWN_LOCALE",
        ),
    ],
)
async def test_a_wrong_argument_of_a_field_is_the_callers_mistake(
    shop: Api, field: str, code: str
) -> None:
    refusal = await shop.refused(f'{{ bundle(id: "growth-pack") {{ {field} }} }}')
    assert (refusal["code"], refusal["issues"][0]["code"]) == ("BAD_USER_INPUT", code)


async def test_there_is_no_plan_of_that_name_nor_of_another_kind(shop: Api) -> None:
    data = await shop.ask(
        """{ a: plan(id: "gold") { id } b: plan(id: "extra-calls") { id } c: addOn(id: "") { id }
             d: comparePlans(productId: "gold") { plans { id } } }"""
    )
    assert data == {"a": None, "b": None, "c": None, "d": None}


async def test_staff_see_an_old_version_among_what_is_sold_today(shop: Api) -> None:
    data = await shop.ask(
        """{ plan(id: "professional", version: 1) { versionId latestVersion publishedAt
              charges { prices { flatAmount } } product { plans { versionId } } }
             none: plan(id: "professional", version: 9) { id } }""",
        ANN,
    )
    plan = data["plan"]
    assert (plan["versionId"], plan["latestVersion"]) == ("professional@1", 2)
    assert plan["publishedAt"] == "2040-01-01T00:00:00Z"
    assert plan["charges"][0]["prices"][0]["flatAmount"] == "79.00"
    assert "professional@2" in [p["versionId"] for p in plan["product"]["plans"]]
    assert data["none"] is None


async def test_staff_see_the_catalog_of_another_time(shop: Api) -> None:
    at = "query($at: DateTime) { catalog(asOf: $at) { revision effectiveAt } }"
    data = await shop.ask(at, BOB, at="2040-06-30T23:59:59Z")
    assert data["catalog"] == {"revision": 1, "effectiveAt": "2040-01-01T00:00:00Z"}
    assert (await shop.ask(at, BOB, at="2039-12-31T00:00:00Z"))["catalog"]["revision"] == 0


async def test_a_front_end_sees_nothing_dated(shop: Api) -> None:
    at = '{ catalog(asOf: "2040-06-30T00:00:00Z") { revision } }'
    assert (await shop.refused(at))["code"] == "FORBIDDEN"
    assert (await shop.refused(OLD_PROFESSIONAL))["code"] == "FORBIDDEN"
    unknown = '{ plan(id: "professional", version: 9) { id } }'
    assert (await shop.refused(unknown))["code"] == "FORBIDDEN"
    sold_now = '{ plan(id: "professional", version: 2) { versionId } }'
    assert (await shop.ask(sold_now, SHOP))["plan"] == {"versionId": "professional@2"}


async def test_a_customer_sees_the_versions_it_holds_and_no_others(shop: Api) -> None:
    await _hold(shop, "acme", "professional", 1)
    await _hold(shop, "newcomer", "professional", 2)
    data = await shop.ask(OLD_PROFESSIONAL, customer("acme"))
    assert data["plan"] == {"versionId": "professional@1", "latestVersion": 2}
    for other in ("newcomer", "nobody"):
        assert (await shop.refused(OLD_PROFESSIONAL, customer(other)))["code"] == "FORBIDDEN"


async def _hold(api: Api, customer_id: str, plan_id: str, version: int) -> None:
    """A customer with a plan, as stored."""
    start, end = (datetime(2040, month, 1, tzinfo=UTC) for month in (7, 8))
    subscription_id = new_id("sub")
    async with api.services.database.write() as session:
        session.add(
            CustomerRow(
                id=customer_id, sequence=new_id("cus"), currency="usd", created_at=start, revision=1
            )
        )
        await session.flush()
        session.add(
            SubscriptionRow(
                id=subscription_id,
                customer_id=customer_id,
                product_id="workspace",
                status="active",
                interval="month",
                currency="usd",
                period_start=start,
                period_end=end,
                anchor=start,
                started_at=start,
                quantities={},
                pending_lines=[],
            )
        )
        await session.flush()
        session.add(
            SubscriptionItemRow(
                id=new_id("itm"),
                subscription_id=subscription_id,
                package_id=plan_id,
                version=version,
                entitlements_version=version,
                quantity=1,
                started_at=start,
                charges={},
            )
        )


async def test_plans_side_by_side_have_a_cell_for_every_feature(shop: Api) -> None:
    data = await shop.ask(
        """{ comparePlans(productId: "workspace", planIds: ["professional", "starter"]) {
            product { id } plans { id }
            rows { feature { id } cells {
              plan { id } included value { enabled limit } viaAddOns { id } } }
        } }"""
    )
    compared = data["comparePlans"]
    assert [p["id"] for p in compared["plans"]] == ["professional", "starter"]
    rows = {row["feature"]["id"]: row["cells"] for row in compared["rows"]}
    assert rows["sso"] == [
        {
            "plan": {"id": "professional"},
            "included": True,
            "value": {"enabled": True, "limit": None},
            "viaAddOns": [],
        },
        {
            "plan": {"id": "starter"},
            "included": False,
            "value": None,
            "viaAddOns": [{"id": "security-pack"}],
        },
    ]
    assert all(len(cells) == 2 for cells in rows.values())


async def test_an_estimate_shows_its_lines_and_the_cheaper_way(shop: Api) -> None:
    data = await shop.ask(
        """query($input: EstimateInput!) { estimate(input: $input) {
            total { amountMinor currency } monthlyEquivalent { amountMinor }
            annualSaving { percent amount { amountMinor } }
            lines { package { versionId } charge { id }
                    quantity amount { amountMinor } explanation }
            cheaper { description total { amountMinor } saving { amountMinor } planId addOns bundles
                      packages { package { id } quantity } quantities { feature { id } quantity } }
            cheaperComplete } }""",
        input={
            "planId": "starter",
            "addOns": [
                {"id": "email-campaigns"},
                {"id": "lead-scoring"},
                {"id": "landing-pages"},
                {"id": "extra-calls", "quantity": 2},
            ],
        },
    )
    answer = data["estimate"]
    assert answer["total"] == {"amountMinor": "23400", "currency": "usd"}
    assert answer["lines"][-1] == {
        "package": {"versionId": "extra-calls@1"},
        "charge": {"id": "fee"},
        "quantity": "2",
        "amount": {"amountMinor": "3000"},
        "explanation": "2 × $15.00",
    }
    assert answer["annualSaving"] == {"percent": "16.67", "amount": {"amountMinor": "46800"}}
    cheapest = answer["cheaper"][0]
    assert cheapest["total"] == {"amountMinor": "20900"}
    assert cheapest["saving"] == {"amountMinor": "2500"}
    assert cheapest["planId"] == "starter"
    assert (cheapest["addOns"], cheapest["bundles"]) == (["extra-calls"], ["marketing-automation"])
    assert {p["package"]["id"]: p["quantity"] for p in cheapest["packages"]} == {
        "starter": 1,
        "extra-calls": 2,
        "marketing-automation": 1,
    }
    assert answer["cheaperComplete"] is True


async def test_every_mistake_of_an_estimate_is_listed_at_once(shop: Api) -> None:
    refusal = await shop.refused(
        """{ estimate(input: {planId: "gold", addOns: [{id: "extra-calls", quantity: 0}],
              quantities: [{featureId: "seats", quantity: -1}], currency: "gbp"}) {
              total { currency } } }"""
    )
    assert refusal["code"] == "BAD_USER_INPUT"
    assert [(i["path"], i["code"]) for i in refusal["issues"]] == [
        (["planId"], "UNKNOWN_PLAN"),
        (["addOns", "0", "quantity"], "OUT_OF_RANGE"),
        (["quantities", "0", "quantity"], "OUT_OF_RANGE"),
        (["currency"], "UNKNOWN_CURRENCY"),
    ]


async def test_a_bundle_without_a_price_is_contact_sales_and_claims_no_saving(shop: Api) -> None:
    document = await _document(shop)
    (growth_pack,) = [b for b in document["products"][0]["bundles"] if b["id"] == "growth-pack"]
    del growth_pack["discount_percent"]
    growth_pack["charges"] = []
    await shop.publish_document(document)
    query = """{ bundle(id: "growth-pack") {
      selfServe charges { id } saving(currency: "usd", interval: YEAR) { percent } } }"""
    bundle = (await shop.ask(query))["bundle"]
    assert bundle == {"selfServe": False, "charges": [], "saving": {"percent": "0"}}


async def test_an_old_version_keeps_what_it_names_also_when_that_is_gone(shop: Api) -> None:
    document = await _document(shop)
    workspace = document["products"][0]
    workspace["plans"] = [p for p in workspace["plans"] if p["id"] == "professional"]
    del workspace["plans"][0]["extends"]
    workspace["add_ons"] = [a for a in workspace["add_ons"] if a["id"] == "extra-seats"]
    workspace["add_ons"][0]["works_with"] = ["professional"]
    workspace["bundles"] = []
    await shop.publish_document(document)
    query = """{
      addOn(id: "lead-scoring", version: 1) {
        requires { versionId } worksWith { versionId } product { addOns { id } } }
      bundle(id: "growth-pack", version: 1) { components { quantity package { versionId } } }
      plan(id: "enterprise", version: 1) { extends { versionId } }
    }"""
    data = await shop.ask(query, ADMIN)
    assert data["addOn"] == {
        "requires": [{"versionId": "email-campaigns@1"}],
        "worksWith": [{"versionId": "starter@1"}, {"versionId": "professional@2"}],
        "product": {"addOns": [{"id": "extra-seats"}]},
    }
    assert data["bundle"]["components"] == [
        {"quantity": 1, "package": {"versionId": "advanced-analytics@1"}},
        {"quantity": 2, "package": {"versionId": "extra-calls@1"}},
    ]
    assert data["plan"] == {"extends": {"versionId": "professional@2"}}


async def test_a_plan_left_out_of_the_catalog_is_sold_no_more_but_known(shop: Api) -> None:
    document = await _document(shop)
    workspace, help_desk = document["products"]
    document["products"] = [workspace]
    await shop.publish_document(document)
    query = """{ catalog { products { id } } plan(id: "help-desk-team") { id } }"""
    data = await shop.ask(query)
    assert data == {"catalog": {"products": [{"id": "workspace"}]}, "plan": None}
    old = '{ plan(id: "help-desk-team", version: 1) { product { id name plans { id } } } }'
    data = await shop.ask(old, ADMIN)
    assert data["plan"]["product"] == {"id": "help-desk", "name": help_desk["name"], "plans": []}


async def _document(api: Api) -> Any:
    data = await api.ask("{ catalogProposals(first: 1) { nodes { document } } }", ANN)
    return data["catalogProposals"]["nodes"][0]["document"]
