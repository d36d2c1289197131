"""The customer portal, in a browser."""

import re

from playwright.async_api import expect

from tests.api import Api
from tests.portal.conftest import Come, portal_link, usable


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
