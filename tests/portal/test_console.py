"""The finance console, in a browser."""

from playwright.async_api import expect

from tests.portal.conftest import Come, usable


async def test_staff_sign_in_and_see_what_was_proposed(visitor: Come, staff: Come) -> None:
    stranger = await visitor()
    await stranger.open("/console")
    await usable(stranger.page, "console-sign-in")
    await stranger.page.get_by_label("Key or token").fill("ent_finance_wrong")
    await stranger.page.get_by_role("button", name="Sign in").click()
    await expect(stranger.page.get_by_role("alert")).to_contain_text("not a key or token of staff")

    finance = await staff("finance")
    await expect(finance.page.get_by_role("row", name="for a test")).to_contain_text("Published")
    assert await finance.page.evaluate("document.cookie") == ""
    await usable(finance.page, "console-proposals")
    await finance.page.get_by_role("button", name="Sign out").click()
    await expect(finance.page.get_by_role("heading", level=1)).to_have_text("Sign in")
