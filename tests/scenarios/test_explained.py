"""Why a line has its amount: every line of a life is worked out anew, to the minor unit."""

from typing import Any

from entitlements.services import Services
from tests.api import Api
from tests.conftest import on_sqlite

EXPLAIN = """query ($change: ID, $invoice: ID, $line: Int!) {
  explainCharge(changeId: $change, invoiceId: $invoice, line: $line) {
    line { description amount { amountMinor } } steps computed { amountMinor } packageVersionId
    proposal { reason decidedBy } change { id } } }"""
LINES = """{ customer(id: "acme") {
  changes { nodes { id lines { amount { amountMinor } } } }
  invoices { nodes { id lines { amount { amountMinor } } } } } }"""


async def explained(api: Api, line: int, **of: str) -> Any:
    return (await api.ask(EXPLAIN, line=line, **of))["explainCharge"]


async def everything(api: Api) -> list[Any]:
    """Every line of every change and invoice, explained."""
    customer = (await api.ask(LINES))["customer"]
    found = []
    for kind in ("change", "invoice"):
        for each in customer[f"{kind}s"]["nodes"]:
            for n, line in enumerate(each["lines"]):
                told = await explained(api, n, **{kind: each["id"]})
                assert told["line"]["amount"] == line["amount"]
                assert told["computed"] == line["amount"], told
                assert told["change"], told
                assert told["proposal"] == {"reason": "for a test", "decidedBy": "finance"}
                found.append(told)
    return found


@on_sqlite
async def test_every_line_of_a_life_is_worked_out_anew(
    api: Api, services: Services, example: Any
) -> None:
    await api.create_customer("acme")
    start = await api.change("1", customerId="acme", planId="starter")
    await api.advance("2026-03-11T12:00:00Z")
    wanted = {"customerId": "acme", "planId": "professional"}
    up = await api.change("2", **wanted, addOns=[{"id": "workflow-automation"}])
    await api.advance("2026-03-15T06:00:07Z")
    await api.change("3", customerId="acme", bundles=[{"id": "growth-pack"}],
                     proration="NEXT_INVOICE", reason="agreed")  # fmt: skip
    await api.change("4", customerId="acme", addOns=[{"id": "extra-seats", "quantity": 3}],
                     proration="NONE", reason="a gift")  # fmt: skip
    await api.advance("2026-03-20T12:00:00Z")
    await api.change("5", customerId="acme", addOns=[{"id": "extra-seats", "quantity": 4}])
    await api.advance("2026-04-01T12:00:00Z")  # a renewal
    await api.advance("2026-04-09T12:00:00Z")
    await api.change("6", customerId="acme", interval="YEAR")
    assert len(await everything(api)) > 25

    [credit] = [t for t in [await explained(api, n, change=up["change"]["id"]) for n in (0, 1, 2)]
                if t["computed"]["amountMinor"].startswith("-")]  # fmt: skip
    assert credit["packageVersionId"] == "starter@1"
    assert credit["change"]["id"] == up["change"]["id"] != start["change"]["id"]
    assert credit["steps"][:5] == [
        "Starter, version starter@1, charge base.",
        "Price: 1 × $29.00 = $29.00 by the month.",
        "Period: from 2026-03-11T12:00:00Z, 1,814,400 of the 2,678,400 seconds of "
        "2026-03-01T12:00:00Z – 2026-04-01T12:00:00Z.",
        "Share: $29.00 × 1,814,400 ÷ 2,678,400 = $19.645161290323 (to 12 decimals).",
        "Rounded half away from zero, once: -$19.65, given back.",
    ]
    assert credit["steps"][5] == (
        "Policy: upgrade, effective now, proration invoice_now, by the product's policy."
    )
    assert credit["steps"][6].startswith(f"Change {up['change']['id']}: ")
    assert "proposed by pricing" in credit["steps"][7]
    assert "approved by finance" in credit["steps"][8]


@on_sqlite
async def test_what_cannot_be_explained_says_why(api: Api, example: Any) -> None:
    await api.create_customer("acme")
    change = (await api.change("1", customerId="acme", planId="starter"))["change"]["id"]
    assert await api.refused(EXPLAIN, line=9, change=change) == "BAD_USER_INPUT"
    assert await api.refused(EXPLAIN, line=-1, change=change) == "BAD_USER_INPUT"
    assert await api.refused(EXPLAIN, line=0, change=change, invoice="inv_1") == "BAD_USER_INPUT"
    assert await api.refused(EXPLAIN, line=0) == "BAD_USER_INPUT"
    assert await explained(api, 0, change="chg_nothing") is None
