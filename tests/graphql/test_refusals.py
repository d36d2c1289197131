"""Who tries what is not theirs is refused, and the ledger keeps it."""

import copy
from typing import Any

from entitlements.audit.ledger import Actor
from entitlements.server import keys
from entitlements.services import Services
from graphql_schema.permissions import RULES, Role
from tests.api import Api
from tests.conftest import on_sqlite
from tests.scenarios.test_impact import propose

APPROVE = """mutation ($id: ID!) { approveProposal(id: $id) {
  __typename ... on CatalogProposal { status } ... on Conflict { code } } }"""
REVOKE = 'mutation { revokeCustomerTokens(customerId: "acme") { __typename } }'
OVERRIDE = """mutation ($end: DateTime) { setOverride(input: {customerId: "acme", featureId: "sso",
  mode: SET, value: {enabled: true}, reason: "promised", endsAt: $end}) {
  __typename ... on ValidationFailed { issues { code } } } }"""


async def as_role(api: Api, services: Services, role: str) -> Api:
    _, key = await keys.create(services.database, Actor("test"), role=role, name=role)
    return api.bound_to(key)


async def refusals(api: Api) -> list[tuple[str, str, str]]:
    """Who was refused what, and by which code, oldest first."""
    entries = (await api.audit(action="access.refused"))[::-1]
    return [(e["actor"], e["objectId"], e["after"]["code"]) for e in entries]


@on_sqlite
async def test_pricing_proposes_finance_approves_support_keeps_within_bounds_and_refusals_stay(
    api: Api, services: Services, example: dict[str, Any]
) -> None:
    await api.create_customer("acme")
    pricing, finance, support = [
        await as_role(api, services, role) for role in ("pricing", "finance", "support")
    ]
    dearer = copy.deepcopy(example)
    dearer["products"][0]["plans"][0]["charges"][0]["prices"]["usd"]["month"] = "39.00"
    proposal = await propose(pricing, dearer)
    own = await propose(api, dearer)
    for _ in range(2):
        assert await pricing.refused(APPROVE, id=proposal) == "FORBIDDEN"
    assert (await api.ask(APPROVE, id=own))["approveProposal"]["code"] == "OWN_PROPOSAL"
    read = '{ customer(id: "acme") { id } auditEntries { nodes { id } } }'
    assert (await finance.ask(read))["customer"]["id"] == "acme"
    assert (
        await finance.refused(
            'mutation { revokeCustomerTokens(customerId: "acme") { __typename } }'
        )
        == "FORBIDDEN"
    )
    hot = '{ access(customerId: "acme", featureId: "sso") { allowed } }'
    assert await pricing.refused(hot) == "FORBIDDEN"
    late = {"end": "2026-09-01T00:00:00Z"}
    assert (await support.ask(OVERRIDE, **late))["setOverride"]["issues"] == [{"code": "TOO_LATE"}]
    within = {"end": "2026-05-01T00:00:00Z"}
    assert (await support.ask(OVERRIDE, **within))["setOverride"]["__typename"] == "OverridePayload"
    assert (await finance.ask(APPROVE, id=proposal))["approveProposal"]["status"] == "PUBLISHED"

    reader = await api.token("acme")
    assert await reader.refused("{ auditEntries { nodes { id } } }") == "FORBIDDEN"
    admin = (await api.audit(action="customer.created"))[0]["actor"]
    assert await refusals(api) == [
        ("key:pricing", "Mutation.approveProposal", "FORBIDDEN"),
        (admin, "Mutation.approveProposal", "OWN_PROPOSAL"),
        ("key:finance", "Mutation.revokeCustomerTokens", "FORBIDDEN"),
        ("key:pricing", "Query.access", "FORBIDDEN"),
        ("key:support", "Mutation.setOverride", "TOO_LATE"),
    ]


def test_finance_reads_everything_and_changes_nothing_but_what_it_decides() -> None:
    finance = {name for name, rule in RULES.items() if Role.FINANCE in rule.roles}
    assert finance >= {name for name in RULES if name.startswith("Query.")}
    decides = {f"Mutation.{name}" for name in (
        "approveProposal", "rejectProposal", "pauseMigration", "resumeMigration",
        "rollBackMigration")}  # fmt: skip
    assert {name for name in finance if name.startswith("Mutation.")} <= decides
    proposes = {role for role in Role if role in RULES["Mutation.proposeCatalog"].roles}
    assert proposes == {Role.PRICING, Role.ADMIN}
