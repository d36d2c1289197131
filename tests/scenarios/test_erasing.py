"""A person's data is erased: here, at the provider, and the ledger stays whole without it."""

from typing import Any

import httpx
from sqlalchemy import select

from entitlements.audit import seals
from entitlements.audit.personal import digests
from entitlements.services import Services
from entitlements.storage.base import Base
from entitlements.subscriptions.tables import CustomerRow
from tests.api import Api
from tests.conftest import on_sqlite
from tests.faults.test_provider_faults import fault
from tests.provider_traffic import SERVICE_KEY

RENAME = """mutation ($name: String) { updateCustomer(id: "acme", name: $name) {
  __typename ... on UserError { code } } }"""
NAME, EMAIL = "Ann Example", "ann@example.com"


async def bought_and_cancelled(api: Api) -> None:
    await api.ask(
        """mutation ($input: CreateCustomerInput!) {
             createCustomer(input: $input) { __typename } }""",
        input={"id": "acme", "email": EMAIL, "sandboxPaymentMethod": "pm_card_visa"},
    )
    assert (await api.ask(RENAME, name=NAME))["updateCustomer"]["__typename"] == "CustomerPayload"
    await api.change("start", customerId="acme", planId="starter")


async def end(api: Api) -> None:
    await api.cancel("end", customerId="acme", productId="workspace", timing="NOW", reason="moved")


async def at_provider(sandbox_url: str) -> tuple[Any, Any]:
    headers = {"Authorization": f"Bearer {SERVICE_KEY}"}
    async with httpx.AsyncClient(base_url=sandbox_url, headers=headers) as client:
        [customer] = (await client.get("/v1/customers")).json()["data"]
        params = {"customer": customer["id"]}
        cards = (await client.get("/v1/payment_methods", params=params)).json()["data"]
    return customer, cards


async def everything(services: Services) -> str:
    """All that is stored, as text."""
    async with services.database.read() as session:
        tables = Base.metadata.sorted_tables
        return repr([(await session.execute(select(table))).all() for table in tables])


async def test_an_erased_customer_is_in_no_table_and_the_ledger_is_whole(
    api: Api, services: Services, sandbox_url: str, example: Any
) -> None:
    await bought_and_cancelled(api)
    assert (await api.erase("acme"))["code"] == "SUBSCRIPTION_LIVE"
    await end(api)
    async with services.database.read() as session:
        salt = (await session.get_one(CustomerRow, "acme")).salt
    [renamed] = await api.audit(action="customer.updated")
    assert salt is not None
    assert renamed["after"] == {"fields": ["name"], "digests": digests(salt, {"name": NAME})}
    assert NAME in await everything(services)
    token = await api.token("acme")

    done = await api.erase("acme")
    assert done["customer"]["name"] is done["customer"]["email"] is None
    assert done["customer"]["paymentMethod"] is None
    assert done["customer"]["invoices"]["nodes"]  # the books stay
    left = await everything(services)
    assert not [data for data in (NAME, EMAIL, salt, "4242") if data in left]
    customer, cards = await at_provider(sandbox_url)
    assert (customer["name"], customer["email"], cards) == (None, None, [])
    assert (await token.send("{ viewer { role } }")).status_code == 401
    async with services.database.read(streaming=True) as session:
        assert (await seals.verify(session, services.signer)).ok
    told = [e for e in await api.audit(stream="customer:acme") if "erased" in e["action"]]
    assert [e["action"] for e in told] == ["customer.erased_at_provider", "customer.erased"]
    assert told[1]["reason"] == "asked by letter"

    assert (await api.erase("acme"))["__typename"] == "CustomerPayload"
    assert (await api.ask(RENAME, name=NAME))["updateCustomer"]["code"] == "ERASED"
    assert len(await api.audit(action="customer.erased")) == 1


@on_sqlite
async def test_what_the_provider_could_not_be_told_it_is_told_later(
    api: Api, services: Services, sandbox_url: str, example: Any
) -> None:
    await bought_and_cancelled(api)
    await end(api)
    await fault(sandbox_url, kind="cut_before", times=1000)
    assert (await api.erase("acme"))["customer"]["name"] is None
    async with httpx.AsyncClient() as client:
        await client.delete(f"{sandbox_url}/_sandbox/faults")
    assert (await at_provider(sandbox_url))[0]["name"] == NAME
    assert await services.erasing.finish("acme")
    customer, cards = await at_provider(sandbox_url)
    assert (customer["name"], customer["email"], cards) == (None, None, [])
    assert not await services.erasing.finish("acme")


@on_sqlite
async def test_erasing_needs_a_reason_and_a_customer(api: Api, example: Any) -> None:
    await api.create_customer("acme")
    [issue] = (await api.erase("acme", " "))["issues"]
    assert (issue["path"], issue["code"]) == (["reason"], "REASON_REQUIRED")
    assert (await api.erase("nobody"))["code"] == "NOT_FOUND"
