"""What Lighthouse says of the pages: performance, accessibility, best practices, of 100 each.

It looks at the demo, in a browser that has come by a customer's link and signed in as finance, as a
phone on a slow network (its own default). `make lighthouse` prints a table, and ends with 1 where a
score is below 95. It needs a chromium, npm and node, and brings Lighthouse by itself.
"""

import asyncio
import json
import re
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from playwright.async_api import Page, async_playwright
from rich.console import Console
from rich.table import Table

from entitlements.server.demo import listen
from tests.portal.conftest import CHROMIUM, FLAGS

out = Console(width=110)

HERE = Path(__file__).parent
LEAST = 95
CATEGORIES = ("performance", "accessibility", "best-practices")
PAGES = (
    "/portal",
    "/portal/plans",
    "/portal/add-ons",
    "/portal/invoices",
    "/console",
    "/console/prices",
    "/console/ledger",
    "/console/revenue",
)


@asynccontextmanager
async def demo(directory: str) -> AsyncIterator[dict[str, str]]:
    """What it prints, by the first words of a line: addresses and keys."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "entitlements", "demo", "--port", "0", "--data", directory),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    said: dict[str, str] = {}
    while "Try it" not in said:
        line = (await process.stdout.readline()).decode()
        found = re.match(r"(\S+(?: \S+)*)\s{2,}(\S+)|(Try it)", line)
        if found:
            said[found[1] or found[3]] = found[2] or ""
    try:
        yield said
    finally:
        process.terminate()
        await process.wait()


async def come_in(page: Page, said: dict[str, str]) -> None:
    await page.goto(said["Portal"])
    await page.locator("main:not([aria-busy]) h1").wait_for()
    await page.goto(said["Console"])
    await page.get_by_label("Key or token").fill(said["finance key"])
    await page.get_by_role("button", name="Sign in").click()
    await page.get_by_role("button", name="Sign out").wait_for()


async def scores(url: str, port: int) -> dict[str, int]:
    process = await asyncio.create_subprocess_exec(
        *(HERE / "node_modules" / ".bin" / "lighthouse", url, f"--port={port}", "--quiet"),
        *("--output=json", "--disable-storage-reset", f"--only-categories={','.join(CATEGORIES)}"),
        stdout=asyncio.subprocess.PIPE,
    )
    told, _ = await process.communicate()
    found = json.loads(told)["categories"]
    return {name: round(100 * (found[name]["score"] or 0)) for name in CATEGORIES}


async def main() -> int:
    if CHROMIUM is None or not shutil.which("npm"):
        out.print("left out: it needs a chromium, npm and node", style="red")
        return 0
    npm = await asyncio.create_subprocess_exec("npm", "install", "--silent", cwd=HERE)
    if await npm.wait():
        out.print("left out: npm cannot bring Lighthouse", style="red")
        return 0
    with listen("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    table = Table("page", *CATEGORIES)
    least = 100
    with tempfile.TemporaryDirectory() as name:
        async with demo(f"{name}/data") as said, async_playwright() as playwright:
            browser = await playwright.chromium.launch_persistent_context(
                f"{name}/profile",
                executable_path=CHROMIUM,
                args=[*FLAGS, f"--remote-debugging-port={port}"],
            )
            await come_in(await browser.new_page(), said)
            origin = said["GraphQL"].removesuffix("/graphql")
            for path in PAGES:
                found = await scores(f"{origin}{path}", port)
                table.add_row(path, *(str(found[category]) for category in CATEGORIES))
                least = min(least, *found.values())
            await browser.close()
    out.print(table)
    return 0 if least >= LEAST else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
