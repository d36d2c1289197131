"""The customer portal, in a browser."""

import re

from playwright.async_api import Request, Route, expect

from entitlements.services import Services
from tests.api import Api
from tests.events import deliver
from tests.portal.conftest import PHONE, Come, Visitor, portal_link, usable


async def test_a_customer_comes_by_a_link_sees_their_plan_and_hears_of_a_change(
    customer: Come, api: Api
) -> None:
    acme = await customer("acme")
    assert acme.page.url == f"{acme.origin}/portal"  # the code has left the address
    main = acme.page.get_by_role("main")
    await expect(main).to_contain_text("Starter")
    await expect(main).to_contain_text("$29.00 a month")
    await expect(main).to_contain_text("Apr 1, 2026")
    assert await acme.page.evaluate("document.cookie") == ""
    await usable(acme.page, "portal-overview")

    bought = await api.purchase(
        customerId="acme", addOnId="workflow-automation", idempotencyKey="by-a-colleague"
    )
    assert bought["__typename"] == "ChangeCommitted"
    await expect(main).to_contain_text("Workflow Automation")

    await acme.page.get_by_role("button", name="Sign out").click()
    await expect(acme.page.get_by_role("heading", level=1)).to_have_text("You are signed out")
    await acme.open("/portal")
    heading = acme.page.get_by_role("heading", level=1)
    await expect(heading).to_have_text("Please come again by the link")
    await acme.open(await portal_link(acme.origin, api, "acme"))  # in the same window
    await expect(heading).to_have_text("Overview")
    await acme.page.get_by_role("link", name="Skip to content").press("Enter")
    await expect(main).to_be_focused()
    await expect(main).to_contain_text("Starter")


async def test_a_link_that_was_used_says_so_and_shows_nothing(
    customer: Come, visitor: Come, api: Api, origin: str
) -> None:
    link = await portal_link(origin, api, "acme")
    await (await visitor()).open(link)
    thief = await visitor()
    await thief.open(link)
    assert thief.page.url == f"{origin}/portal"
    main = thief.page.get_by_role("main")
    await expect(main).to_contain_text("used before")
    await expect(main).not_to_contain_text(re.compile("starter", re.IGNORECASE))
    await usable(thief.page, "portal-ended")


async def test_money_and_dates_are_in_the_readers_way(customer: Come) -> None:
    acme = await customer("acme", locale="de-DE")
    main = acme.page.get_by_role("main")
    await expect(main).to_contain_text("29,00\u00a0$")
    await expect(main).to_contain_text("01.04.2026")


async def _card_saved(visitor: Visitor, label: str) -> None:
    """On the provider's page, from the page of the payment method and back to it."""
    page = visitor.page
    await page.get_by_role("link", name="Payment method").click()
    await page.get_by_role("button", name=re.compile("Change the card|Add a card")).click()
    await page.get_by_role("button", name=label).click()
    if "3-D Secure" in label:
        await page.get_by_role("button", name="Complete 3-D Secure").click()
    await page.wait_for_url("**/portal/payment-method?returned=1")


async def _newest_invoice(api: Api, customer_id: str = "acme") -> tuple[str, int]:
    newest = (await api.customer(customer_id))["invoices"]["nodes"][0]
    return newest["status"], int(newest["total"]["amountMinor"])


async def test_an_add_on_by_one_click_a_declined_card_another_card_and_3d_secure(
    customer: Come, api: Api, services: Services, sandbox_url: str
) -> None:
    await api.advance("2026-03-11T12:00:00Z")  # 21 of 31 days are left
    acme = await customer("acme")
    page, main = acme.page, acme.page.get_by_role("main")
    alert = page.get_by_role("alert").filter(has_text=re.compile("."))

    await page.get_by_role("link", name="Add-ons").click()
    analytics = page.get_by_role("region", name="Advanced Analytics")
    await expect(analytics).to_contain_text("Turn data into decisions")
    await expect(analytics).to_contain_text("Invoice of Apr 1, 2026$229.00")
    await analytics.get_by_role("button", name="Buy · $135.48 now").dblclick()
    await expect(main).to_contain_text("Advanced Analytics is yours.")
    await expect(page.locator("#said")).to_have_text("Advanced Analytics is yours.")
    assert await _newest_invoice(api) == ("paid", 13548)
    assert len((await api.customer("acme"))["invoices"]["nodes"]) == 2
    assert (await api.access("acme", "dashboards"))["allowed"]
    growth = page.get_by_role("region", name="Growth Pack")
    await expect(growth).to_contain_text("$195.50 a month")
    await usable(page, "portal-add-ons")

    lost: list[int] = []

    async def cut(route: Route) -> None:
        """The first commit arrives, and its answer does not."""
        if "portal.Commit" in (route.request.post_data or "") and not lost:
            lost.append((await route.fetch()).status)
            await route.abort()
        else:
            await route.fallback()

    await page.route("**/portal/graphql", cut)
    landing = page.get_by_role("region", name="Landing Pages")
    await landing.scroll_into_view_if_needed()
    await landing.get_by_role("button", name="Buy · $33.87 now").click()
    await expect(alert).to_contain_text("The service cannot be reached.")
    await landing.get_by_role("button", name="Buy · $33.87 now").click()
    await expect(main).to_contain_text("Landing Pages is yours.")
    totals = [i["total"]["amountMinor"] for i in (await api.customer("acme"))["invoices"]["nodes"]]
    assert (lost, totals) == ([200], ["3387", "13548", "2900"]), "paid once"
    await page.unroute("**/portal/graphql", cut)

    await _card_saved(acme, "Card that can be saved and then fails")
    await deliver(api, services, sandbox_url)
    await expect(main).to_contain_text("Saved: visa •••• 0341")
    await usable(page, "portal-payment-method")
    before = await api.customer("acme")
    await acme.open("/portal/add-ons/workflow-automation")
    await page.get_by_role("button", name="Buy · $67.74 now").click()
    await expect(alert).to_contain_text("Your card was declined. Nothing was changed.")
    await expect(page.get_by_role("button", name="Buy · $67.74 now")).to_be_enabled()
    after = await api.customer("acme")
    assert after["subscriptions"] == before["subscriptions"]
    assert not (await api.access("acme", "workflows"))["allowed"]
    await usable(page, "portal-declined")

    await alert.get_by_role("link", name="Use another card").click()
    await _card_saved(acme, "Card that needs 3-D Secure")
    await deliver(api, services, sandbox_url)
    await expect(main).to_contain_text("Saved: visa •••• 3184")
    await acme.open("/portal/add-ons/workflow-automation")
    await page.get_by_role("button", name="Buy · $67.74 now").click()
    heading = page.get_by_role("heading", level=1)
    await expect(heading).to_have_text("Your bank asks you to confirm")
    await usable(page, "portal-3d-secure")
    async with page.expect_popup() as opened:
        await page.get_by_role("link", name="Confirm at your bank").click()
    bank = await opened.value
    await bank.get_by_role("button", name="Complete 3-D Secure").click()
    await bank.get_by_text("Paid. Thank you.").wait_for()
    assert not (await api.access("acme", "workflows"))["allowed"]
    await deliver(api, services, sandbox_url)
    await expect(heading).to_have_text("Done")
    assert (await api.access("acme", "workflows"))["allowed"]
    assert await _newest_invoice(api) == ("paid", 6774)


async def test_a_locked_feature_to_yes_a_trial_to_paid_and_plans_up_down_and_out(
    customer: Come, api: Api
) -> None:
    await api.advance("2026-03-11T12:00:00Z")
    acme = await customer("acme")
    page, main = acme.page, acme.page.get_by_role("main")
    dialog = page.get_by_role("dialog")

    await acme.open("/portal/features/workflows")
    await expect(main).to_contain_text("Nothing that you hold includes it.")
    await usable(page, "portal-locked-feature")
    await page.get_by_role("button", name="Unlock for $67.74").click()
    await expect(main).to_contain_text("You can use this now")
    assert await _newest_invoice(api) == ("paid", 6774)

    await acme.open("/portal/features/dashboards")
    await page.get_by_role("button", name="Try it free for 14 days").click()
    await expect(main).to_contain_text("You can use this now")
    await page.get_by_role("link", name="Trials").click()
    await expect(main).to_contain_text("14 days left")
    await expect(main).to_contain_text("Week 1 · now")
    await usable(page, "portal-trials")
    await page.get_by_role("button", name="Buy now").click()
    await expect(dialog).to_contain_text("Takes effect at once")
    await usable(page, "portal-convert")
    await dialog.get_by_role("button", name="Buy · $135.48 now").click()
    await expect(main).to_contain_text("Advanced Analytics is yours.")
    assert await _newest_invoice(api) == ("paid", 13548)

    await page.get_by_role("link", name="Plans", exact=True).click()
    await page.get_by_text("Yearly").click()
    await expect(main).to_contain_text("$990.00 a year")
    await page.get_by_text("Monthly", exact=True).click()
    await usable(page, "portal-plans")
    await page.get_by_role("button", name="Upgrade to Professional").click()
    await expect(dialog).to_contain_text("Users: 5 → 25")
    marketing = [{"id": "marketing-automation"}]
    await api.change("by-a-colleague", customerId="acme", bundles=marketing)
    await dialog.get_by_role("button", name="Confirm · $47.41 now").click()
    await expect(dialog).to_contain_text("Something has changed since this price was shown")
    await usable(page, "portal-stale-quote")
    due = dialog.locator(".sum")
    await expect(due).to_have_text("$47.41")  # (99 - 29) × 21 ÷ 31, line by line
    await dialog.get_by_role("button", name="Confirm · $47.41 now").click()
    await expect(main).to_contain_text("You are on Professional now.")
    assert await _newest_invoice(api) == ("paid", 4741)

    await page.get_by_role("link", name="Change plan").click()
    await page.get_by_role("button", name="Move to Starter").click()
    await expect(dialog).to_contain_text("You lose on Apr 1, 2026")
    await expect(dialog).to_contain_text("Users: 25 → 5")
    await usable(page, "portal-downgrade")
    await dialog.get_by_role("button", name="Move to Starter").click()
    await expect(main).to_contain_text("Until then you can take it back here.")
    [held] = (await api.customer("acme"))["subscriptions"]
    assert len(held["scheduledChanges"]) == 1
    await usable(page, "portal-overview")
    await page.get_by_role("button", name="Cancel this change").click()
    await expect(main).to_contain_text("everything stays as it is")
    [held] = (await api.customer("acme"))["subscriptions"]
    assert (held["scheduledChanges"], held["plan"]) == ([], {"versionId": "professional@1"})

    await page.get_by_role("link", name="Invoices").click()
    await page.locator("summary").first.click()
    await expect(main).to_contain_text("Unused time on Starter")
    await page.locator("summary").nth(1).click()
    await expect(page.get_by_role("list", name="Of which")).to_contain_text("Lead Scoring")
    await usable(page, "portal-invoices")

    await acme.open("/portal/cancel/workspace")
    await expect(main).to_contain_text("Single sign-on")
    await usable(page, "portal-cancel")
    await page.get_by_role("button", name="Cancel Workspace").click()
    await expect(main).to_contain_text("It ends on Apr 1, 2026, and is not renewed.")
    assert (await api.customer("acme"))["subscriptions"][0]["cancelAt"]
    await page.get_by_role("button", name="Keep it").click()
    await expect(main).to_contain_text("it goes on as before")
    assert (await api.customer("acme"))["subscriptions"][0]["cancelAt"] is None

    await page.get_by_role("link", name="Change plan").click()
    await page.get_by_role("button", name="Ask for Enterprise").click()
    await expect(dialog).to_contain_text("sold by sales, who tell you its price")
    await expect(dialog).not_to_contain_text("$0.00")
    await dialog.get_by_role("button", name="Ask sales for it").click()
    heading = page.get_by_role("heading", level=1)
    await expect(heading).to_have_text("Waiting for sales")
    await page.get_by_role("button", name="Give up this change").click()
    await expect(main).to_contain_text("The change is given up")


async def test_a_first_plan_is_bought_by_checkout_and_it_is_small_to_load(
    visitor: Come, api: Api, services: Services, sandbox_url: str, origin: str
) -> None:
    await api.create_customer("initech", None)
    initech = await visitor(viewport=PHONE)
    page, main = initech.page, initech.page.get_by_role("main")
    loaded: list[Request] = []
    page.on("requestfinished", lambda request: loaded.append(request))  # noqa: PLW0108 (a method takes no mark)
    await initech.open(await portal_link(origin, api, "initech"))
    await page.get_by_role("link", name="See the plans").click()
    await expect(main).to_contain_text("$29.00 a month")
    sizes = [await request.sizes() for request in loaded]
    assert sum(s["responseHeadersSize"] + s["responseBodySize"] for s in sizes) < 100_000

    await page.get_by_role("link", name="Help Desk").click()
    await page.get_by_label("Agents to begin with").fill("12")
    await page.get_by_role("button", name="Choose Help Desk").click()
    confirm = page.get_by_role("dialog").get_by_role("button", name="Confirm")
    await expect(confirm).to_contain_text("$144.00 now")  # all 12 at the rate of the second tier
    await usable(page, "portal-first-plan")
    await confirm.click()
    await page.get_by_role("button", name="Visa that works").click()
    heading = page.get_by_role("heading", level=1)
    await expect(heading).to_have_text("A payment method is needed")
    await usable(page, "portal-checkout")
    await deliver(api, services, sandbox_url)
    await expect(heading).to_have_text("Done")
    assert await _newest_invoice(api, "initech") == ("paid", 14400)


async def test_what_is_overdue_is_paid_here_and_who_may_only_read_finds_nothing_to_press(
    customer: Come, visitor: Come, api: Api, services: Services, sandbox_url: str, origin: str
) -> None:
    await api.create_customer("globex", "pm_card_visa_declinesAtRenewal")
    await api.change("globex", customerId="globex", planId="starter")
    await api.change("desk", customerId="globex", planId="help-desk-team")
    await api.advance("2026-04-02T12:00:00Z")
    await deliver(api, services, sandbox_url)
    reader = await visitor(viewport=PHONE)
    link = await portal_link(origin, api, "globex", "READ")
    await reader.open(link.replace("/portal#", "/portal/invoices#"))  # straight to a page
    await expect(reader.page.get_by_role("heading", level=1)).to_have_text("Invoices")
    for path in (
        "",
        "plans",
        "add-ons/workflow-automation",
        "trials",
        "invoices",
        "cancel/workspace",
    ):
        await reader.open(f"/portal/{path}")
        await expect(reader.page.get_by_role("main").get_by_role("button")).to_have_count(0)

    globex = await customer("globex")
    page, main = globex.page, globex.page.get_by_role("main")
    overdue = page.get_by_role("region", name="Workspace: the last payment failed")
    await expect(overdue).to_contain_text("Pay $29.00")
    await expect(overdue).to_contain_text("until Apr 15, 2026")
    await usable(page, "portal-overdue")
    await _card_saved(globex, "Mastercard that works")
    await deliver(api, services, sandbox_url)
    await expect(main).to_contain_text("Saved: mastercard")
    await page.get_by_role("button", name="Pay $29.00").click()
    await expect(main).to_contain_text("$29.00 paid. Thank you.")
