"""A real browser before the real service: what people see, and whether everybody can use it."""

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.async_api import Browser, BrowserContext, Page, async_playwright

from entitlements.audit.ledger import Actor
from entitlements.server import keys
from entitlements.services import Services
from tests.api import Api
from tests.serving import serving

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
AXE = Path(__file__).parent.parent / "node" / "node_modules" / "axe-core" / "axe.min.js"
ARTIFACTS = Path(__file__).parent / "artifacts"
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 800}
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update"
).split()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if CHROMIUM is None:
        skip = pytest.mark.skip(reason="needs a chromium or google-chrome on the PATH")
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(skip)


@pytest.fixture
def database_url(sqlite_template: Path, tmp_path: Path) -> str:
    """The database makes no difference to what is seen."""
    path = shutil.copy(sqlite_template, tmp_path / "entitlements.db")
    return f"sqlite+aiosqlite:///{path}"


@pytest.fixture
async def origin(services: Services, api: Api, example: Any) -> AsyncIterator[str]:
    """The service over TCP, with the example catalog and `acme` on the starter plan."""
    await api.create_customer("acme")
    await api.change("start", customerId="acme", planId="starter")

    async with serving(services) as address:
        yield f"http://{address}"


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield launched
        await launched.close()


@dataclass
class Visitor:
    """Somebody with a browser of their own. What went wrong in it fails the test at its end."""

    origin: str
    context: BrowserContext
    page: Page
    complaints: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)

    async def open(self, path: str) -> None:
        await self.page.goto(path if path.startswith("http") else f"{self.origin}{path}")
        await self.settled()

    async def settled(self) -> None:
        """Until the page is there that the address names."""
        await self.page.locator("main:not([aria-busy]) h1").wait_for()


Come = Callable[..., Awaitable[Visitor]]
"""Makes a visitor, with Playwright's options of a browser context."""


@pytest.fixture
async def visitor(browser: Browser, origin: str) -> AsyncIterator[Come]:
    """Makes a visitor: `await visitor(viewport=PHONE, color_scheme="dark", locale="de-DE")`."""
    made: list[Visitor] = []

    async def make(**options: Any) -> Visitor:
        still = {"reduced_motion": "reduce"}  # else colours are looked at on their way
        usual = {"viewport": DESK, "locale": "en-US", "timezone_id": "UTC"}
        context = await browser.new_context(**(usual | still | options))
        context.set_default_timeout(15_000)
        page = await context.new_page()
        one = Visitor(origin, context, page)
        page.on("pageerror", lambda error: one.complaints.append(str(error)))
        page.on("console", lambda said: _heard(one, said.type, said.text))
        page.on("request", lambda asked: _asked(one, asked.url))
        made.append(one)
        return one

    yield make
    for one in made:
        await one.context.close()
    assert [one.complaints for one in made if one.complaints] == []
    assert [one.elsewhere for one in made if one.elsewhere] == []


def _heard(visitor: Visitor, kind: str, text: str) -> None:
    """What the browser itself says of an answer that is no success is no complaint of ours."""
    if kind == "error" and not text.startswith("Failed to load resource"):
        visitor.complaints.append(text)


def _asked(visitor: Visitor, url: str) -> None:
    """Requests go to this service; the provider's pages are gone to, and load what is theirs."""
    at = visitor.page.url
    if not at.startswith(visitor.origin):
        return
    if not url.startswith((visitor.origin, "data:", "blob:", "http://127.0.0.1:")):
        visitor.elsewhere.append(url)


async def portal_link(origin: str, api: Api, customer_id: str, *scopes: str) -> str:
    """As the customer's own back end makes one."""
    customer = await api.token(customer_id, *(scopes or ("READ", "BUY")))
    async with httpx.AsyncClient(base_url=origin) as client:
        bearer = {"Authorization": f"Bearer {customer.bearer}"}
        made = await client.post("/portal/links", headers=bearer)
    return str(made.json()["url"])


@pytest.fixture
async def customer(visitor: Come, api: Api, origin: str) -> Come:
    """Makes a visitor who came by a link: `await customer("acme", viewport=PHONE)`."""

    async def make(customer_id: str = "acme", **options: Any) -> Visitor:
        one = await visitor(**options)
        await one.open(await portal_link(origin, api, customer_id))
        return one

    return make


@pytest.fixture
async def staff(visitor: Come, services: Services) -> Come:
    """Makes a visitor who signed in to the console: `await staff("finance")`."""

    async def make(role: str = "finance", name: str | None = None, **options: Any) -> Visitor:
        _, key = await keys.create(services.database, Actor("test"), role=role, name=name or role)
        one = await visitor(**options)
        await one.open("/console")
        await one.page.get_by_label("Key or token").fill(key)
        await one.page.get_by_role("button", name="Sign in").click()
        await one.page.get_by_role("button", name="Sign out").wait_for()
        await one.settled()
        return one

    return make


# ── looked at ────────────────────────────────────────────────────────────────


async def violations(page: Page) -> list[str]:
    """What axe-core finds that some people cannot use. Skips the test without `make node`."""
    if not AXE.exists():
        pytest.skip("needs `make node`, which installs axe-core")
    await page.evaluate(AXE.read_text(encoding="utf-8"))
    found = await page.evaluate("axe.run()")
    return [
        f"{rule['id']}: {node['target']} {node['failureSummary']}"
        for rule in found["violations"]
        for node in rule["nodes"]
    ]


async def seen(page: Page, name: str) -> None:
    """Screenshots of a page: light and dark, and as wide as a phone."""
    ARTIFACTS.mkdir(exist_ok=True)
    for scheme, viewport in (("light", DESK), ("dark", DESK), ("light", PHONE)):
        await page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        await page.set_viewport_size(viewport)  # type: ignore[arg-type]
        width = "phone" if viewport is PHONE else scheme
        await page.screenshot(path=ARTIFACTS / f"{name}-{width}.png", full_page=True)
    await page.set_viewport_size(DESK)  # type: ignore[arg-type]


async def usable(page: Page, name: str) -> None:
    """No violation in light or dark, nothing wider than a phone; and screenshots to look at."""
    for scheme in ("light", "dark"):
        await page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        assert await violations(page) == [], scheme
    await page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    width = await page.evaluate("document.documentElement.scrollWidth")
    assert width <= PHONE["width"], f"{name} is {width} wide"
    await seen(page, name)
