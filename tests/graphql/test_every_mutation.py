"""Every mutation that changes something is in the ledger: each one that the schema has is done."""

import copy
from collections.abc import Awaitable
from typing import Any

from graphql import GraphQLObjectType
from sqlalchemy import func, select

from entitlements.audit import seals
from entitlements.audit.tables import AuditEntryRow
from entitlements.services import Services
from graphql_schema.schema import schema
from tests.api import Api
from tests.conftest import on_sqlite
from tests.events import deliver
from tests.graphql.test_refusals import as_role
from tests.scenarios.test_contact_sales import approve, decline
from tests.scenarios.test_impact import propose
from tests.scenarios.test_notices import CREATE, DELETE, RESEND, deliveries
from tests.scenarios.test_payments import press

WRITES_NOTHING = {"previewChange", "createCustomerToken"}
COUNTED = {"consume", "setLevel", "recordUsage"}
"""What is used is kept where it is counted, event by event: `usageHistory`."""

_DONE = "{ __typename ... on UserError { code message } }"


class Doing:
    """Does one mutation after the other, and sees that each leaves an entry."""

    def __init__(self, api: Api, services: Services) -> None:
        self.api, self.services = api, services
        self.done: set[str] = set()

    async def entries(self) -> int:
        async with self.services.database.read() as session:
            return await session.scalar(select(func.count()).select_from(AuditEntryRow)) or 0

    async def __call__(self, name: str, asked: Awaitable[Any]) -> Any:
        before = await self.entries()
        answer = await asked
        assert "code" not in answer, (name, answer)
        assert await self.entries() > before, name
        self.done.add(name)
        return answer

    async def ask(self, name: str, arguments: str, **variables: Any) -> Any:
        async def asked() -> Any:
            types = {"end": "DateTime", "document": "JSON!", "id": "ID!"}
            head = ", ".join(f"${each}: {types[each]}" for each in variables)
            query = f"mutation {f'({head})' if head else ''} {{ {name}({arguments}) {_DONE} }}"
            return (await self.api.ask(query, **variables))[name]

        return await self(name, asked())


@on_sqlite
async def test_every_mutation_leaves_an_entry_in_the_ledger(
    api: Api, services: Services, sandbox_url: str, example: dict[str, Any]
) -> None:
    do = Doing(api, services)
    endpoint = (await do("createWebhookEndpoint", _created(api)))["endpoint"]["id"]
    await do("createCustomer", api.create_customer("acme"))
    await do.ask("updateCustomer", 'id: "acme", name: "Acme"')
    quote = await api.preview(customerId="acme", planId="professional")
    await do("commitChange", api.commit(quote["token"], "1"))
    await do("purchaseAddOn", api.purchase(customerId="acme", addOnId="extra-seats",
                                           idempotencyKey="2"))  # fmt: skip
    analytics = await do("startTrial", api.start_trial("3", customerId="acme",
                                                       packageId="advanced-analytics"))  # fmt: skip
    await do("extendTrial", api.extend_trial(analytics["trial"]["id"], 3))
    await do("convertTrial", api.convert_trial(analytics["trial"]["id"], "4"))
    workflows = await api.start_trial("5", customerId="acme", packageId="workflow-automation")
    await do("cancelTrial", api.cancel_trial(workflows["trial"]["id"]))
    ending = await do("cancelSubscription", api.cancel("6", customerId="acme",
                                                       productId="workspace"))  # fmt: skip
    await do("cancelScheduledChange", api.take_back(ending["change"]["id"]))
    customer = await api.token("acme", "READ", "BUY")
    for name, decide in (("declineChange", decline), ("approveChange", approve)):
        waiting = await customer.change(name, planId="enterprise")
        assert waiting["__typename"] == "ApprovalRequired"
        await do(name, decide(api, waiting["pendingChange"]["id"], "agreed"))
    override = (
        'customerId: "acme", featureId: "sso", mode: SET, value: {enabled: true}, reason: "x"'
    )
    await do.ask("setOverride", f"input: {{{override}}}")
    found = await api.ask('{ customer(id: "acme") { overrides { id } } }')
    await do.ask("endOverride", 'id: $id, reason: "x"', id=found["customer"]["overrides"][0]["id"])
    await do.ask("revokeCustomerTokens", 'customerId: "acme"')

    await api.create_customer("late", "pm_card_visa")
    await api.change("7", customerId="late", planId="starter")
    page = await do("setUpPaymentMethod", api.set_up_payment_method("late"))
    await press(page["url"], card="pm_card_chargeCustomerFail")
    await deliver(api, services, sandbox_url)
    dearer = copy.deepcopy(example)
    dearer["products"][0]["plans"][0]["charges"][0]["prices"]["usd"]["month"] = "39.00"
    policy = {"packageId": "starter", "price": "KEEP_UNTIL", "until": "2027-01-01T00:00:00Z"}
    finance = Doing(await as_role(api, services, "finance"), services)
    for name in ("rejectProposal", "approveProposal"):
        proposal = await do("proposeCatalog", _proposed(api, dearer, policy))
        await finance.ask(name, 'id: $id, note: "read"', id=proposal["id"])
    await do("advanceSandboxClock", _advanced(api, "2026-04-02T12:00:00Z"))
    invoices = await api.ask('{ customer(id: "late") { invoices { nodes { id status } } } }')
    owed = invoices["customer"]["invoices"]["nodes"][0]
    assert owed["status"] == "open"
    await do("payInvoice", _tried(api, owed["id"]))
    await _migrations(finance)

    delivery = (await deliveries(api))["nodes"][0]["id"]
    await do("resendWebhook", _one(api, RESEND, "resendWebhook", id=delivery))
    await do("deleteWebhookEndpoint", _one(api, DELETE, "deleteWebhookEndpoint", id=endpoint))
    await api.create_customer("gone")
    await do.ask("eraseCustomer", 'id: "gone", reason: "asked by letter"')

    mutations = schema._schema.get_type("Mutation")
    assert isinstance(mutations, GraphQLObjectType)
    assert do.done | finance.done == set(mutations.fields) - WRITES_NOTHING - COUNTED
    async with services.database.read(streaming=True) as session:
        assert (await seals.verify(session, services.signer)).ok


async def _one(api: Api, query: str, name: str, **variables: Any) -> Any:
    return (await api.ask(query, **variables))[name]


async def _created(api: Api) -> Any:
    return await _one(
        api, CREATE, "createWebhookEndpoint", url="http://localhost:9/hooks", events=["*"]
    )


async def _proposed(api: Api, document: Any, policy: Any) -> Any:
    return {"id": await propose(api, document, policy)}


async def _advanced(api: Api, to: str) -> Any:
    await api.advance(to)
    return {}


async def _tried(api: Api, invoice_id: str) -> Any:
    answer = await api.pay_invoice(invoice_id, "pay")
    assert answer["__typename"] == "PaymentDeclined"
    return {}


async def _migrations(finance: Doing) -> None:
    """Those who hold an older version are moved later; that is stopped, goes on, is taken back."""
    fields = schema._schema.get_type("Mutation")
    assert isinstance(fields, GraphQLObjectType)
    if "pauseMigration" not in fields.fields:
        return
    [migration] = (await finance.api.ask("{ migrations { id } }"))["migrations"]
    for name, more in (
        ("pauseMigration", ', reason: "x"'),
        ("resumeMigration", ""),
        ("rollBackMigration", ', reason: "x"'),
    ):
        await finance.ask(name, f"id: $id{more}", id=migration["id"])
