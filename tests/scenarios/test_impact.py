"""What a price change is worth, before anyone signs it and as it was signed."""

import asyncio
import csv
from typing import Any

from typer.testing import CliRunner

from entitlements.audit.ledger import Actor
from entitlements.cli import app
from entitlements.server import keys
from entitlements.services import Services
from tests.api import Api
from tests.conftest import on_sqlite, publish
from tests.scenarios.test_mrr_movements import catalog

_MONEY = "{ amountMinor currency }"
IMPACT = f"""impact {{ computedAt customersAffected staysGrandfathered mrrNow {_MONEY}
  mrrSteps {{ at mrr {_MONEY} }}
  mostAffected {{ customer {{ id }} mrrBefore {_MONEY} mrrAfter {_MONEY} movesAt }}
  packages {{ packageId mrrNow {_MONEY} mrrAfter {_MONEY} }}
  versions {{ versionId toVersionId customers policy entitlementsPolicy mrrDelta {_MONEY}
    uncappedMrrDelta {_MONEY} }} }}"""
SHOWN = f"query ($id: ID!) {{ catalogProposal(id: $id) {{ status {IMPACT} }} }}"
PROPOSE = """mutation ($input: ProposeCatalogInput!) { proposeCatalog(input: $input) {
  ... on CatalogProposal { id } ... on UserError { code message }
  ... on ValidationFailed { issues { path code } } } }"""


async def propose(api: Api, document: Any, *policies: Any, **more: Any) -> str:
    wanted = {"document": document, "reason": "costs rose", "policies": policies, **more}
    return str((await api.ask(PROPOSE, input=wanted))["proposeCatalog"]["id"])


async def impact(api: Api, proposal: str) -> Any:
    return (await api.ask(SHOWN, id=proposal))["catalogProposal"]["impact"]


def usd(minor: int) -> list[dict[str, str]]:
    return [{"amountMinor": str(minor), "currency": "usd"}]


async def firm(api: Api, id: str, interval: str = "MONTH") -> None:
    await api.create_customer(id)
    done = await api.change("1", customerId=id, planId="firm", interval=interval)
    assert done["__typename"] == "ChangeCommitted"


@on_sqlite
async def test_a_capped_rise_is_worth_what_it_says_and_stays_as_it_was_signed(
    api: Api, services: Services
) -> None:
    await publish(services, catalog())
    for id in ("ann", "bob"):
        await firm(api, id)
    await firm(api, "yearly", "YEAR")
    rise = {"packageId": "firm", "price": "AT_RENEWAL", "renewals": 1, "maxIncreasePercent": "20"}
    # By the month from 100 to 150, by the year as it was.
    proposal = await propose(api, catalog(base="150.00"), rise)
    found = await impact(api, proposal)
    assert (found["customersAffected"], found["staysGrandfathered"]) == (3, 0)
    assert found["mrrNow"] == usd(30000)
    assert found["mrrSteps"] == [
        {"at": "2026-04-01T12:00:00Z", "mrr": usd(34000)},
        {"at": "2026-05-01T12:00:00Z", "mrr": usd(38800)},
        {"at": "2026-06-01T12:00:00Z", "mrr": usd(40000)},
        {"at": "2027-03-01T12:00:00Z", "mrr": usd(40000)},
    ]
    assert found["versions"] == [{
        "versionId": "firm@1", "toVersionId": "firm@2", "customers": 3, "policy": "AT_RENEWAL",
        "entitlementsPolicy": "KEEP", "mrrDelta": usd(4000), "uncappedMrrDelta": usd(10000),
    }]  # fmt: skip
    assert found["packages"] == [
        {"packageId": "firm", "mrrNow": usd(30000), "mrrAfter": usd(40000)}
    ]
    assert {each["customer"]["id"] for each in found["mostAffected"]} == {"ann", "bob"}
    assert found["mostAffected"][0]["mrrAfter"] == usd(15000)[0]
    pricing = (await keys.create(services.database, Actor("test"), role="pricing", name="Pat"))[1]
    theirs = await impact(api.bound_to(pricing), proposal)
    assert theirs == found | {"mostAffected": []}

    approve = "mutation ($id: ID!) { approveProposal(id: $id) { __typename } }"
    finance = (await keys.create(services.database, Actor("test"), role="finance", name="Fay"))[1]
    done = await api.bound_to(finance).ask(approve, id=proposal)
    assert done["approveProposal"]["__typename"] == "CatalogProposal"
    await firm(api, "new")
    assert await impact(api, proposal) == found


@on_sqlite
async def test_the_impact_is_read_in_a_terminal_and_by_programs(
    api: Api, services: Services, database_url: str
) -> None:
    await publish(services, catalog())
    await firm(api, "ann")
    rise = {"packageId": "firm", "price": "NOW"}
    proposal = await propose(api, catalog(base="150.00"), rise)
    kept = await propose(api, catalog(base="150.00"))

    async def run(*words: str) -> str:
        environment = {"ENTITLEMENTS_DATABASE_URL": database_url, "ENTITLEMENTS_SANDBOX": "true",
                       "COLUMNS": "120"}  # fmt: skip
        command = ["catalog", "impact", *words]
        done = await asyncio.to_thread(CliRunner().invoke, app, command, env=environment)
        assert done.exit_code == 0, done.output
        return done.stdout

    table = await run(proposal)
    assert "1 customer(s) hold what changes, 0 keep an older price" in table
    assert "$150.00" in table
    assert "1 keep an older price" in await run(kept)
    rows = list(csv.DictReader((await run(proposal, "--format", "csv")).splitlines()))
    assert [(row["kind"], row["mrr_minor"], row["delta_minor"]) for row in rows] == [
        ("now", "10000", ""), ("step", "15000", "5000"), ("version", "", "5000"),
        ("package", "10000", "5000"), ("customer", "10000", "5000"),
    ]  # fmt: skip


async def total(api: Api) -> dict[str, int]:
    """The MRR of everything sold, by the movements until now."""
    found = {}
    for currency in ("usd", "eur"):
        span = {"from": "2026-01-01T00:00:00Z", "to": "2031-01-01T00:00:00Z"}
        query = """query ($from: DateTime!, $to: DateTime!, $currency: String!) {
          mrrMovements(from: $from, to: $to, currency: $currency) { closing { amountMinor } } }"""
        moved = await api.ask(query, currency=currency, **span)
        found[currency] = int(moved["mrrMovements"]["closing"]["amountMinor"])
    return {currency: minor for currency, minor in found.items() if minor}


@on_sqlite
async def test_the_mrr_is_what_was_predicted_once_the_clock_has_passed_every_move(
    api: Api, services: Services
) -> None:
    await publish(services, catalog())
    await firm(api, "ann")
    await api.create_customer("team")
    await api.change("1", customerId="team", planId="team",
                     quantities=[{"featureId": "seats", "quantity": 3}],
                     addOns=[{"id": "report", "quantity": 2}])  # fmt: skip
    await api.advance("2026-03-10T12:00:00Z")
    await firm(api, "later")
    await firm(api, "leaves")
    await api.cancel("2", customerId="leaves", productId="desk")  # at once: nothing is left
    document = catalog(seat="590.00", base="155.55")
    document["products"][0]["plans"][0]["charges"][0]["prices"]["usd"]["month"] = "59.00"
    document["products"][0]["add_ons"][0]["charges"][0]["prices"]["usd"]["month"] = "31.01"
    proposal = await propose(
        api, document,
        {"packageId": "firm", "price": "AT_RENEWAL", "renewals": 2, "maxIncreasePercent": "20",
         "noticeDays": 30},
        {"packageId": "report", "price": "NOW"},
        {"packageId": "team", "price": "KEEP_UNTIL", "until": "2026-04-20T00:00:00Z",
         "maxIncreasePercent": "10"},
    )  # fmt: skip
    finance = (await keys.create(services.database, Actor("test"), role="finance", name="Fay"))[1]
    approve = "mutation ($id: ID!) { approveProposal(id: $id) { __typename } }"
    await api.bound_to(finance).ask(approve, id=proposal)
    signed = await impact(api, proposal)
    assert len(signed["mrrSteps"]) >= 6
    for step in signed["mrrSteps"]:
        await api.advance(step["at"])
        predicted = {each["currency"]: int(each["amountMinor"]) for each in step["mrr"]}
        assert await total(api) == predicted, step["at"]
    assert {version["policy"] for version in signed["versions"]} == {
        "AT_RENEWAL", "NOW", "KEEP_UNTIL",
    }  # fmt: skip
