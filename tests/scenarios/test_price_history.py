"""Which prices a package had, who proposed and approved each, and who still pays it."""

from typing import Any

from entitlements.services import Services
from tests.api import Api
from tests.conftest import on_sqlite, publish
from tests.scenarios.test_mrr_movements import catalog

HISTORY = """query ($id: ID!) { priceHistory(packageId: $id) {
  version effectiveAt endedAt subscribers mrr { amountMinor currency }
  charges { prices { interval unitAmount flatAmount } }
  proposal { reason proposedBy decidedBy } } }"""
FIRM = {"customerId": "", "planId": "firm", "interval": "MONTH"}


async def history(api: Api, id: str = "firm") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await api.ask(HISTORY, id=id))["priceHistory"]
    return found


@on_sqlite
async def test_each_version_says_when_it_was_sold_who_agreed_and_who_still_pays_it(
    api: Api, services: Services
) -> None:
    await publish(services, catalog())
    for id, interval in (("old", "MONTH"), ("yearly", "YEAR")):
        await api.create_customer(id)
        await api.change("1", **FIRM | {"customerId": id, "interval": interval})
    await api.advance("2026-03-10T00:00:00Z")
    await publish(services, catalog(base="130.00"))
    await api.create_customer("new")
    await api.change("1", **FIRM | {"customerId": "new"})
    await api.advance("2026-03-20T00:00:00Z")
    without = catalog(base="130.00")
    del without["products"][0]["plans"][1]
    await publish(services, without)
    await publish(services, without | {"features": without["features"][::-1]})

    second, first = await history(api)
    assert (second["version"], first["version"]) == (2, 1)
    assert first["effectiveAt"] == "2026-03-01T12:00:00Z"
    assert first["endedAt"] == second["effectiveAt"] == "2026-03-10T00:00:00Z"
    assert second["endedAt"] == "2026-03-20T00:00:00Z"
    assert (first["subscribers"], second["subscribers"]) == (2, 1)
    assert first["mrr"] == [{"amountMinor": "20000", "currency": "usd"}]
    assert second["mrr"] == [{"amountMinor": "13000", "currency": "usd"}]
    assert second["charges"][0]["prices"][0]["flatAmount"] == "130.00"
    assert first["proposal"] == {
        "reason": "for a test", "proposedBy": "pricing", "decidedBy": "finance",
    }  # fmt: skip

    await publish(services, catalog(base="130.00"))
    third = (await history(api))[0]
    assert (third["version"], third["endedAt"], third["subscribers"]) == (3, None, 0)
    [team] = await history(api, "team")
    assert (team["endedAt"], team["mrr"]) == (None, [])
    assert await api.refused(HISTORY, id="nothing") == "NOT_FOUND"
