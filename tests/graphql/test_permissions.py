"""Nobody gets where they do not belong."""

from typing import Any

import pytest
from graphql import GraphQLObjectType

from entitlements.audit.ledger import Actor
from entitlements.server import keys
from entitlements.services import Services
from graphql_schema.permissions import RULES, CustomerScope, Role
from graphql_schema.schema import schema
from tests.api import Api
from tests.conftest import ADMIN_KEY


def test_every_root_field_has_a_rule_and_every_rule_a_field() -> None:
    fields = set()
    for root in ("Query", "Mutation", "SubscriptionRoot"):
        kind = schema._schema.get_type(root)
        assert isinstance(kind, GraphQLObjectType)
        fields |= {f"{root}.{name}" for name in kind.fields}
    assert fields == set(RULES)


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", "Bearer nonsense", "Bearer ent_service_nonsense", f"Basic {ADMIN_KEY}",
     f"Bearer {ADMIN_KEY}x", "Bearer a.b.c"],
)  # fmt: skip
async def test_without_a_good_bearer_the_answer_is_401(api: Api, authorization: str) -> None:
    response = await api.client.post(
        "/graphql", json={"query": "{ viewer { role } }"}, headers={"Authorization": authorization}
    )
    assert response.status_code == 401
    assert response.json()["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"


async def test_a_key_acts_in_its_role_until_it_is_revoked(api: Api, services: Services) -> None:
    row, key = await keys.create(services.database, Actor("test"), role="finance", name="Ann")
    finance = api.bound_to(key)
    viewer = await finance.ask("{ viewer { role scopes customerId } }")
    assert viewer == {"viewer": {"role": "finance", "scopes": [], "customerId": None}}
    create = 'mutation { createCustomer(input: {id: "x"}) { __typename } }'
    assert await finance.refused(create) == "FORBIDDEN"

    await keys.revoke(services.database, Actor("test"), row.id)
    assert (await finance.send("{ viewer { role } }")).status_code == 401


async def test_keys_are_stored_as_hashes(services: Services) -> None:
    row, key = await keys.create(services.database, Actor("test"), role="service", name="back end")
    assert key not in repr(vars(row))
    assert row.hash == keys.hash_key(key)


OPERATIONS = {
    "customer": 'query { customer(id: "bee") { id } }',
    "change": "query ($change: ID!) { change(id: $change) { id } }",
    "access": 'query { access(customerId: "bee", featureId: "seats") { allowed reason revision } }',
    "accessMany": """query { accessMany(customerId: "bee", checks: [{featureId: "seats"}]) {
                       allowed reason revision } }""",
    "consume": """mutation { consume(customerId: "bee", featureId: "seats", idempotencyKey: "k") {
                    ... on Consumed { decision { allowed reason revision } } } }""",
    "setLevel": """mutation { setLevel(customerId: "bee", featureId: "seats", level: 1,
                     idempotencyKey: "k") {
                     ... on Consumed { decision { allowed reason revision } } } }""",
    "usageHistory": """query { usageHistory(customerId: "bee", featureId: "seats",
                         from: "2026-03-01T00:00:00Z", to: "2026-03-02T00:00:00Z") { date } }""",
    "previewChange": """mutation { previewChange(input: {customerId: "bee", planId: "starter"}) {
                          __typename ... on NotFound { code } } }""",
    "commitChange": """mutation ($quote: String!) {
                         commitChange(token: $quote, idempotencyKey: "k") {
                           __typename ... on NotFound { code } } }""",
    "purchaseAddOn": """mutation { purchaseAddOn(input: {customerId: "bee", idempotencyKey: "k",
                          addOnId: "extra-calls"}) { __typename ... on NotFound { code } } }""",
    "cancelSubscription": """mutation { cancelSubscription(input: {customerId: "bee",
                               productId: "workspace", idempotencyKey: "k"}) {
                               __typename ... on NotFound { code } } }""",
    "setUpPaymentMethod": """mutation { setUpPaymentMethod(customerId: "bee") {
                               __typename ... on NotFound { code } } }""",
    "payInvoice": """mutation ($invoice: ID!) { payInvoice(id: $invoice, idempotencyKey: "k") {
                       __typename ... on NotFound { code } } }""",
    "startTrial": """mutation { startTrial(input: {customerId: "bee", idempotencyKey: "k",
                       packageId: "advanced-analytics"}) {
                       __typename ... on NotFound { code } } }""",
    "convertTrial": """mutation ($trial: ID!) { convertTrial(id: $trial, idempotencyKey: "k") {
                         __typename ... on NotFound { code } } }""",
    "cancelTrial": """mutation ($trial: ID!) { cancelTrial(id: $trial) {
                        __typename ... on NotFound { code } } }""",
    "cancelScheduledChange": """mutation ($change: ID!) { cancelScheduledChange(id: $change) {
                                  __typename ... on NotFound { code } } }""",
}
NOT_FOUND = {"__typename": "NotFound", "code": "NOT_FOUND"}
UNKNOWN = {"allowed": False, "reason": "CUSTOMER_NOT_FOUND", "revision": "0"}


async def test_a_token_of_one_customer_reaches_nothing_of_another(api: Api, example: Any) -> None:
    for id in ("ant", "bee"):
        await api.create_customer(id)
    started = await api.change("start", customerId="bee", planId="starter")
    quote = await api.preview(customerId="bee", planId="professional")
    trial = await api.start_trial("try", customerId="bee", packageId="advanced-analytics")
    ant = await api.token("ant", "READ", "USE", "BUY")
    before = await api.customer("bee")

    invoices = await api.ask('{ customer(id: "bee") { invoices { nodes { id } } } }')
    variables = {
        "change": started["change"]["id"],
        "quote": quote["token"],
        "trial": trial["trial"]["id"],
        "invoice": invoices["customer"]["invoices"]["nodes"][0]["id"],
    }
    for name, operation in OPERATIONS.items():
        used = {key: value for key, value in variables.items() if f"${key}" in operation}
        if name == "usageHistory":  # a list that is not null
            assert await ant.refused(operation) == "NOT_FOUND"
            continue
        [answer] = (await ant.ask(operation, **used)).values()
        expected: Any = NOT_FOUND
        if name in ("customer", "change"):
            expected = None
        elif name == "access":
            expected = UNKNOWN
        elif name == "accessMany":
            expected = [UNKNOWN]
        elif name in ("consume", "setLevel"):
            expected = {"decision": UNKNOWN}
        assert answer == expected, name
    assert await api.customer("bee") == before


def test_every_operation_open_to_customer_tokens_is_tried_against_another_customer() -> None:
    about_nobody = {"viewer", "catalog", "plan", "addOn", "bundle", "comparePlans", "estimate",
                    "sandboxClock"}  # fmt: skip
    asked = {name: rule for name, rule in RULES.items() if not name.startswith("SubscriptionRoot.")}
    open_to_tokens = {name.split(".")[1] for name, rule in asked.items() if rule.scope is not None}
    assert open_to_tokens - about_nobody == set(OPERATIONS)


async def test_a_token_does_what_its_scopes_say_for_its_own_customer(
    api: Api, example: Any
) -> None:
    await api.create_customer("ant")
    await api.change("start", customerId="ant", planId="starter")
    reader, buyer = await api.token("ant"), await api.token("ant", "READ", "BUY")

    assert (await reader.customer())["id"] == "ant"
    assert (await reader.preview(planId="professional"))["__typename"] == "Quote"
    purchase = """mutation { purchaseAddOn(input: {addOnId: "extra-calls", idempotencyKey: "k"}) {
                    __typename } }"""
    assert await reader.refused(purchase) == "FORBIDDEN"
    assert (await buyer.ask(purchase))["purchaseAddOn"]["__typename"] == "ChangeCommitted"
    assert await buyer.refused("{ customers { nodes { id } } }") == "FORBIDDEN"
    assert await buyer.refused("{ auditEntries { nodes { id } } }") == "FORBIDDEN"


async def test_a_revoked_token_is_refused(api: Api, example: Any) -> None:
    await api.create_customer("ant")
    token = await api.token("ant")
    await api.ask('mutation { revokeCustomerTokens(customerId: "ant") { __typename } }')
    assert (await token.send("{ viewer { role } }")).status_code == 401


async def test_a_customer_sees_no_id_of_the_provider(api: Api, example: Any) -> None:
    await api.create_customer("ant")
    await api.change("start", customerId="ant", planId="starter")
    query = "{ customer { providerId invoices { nodes { providerId } } } }"
    seen = (await (await api.token("ant")).ask(query))["customer"]
    assert seen["providerId"] is None
    assert [i["providerId"] for i in seen["invoices"]["nodes"]] == [None]
    found = await api.ask('{ customer(id: "ant") { providerId } }')
    assert found["customer"]["providerId"].startswith("cus_")


async def test_a_customer_may_not_choose_time_or_proration(api: Api, example: Any) -> None:
    await api.create_customer("ant")
    await api.change("start", customerId="ant", planId="professional")
    buyer = await api.token("ant", "READ", "BUY")
    for choice in ({"timing": "NOW"}, {"proration": "NONE"}):
        refused = await buyer.preview(planId="starter", **choice)
        [issue] = refused["issues"]
        assert (issue["path"], issue["code"]) == ([next(iter(choice))], "NOT_YOURS_TO_CHOOSE")
    staff = await api.preview(customerId="ant", planId="starter", timing="NOW")
    assert staff["issues"][0]["code"] == "REASON_REQUIRED"
    agreed = await api.preview(customerId="ant", planId="starter", timing="NOW", reason="goodwill")
    assert agreed["__typename"] == "Quote"


def test_roles_and_scopes_are_those_of_the_contract() -> None:
    assert [scope.name for scope in CustomerScope] == ["READ", "USE", "BUY"]
    assert Role.CUSTOMER not in keys.ROLES
