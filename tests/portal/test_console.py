"""The finance console, in a browser."""

import csv
import re
from typing import Any

from playwright.async_api import Page, Response, expect

from entitlements.audit.ledger import Actor
from entitlements.catalog import examples
from entitlements.catalog.document import read
from entitlements.server import keys
from entitlements.services import Services
from entitlements.worker import work_once
from tests.api import Api
from tests.faults.test_ledger import tamper
from tests.portal.conftest import ARTIFACTS, Come, Visitor, usable

PROPOSE = """mutation ($input: ProposeCatalogInput!) { proposeCatalog(input: $input) {
  ... on CatalogProposal { id } ... on UserError { code message } } }"""
OVERRIDE = "mutation ($input: SetOverrideInput!) { setOverride(input: $input) { __typename } }"
WIRE_BYTES_AT_MOST = 100_000


def dearer_starter() -> Any:
    """The example catalog with its starter plan at $35 instead of $29, and an add-on more."""
    document = read(examples.text("workspace")).document
    workspace = document["products"][0]
    workspace["plans"][0]["charges"][0]["prices"]["usd"]["month"] = "35.00"
    price = {
        "usd": {"month": "40.00", "year": "400.00"},
        "eur": {"month": "37.00", "year": "370.00"},
    }
    workspace["add_ons"].append({
        "id": "audit-trail", "name": "Audit trail", "kind": "feature",
        "entitlements": {"audit-log": True},
        "charges": [{"id": "fee", "name": "Audit trail", "model": "flat", "prices": price}],
    })  # fmt: skip
    return document


def row(page: Page, name: str) -> Any:
    return page.get_by_role("row", name=name).first


async def shown(visitor: Visitor, path: str) -> Page:
    """A page with all that comes later."""
    await visitor.open(path)
    await expect(visitor.page.locator("[aria-busy=true]")).to_have_count(0)
    return visitor.page


async def saved(page: Page) -> list[dict[str, str]]:
    """The lines of the file that the page makes of what it shows."""
    async with page.expect_download() as download:
        await page.get_by_role("button", name="Save as CSV").click()
    text = (await (await download.value).path()).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


async def test_staff_sign_in_and_see_what_was_proposed(visitor: Come, services: Services) -> None:
    _, key = await keys.create(services.database, Actor("test"), role="finance", name="fin")
    finance = await visitor()
    page, answers = finance.page, list[Response]()

    def answered(answer: Response) -> None:
        answers.append(answer)

    page.on("response", answered)
    await finance.open("/console")
    await usable(page, "console-sign-in")
    await page.get_by_label("Key or token").fill("ent_finance_wrong")
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.get_by_role("alert")).to_contain_text("not a key or token of staff")

    await page.get_by_label("Key or token").fill(key)
    await page.get_by_role("button", name="Sign in").click()
    await expect(row(page, "for a test")).to_contain_text("Published")
    assert await page.evaluate("document.cookie") == ""
    sizes = [await answer.request.sizes() for answer in answers]
    wire_bytes = sum(each["responseHeadersSize"] + each["responseBodySize"] for each in sizes)
    assert 10_000 < wire_bytes < WIRE_BYTES_AT_MOST
    await usable(page, "console-proposals")
    await page.get_by_role("button", name="Sign out").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")


async def test_a_price_rise_is_seen_in_money_and_approved_by_somebody_else(
    api: Api, services: Services, staff: Come
) -> None:
    _, key = await keys.create(services.database, Actor("test"), role="admin", name="ada")
    policy = {"packageId": "starter", "price": "AT_RENEWAL", "renewals": 2,
              "maxIncreasePercent": "10"}  # fmt: skip
    wanted = {"document": dearer_starter(), "reason": "Costs rose", "policies": [policy]}
    proposed = await api.bound_to(key).ask(PROPOSE, input=wanted)
    id = proposed["proposeCatalog"]["id"]

    ada = await staff("admin", name="ada")
    await shown(ada, f"/console/proposals/{id}")
    await ada.page.get_by_role("button", name="Approve…").click()
    dialog = ada.page.get_by_role("dialog")
    await dialog.get_by_role("button", name="Approve").click()
    await expect(dialog.get_by_role("alert")).to_contain_text("ask somebody else of finance")

    finance = await staff("finance", name="fin")
    page = finance.page
    await page.get_by_role("link", name="Costs rose").click()
    await expect(row(page, "charges › base › prices › usd › month")).to_contain_text(
        re.compile(r"\$29\.00.*\$35\.00.*\+20\.69%")
    )
    await expect(row(page, "starter@1")).to_contain_text(re.compile(r"\+\$2\.90.*\+\$6\.00"))
    await expect(row(page, "May 1, 2026")).to_contain_text("$31.90")
    await expect(row(page, "Jun 1, 2026")).to_contain_text("$35.00")
    await expect(page.get_by_role("table", name="audit-trail")).to_contain_text("month: 40.00")
    await expect(page.get_by_role("img", name="MRR in USD")).to_be_visible()
    await usable(page, "console-proposal")
    steps = [line for line in await saved(page) if line["kind"] == "step"]
    assert [(step["at"][:10], step["mrr_minor"], step["delta_minor"]) for step in steps] == [
        ("2026-05-01", "3190", "290"), ("2026-06-01", "3500", "600"),
    ]  # fmt: skip

    await page.get_by_role("button", name="Approve…").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("Note").fill("As agreed in the board")
    await dialog.get_by_role("button", name="Approve").click()
    main = page.get_by_role("main")
    await expect(main).to_contain_text("As agreed in the board")
    await expect(main).to_contain_text("by key:fin")
    await page.emulate_media(media="print")
    await page.screenshot(path=ARTIFACTS / "console-proposal-print.png", full_page=True)
    await expect(page.get_by_role("button", name="Print")).to_be_hidden()
    await page.emulate_media(media="screen")

    page = await shown(finance, "/console/prices/starter")
    second, first = await page.get_by_role("listitem").filter(has_text="Version").all()
    await expect(second).to_contain_text("+20.69%")
    await expect(second).to_contain_text("by key:fin")
    await expect(first).to_contain_text("Customers on it1")
    await usable(page, "console-price-history")
    await usable(await shown(finance, "/console/prices"), "console-prices")

    await work_once(services)
    page = await shown(finance, "/console/grandfathered")
    await expect(row(page, "starter@1")).to_contain_text(re.compile(r"\$29\.00.*\$6\.00"))
    await page.get_by_role("button", name="Pause…").click()
    await page.get_by_role("dialog").get_by_label("Why").fill("wait for the audit")
    await page.get_by_role("dialog").get_by_role("button", name="Pause").click()
    await expect(page.get_by_role("region", name="starter@1 to starter@2")).to_contain_text(
        "Paused"
    )
    await usable(page, "console-grandfathered")


async def test_a_customers_story_what_it_was_worth_and_who_tampered_with_the_record(
    api: Api, services: Services, staff: Come
) -> None:
    await api.create_customer("crow")
    await api.change("start", customerId="crow", planId="starter")
    await api.access("acme", "sso")
    await services.signals.flush()
    await api.advance("2026-03-16T12:00:00Z")
    await api.cancel("end", customerId="crow", productId="workspace")
    await api.change("up", customerId="acme", planId="professional")
    granted = {"featureId": "exports", "mode": "SET", "value": {"enabled": True}}
    await api.ask(OVERRIDE, input={"customerId": "acme", "reason": "=1+1", **granted})
    await api.create_customer("bolt")
    for id in ("acme", "bolt"):
        asked = await api.token(id, "BUY", "READ")
        waits = await asked.change("more", planId="enterprise")
        assert waits["__typename"] == "ApprovalRequired"
    await api.advance("2026-04-20T12:00:00Z")

    finance = await staff("finance")
    page = await shown(finance, "/console/customers?search=ac")
    await usable(page, "console-customers")
    await page.get_by_role("link", name="acme").click()
    main = page.get_by_role("main")
    await expect(main).to_contain_text("professional@1")
    await page.get_by_role("button", name="Earlier change").click()
    await page.get_by_role("button", name="Earlier change").click()
    await page.get_by_role("slider").press("ArrowRight")
    await expect(main).to_contain_text("starter@1")
    await expect(main).not_to_contain_text("professional@1")
    await expect(page).to_have_url(re.compile(r"\?at=2026-03-"))
    await page.get_by_role("tab", name="Refused").click()
    await expect(row(page, "Mar 1, 2026")).to_contain_text("Nothing that was held grants it")
    await usable(page, "console-customer")
    await page.get_by_label("Exactly").fill("2026-03-20T12:00:00")
    await page.get_by_label("Exactly").blur()
    await expect(main).to_contain_text("professional@1")
    await page.get_by_role("tab", name="Invoices").click()
    await page.get_by_role("button", name="Lines of").first.click()
    await page.get_by_role("button", name="Explain line 1").click()
    await expect(page.get_by_role("dialog").get_by_role("listitem").first).to_be_visible()
    await usable(page, "console-explained")

    page = await shown(finance, "/console/revenue?from=2026-02&to=2026-04&by=MONTH")
    await expect(row(page, "Expansion")).to_contain_text("+$70.00")
    await expect(row(page, "Churn")).to_contain_text("-$29.00")
    await expect(row(page, "Closing")).to_contain_text("$99.00")
    await expect(page.get_by_role("img", name="MRR from")).to_be_visible()
    await usable(page, "console-revenue")

    page = await shown(finance, "/console/ledger?stream=customer%3Aacme")
    await page.get_by_role("button", name="Verify").click()
    await expect(page.get_by_text("The ledger is consistent.")).to_be_visible()
    reasons = [line["reason"] for line in await saved(page)]
    assert "'=1+1" in reasons  # no formula for a spreadsheet
    await tamper(
        services.database,
        "UPDATE audit_entry SET actor = 'nobody' WHERE stream = 'customer:acme' AND sequence = 2",
    )
    await page.reload()
    await finance.settled()
    await page.get_by_role("button", name="Verify").click()
    await expect(main).to_contain_text("tampered with")
    await expect(main).to_contain_text("customer:acme #2")
    await expect(row(page, "does not add up")).to_contain_text("nobody")
    await usable(page, "console-ledger")
    await page.get_by_role("button", name="Show this entry").click()
    await usable(page, "console-ledger-entry")

    support = await staff("support")
    await expect(support.page.get_by_role("link", name="Ledger")).to_have_count(0)
    page = await shown(support, "/console/waiting")
    await usable(page, "console-approvals")
    declined = page.get_by_role("region", name="Enterprise instead of Professional")
    await declined.get_by_role("button", name="Decline…").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("Why").fill("not this year")
    await dialog.get_by_role("button", name="Decline").click()
    await expect(declined).to_have_count(0)
    await page.get_by_role("button", name="Approve…").click()
    await dialog.get_by_role("button", name="Approve").click()
    await expect(page.get_by_role("main")).to_contain_text("No change waits for approval.")
    [held] = (await api.customer("bolt"))["subscriptions"]
    assert held["plan"]["versionId"] == "enterprise@1"
