"""How a change of the catalog is proposed, read and decided on."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from tests.unit.graphql_schema.asking import ADMIN, ANN, BOB, SHOP, Api

PROPOSE = """mutation($input: ProposeCatalogInput!) { proposeCatalog(input: $input) {
  __typename
  ... on CatalogProposal { id status reason proposedBy createdAt effectiveAt baseRevision
    publishedRevision decidedBy policies { packageId price entitlements until renewals
    maxIncreasePercent noticeDays } document }
  ... on ValidationFailed { code issues { path code message } }
} }"""
DECIDED = """{
  __typename
  ... on CatalogProposal { status effectiveAt publishedRevision decidedBy decidedAt decisionNote }
  ... on UserError { code message }
  ... on ValidationFailed { issues { path code } }
} }"""
APPROVE = f"mutation($id: ID!, $note: String) {{ approveProposal(id: $id, note: $note) {DECIDED}"
REJECT = f"mutation($id: ID!, $note: String!) {{ rejectProposal(id: $id, note: $note) {DECIDED}"


def document(amount: Any = "29.00", **more: Any) -> dict[str, Any]:
    """One plan for one monthly amount."""
    return {
        "currencies": ["usd"],
        "features": [{"id": "sso", "name": "Single sign-on", "kind": "boolean"}],
        "products": [
            {
                "id": "app",
                "name": "App",
                "plans": [
                    {
                        "id": "pro",
                        "name": "Pro",
                        "entitlements": {"sso": True},
                        "charges": [
                            {
                                "id": "fee",
                                "name": "Fee",
                                "model": "flat",
                                "prices": {"usd": {"month": amount}},
                            }
                        ],
                        **more,
                    }
                ],
            }
        ],
    }


async def propose(api: Api, document: Any, **more: Any) -> Any:
    data = await api.ask(PROPOSE, ANN, input={"document": document, "reason": "Costs", **more})
    return data["proposeCatalog"]


async def approve(api: Api, proposal: Any, principal: Any = BOB) -> Any:
    data = await api.ask(APPROVE, principal, id=proposal["id"], note="Fine")
    return data["approveProposal"]


async def price(api: Api) -> Any:
    query = '{ plan(id: "pro") { charges { prices { flatAmount } } } }'
    plan = (await api.ask(query, SHOP))["plan"]
    return plan and plan["charges"][0]["prices"][0]["flatAmount"]


async def test_a_price_reaches_customers_when_somebody_else_approves_it(api: Api) -> None:
    proposal = await propose(api, document())
    assert proposal == {
        "__typename": "CatalogProposal",
        "id": proposal["id"],
        "status": "PROPOSED",
        "reason": "Costs",
        "proposedBy": "key:ann",
        "createdAt": "2040-01-01T00:00:00Z",
        "effectiveAt": "2040-01-01T00:00:00Z",
        "baseRevision": 0,
        "publishedRevision": None,
        "decidedBy": None,
        "policies": [],
        "document": document(),
    }
    assert await price(api) is None
    assert await approve(api, proposal) == {
        "__typename": "CatalogProposal",
        "status": "PUBLISHED",
        "effectiveAt": "2040-01-01T00:00:00Z",
        "publishedRevision": 1,
        "decidedBy": "key:bob",
        "decidedAt": "2040-01-01T00:00:00Z",
        "decisionNote": "Fine",
    }
    assert await price(api) == "29.00"


async def test_nobody_approves_their_own_proposal_an_admin_neither(api: Api) -> None:
    data = await api.ask(PROPOSE, ADMIN, input={"document": document(), "reason": "Costs"})
    answer = await approve(api, data["proposeCatalog"], ADMIN)
    assert (answer["__typename"], answer["code"]) == ("Conflict", "OWN_PROPOSAL")
    assert await price(api) is None


async def test_only_pricing_proposes_and_only_finance_decides(api: Api) -> None:
    variables = {"input": {"document": document(), "reason": "Costs"}}
    for principal in (SHOP, BOB):
        assert (await api.refused(PROPOSE, principal, **variables))["code"] == "FORBIDDEN"
    proposal = await propose(api, document())
    for mutation in (APPROVE, REJECT):
        refusal = await api.refused(mutation, ANN, id=proposal["id"], note="Mine")
        assert refusal["code"] == "FORBIDDEN"
    query = "query($id: ID!) { catalogProposal(id: $id) { status } }"
    assert (await api.refused(query, SHOP, id=proposal["id"]))["code"] == "FORBIDDEN"
    assert (await api.ask(query, BOB, id=proposal["id"]))["catalogProposal"]["status"] == "PROPOSED"


async def test_an_approved_catalog_waits_for_its_instant(api: Api) -> None:
    at = "2040-03-01T00:00:00Z"
    proposal = await propose(api, document(), effectiveAt=at)
    answer = await approve(api, proposal)
    assert (answer["status"], answer["effectiveAt"]) == ("APPROVED", at)
    found = "query($s: ProposalStatus) { catalogProposals(status: $s) { nodes { id } } }"
    nodes = {"nodes": [{"id": proposal["id"]}]}
    assert (await api.ask(found, BOB, s="APPROVED"))["catalogProposals"] == nodes
    assert (await api.ask(found, BOB, s="PUBLISHED"))["catalogProposals"] == {"nodes": []}
    assert await price(api) is None
    api.set_clock(datetime(2040, 3, 1, tzinfo=UTC))
    assert await price(api) == "29.00"
    assert (await api.ask(found, BOB, s="PUBLISHED"))["catalogProposals"] == nodes
    assert (await api.ask(found, BOB, s="APPROVED"))["catalogProposals"] == {"nodes": []}


async def test_every_mistake_is_listed_with_its_path_and_nothing_is_stored(api: Api) -> None:
    wrong = document("29.0.0", rank=1)
    wrong["currencies"] = ["usd", "zzz"]
    answer = await propose(api, wrong)
    assert (answer["__typename"], answer["code"]) == ("ValidationFailed", "VALIDATION_FAILED")
    plan = ["document", "products", "0", "plans", "0"]
    paths = [issue["path"] for issue in answer["issues"]]
    assert sorted(paths) == sorted(
        [
            ["document", "currencies", "1"],
            [*plan, "rank"],
            [*plan, "charges", "0", "prices", "usd", "month"],
        ]
    )
    data = await api.ask("{ catalogProposals { nodes { id } } }", BOB)
    assert data["catalogProposals"]["nodes"] == []


@pytest.mark.parametrize(
    ("input", "path", "code"),
    [
        ({"reason": " "}, ["reason"], "REASON_REQUIRED"),
        ({"effectiveAt": "2039-12-31T23:59:59Z"}, ["effectiveAt"], "IN_THE_PAST"),
        (
            {"policies": [{"packageId": "pro", "price": "AT_RENEWAL", "renewals": 1}]},
            ["policies", "0", "packageId"],
            "UNKNOWN_PACKAGE",
        ),
    ],
)
async def test_what_is_wrong_beside_the_document_has_its_path(
    api: Api, input: dict[str, Any], path: list[str], code: str
) -> None:
    answer = await propose(api, document(), **input)
    assert [(i["path"], i["code"]) for i in answer["issues"]] == [(path, code)]


async def test_policies_are_kept_as_they_were_proposed(api: Api) -> None:
    await approve(api, await propose(api, document()))
    policy = {
        "packageId": "pro",
        "price": "KEEP_UNTIL",
        "entitlements": "NOW",
        "until": "2041-01-01T00:00:00Z",
        "renewals": None,
        "maxIncreasePercent": "12.5",
        "noticeDays": 30,
    }
    answer = await propose(api, document("39.00"), policies=[policy])
    assert answer["policies"] == [policy]


@pytest.mark.parametrize(
    "amount",
    [Decimal("29.10"), 29.1, "29.10"],
    ids=["decimal", "float", "text"],
)
async def test_a_number_is_what_was_written_however_it_came(api: Api, amount: Any) -> None:
    proposal = await propose(api, document(amount))
    await approve(api, proposal)
    assert Decimal(await price(api)) == Decimal("29.10")


async def test_a_document_may_be_written_into_the_query_exactly(api: Api) -> None:
    mutation = """mutation($model: JSON!, $currency: JSON!) { proposeCatalog(input: {
      reason: "Costs"
      document: {
        currencies: [$currency]
        features: [{id: "sso", name: "Single sign-on", kind: boolean}]
        products: [{id: "app", name: "App", fallback_plan: null, plans: [{
          id: "pro", name: "Pro", self_serve: true, entitlements: {sso: true}
          charges: [{id: "fee", name: "Fee", model: $model
                     prices: {usd: {month: 123456789.123456789012}}}]
        }]}]
      }
    }) { ... on CatalogProposal { id } ... on ValidationFailed { issues { path message } } } }"""
    data = await api.ask(mutation, ANN, model="flat", currency="usd")
    answer = data["proposeCatalog"]
    assert "issues" not in answer
    await approve(api, answer)
    assert await price(api) == "123456789.123456789012"


async def test_the_difference_is_shown_field_by_field(api: Api) -> None:
    await approve(api, await propose(api, document()))
    later = document("39.00", description="For all")
    proposal = await propose(api, later)
    query = """query($id: ID!) { catalogProposal(id: $id) { document diff {
      path packageId kind before after wording risePercent } } }"""
    found = (await api.ask(query, BOB, id=proposal["id"]))["catalogProposal"]
    assert found["document"] == later
    plan = "products.app.plans.pro"
    assert sorted(found["diff"], key=lambda difference: str(difference["path"])) == [
        {
            "path": f"{plan}.charges.fee.prices.usd.month",
            "packageId": "pro",
            "kind": "CHANGED",
            "before": "29.00",
            "after": "39.00",
            "wording": False,
            "risePercent": "34.48",
        },
        {
            "path": f"{plan}.description",
            "packageId": "pro",
            "kind": "ADDED",
            "before": None,
            "after": "For all",
            "wording": True,
            "risePercent": None,
        },
    ]


async def test_what_is_decided_stays_decided(api: Api) -> None:
    proposal = await propose(api, document())
    rejected = await api.ask(REJECT, BOB, id=proposal["id"], note="Too dear")
    answer = rejected["rejectProposal"]
    assert (answer["status"], answer["decisionNote"]) == ("REJECTED", "Too dear")
    again = await approve(api, proposal)
    assert (again["__typename"], again["code"]) == ("Conflict", "DECIDED")


async def test_a_decision_needs_a_proposal_and_a_rejection_a_reason(api: Api) -> None:
    unknown = await approve(api, {"id": "prp_none"})
    assert (unknown["__typename"], unknown["code"]) == ("NotFound", "NOT_FOUND")
    proposal = await propose(api, document())
    answer = (await api.ask(REJECT, BOB, id=proposal["id"], note=" "))["rejectProposal"]
    assert answer["issues"] == [{"path": ["note"], "code": "NOTE_REQUIRED"}]
    query = '{ catalogProposal(id: "prp_none") { id } }'
    assert (await api.ask(query, BOB))["catalogProposal"] is None


async def test_what_was_overtaken_has_to_be_proposed_anew(api: Api) -> None:
    first, second = await propose(api, document()), await propose(api, document("39.00"))
    await approve(api, first)
    answer = await approve(api, second)
    assert (answer["__typename"], answer["code"]) == ("Conflict", "STALE_BASE")
    assert await price(api) == "29.00"


async def test_proposals_are_read_page_by_page_newest_first(api: Api) -> None:
    ids = [(await propose(api, document(f"{n}.00")))["id"] for n in range(1, 6)]
    query = """query($after: String) { catalogProposals(first: 2, after: $after) {
      nodes { id } pageInfo { hasNextPage endCursor } } }"""
    seen: list[str] = []
    after = None
    for more in (True, True, False):
        data = (await api.ask(query, BOB, after=after))["catalogProposals"]
        seen += [node["id"] for node in data["nodes"]]
        assert data["pageInfo"]["hasNextPage"] is more
        after = data["pageInfo"]["endCursor"]
    assert seen == ids[::-1]


@pytest.mark.parametrize(
    "arguments", ["first: 0", "first: 201", "first: -1", 'after: "\\u0000"', 'after: ""']
)
async def test_a_page_has_from_1_to_200_after_a_cursor(api: Api, arguments: str) -> None:
    refusal = await api.refused(f"{{ catalogProposals({arguments}) {{ nodes {{ id }} }} }}", BOB)
    assert refusal["code"] == "BAD_USER_INPUT"
    assert refusal["issues"][0]["path"] == [arguments.split(":")[0]]
