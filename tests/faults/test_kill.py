"""`entitlements serve` is killed between the provider's effect and our commit: once it is back and
its lease has run out, all is there once, paid once. Every other point: `test_every_statement`."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from entitlements.catalog import examples
from entitlements.catalog.document import read
from entitlements.server.demo import Server, listen, server_config
from tests.api import Api
from tests.conftest import ADMIN_KEY
from tests.events import WEBHOOK_SECRET

STARTS_WITHIN_SECONDS = 60


class Killer:
    """Stands before the provider: lets a request take effect, and kills instead of answering."""

    def __init__(self, provider_url: str) -> None:
        self._provider_url = provider_url
        self.victim: asyncio.subprocess.Process | None = None
        self.deadly: tuple[str, str] | None = None  # method, how the path begins
        self.killed = False

    async def __call__(self, request: Request) -> Response:
        async with httpx.AsyncClient(base_url=self._provider_url, timeout=30) as client:
            headers = {k: v for k, v in request.headers.items() if k not in ("host",)}
            answer = await client.request(
                request.method,
                request.url.path + (f"?{request.url.query}" if request.url.query else ""),
                content=await request.body(),
                headers=headers,
            )
        method, path = self.deadly or ("", "")
        if request.method == method and request.url.path.startswith(path) and self.victim:
            self.deadly = None
            self.killed = True
            self.victim.send_signal(signal.SIGKILL)
            await self.victim.wait()
        kept = {k: v for k, v in answer.headers.items() if k not in ("content-length", "date")}
        return Response(answer.content, answer.status_code, kept)


@asynccontextmanager
async def killer(provider_url: str) -> AsyncIterator[tuple[Killer, str]]:
    standing = Killer(provider_url)
    everything = [Route("/{path:path}", standing.__call__, methods=["GET", "POST", "DELETE"])]
    bound = listen("127.0.0.1", 0)
    server = Server(server_config(Starlette(routes=everything)))
    task = asyncio.create_task(server.serve(sockets=[bound]))
    try:
        yield standing, f"http://127.0.0.1:{bound.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


@asynccontextmanager
async def serving(
    database_url: str, provider_url: str, *arguments: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, Api]]:
    """`entitlements serve` as an operator runs it, in a process of its own."""
    with contextlib.closing(listen("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = os.environ | {
        "ENTITLEMENTS_DATABASE_URL": database_url,
        "ENTITLEMENTS_STRIPE_API_KEY": "sk_test_for_tests",
        "ENTITLEMENTS_STRIPE_API_BASE": provider_url,
        "ENTITLEMENTS_STRIPE_WEBHOOK_SECRET": WEBHOOK_SECRET,
        "ENTITLEMENTS_ADMIN_KEY": ADMIN_KEY,
        "ENTITLEMENTS_SANDBOX": "true",
        "ENTITLEMENTS_REQUIRE_SECOND_APPROVER": "false",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "entitlements", "serve", "--port", str(port), *arguments,
        env=environment,
    )  # fmt: skip
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        try:
            await _until_ready(client)
            yield process, Api(client, ADMIN_KEY)
        finally:
            if process.returncode is None:
                process.terminate()
            await asyncio.wait_for(process.wait(), 15)


async def _until_ready(client: httpx.AsyncClient) -> None:
    for _ in range(STARTS_WITHIN_SECONDS * 20):
        with contextlib.suppress(httpx.HTTPError):
            if (await client.get("/readyz")).status_code == 200:
                return
        await asyncio.sleep(0.05)
    raise TimeoutError("it did not start")


async def publish_example(api: Api) -> None:
    proposed = await api.ask(
        """mutation ($document: JSON!) {
             proposeCatalog(input: {document: $document, reason: "for a test"}) {
               ... on CatalogProposal { id } ... on UserError { message } } }""",
        document=read(examples.text("workspace")).document,
    )
    approved = await api.ask(
        """mutation ($id: ID!) { approveProposal(id: $id) {
             ... on CatalogProposal { status } ... on UserError { message } } }""",
        id=proposed["proposeCatalog"]["id"],
    )
    assert approved["approveProposal"] == {"status": "PUBLISHED"}


async def committed(api: Api, token: str, key: str) -> Any:
    """Ask with the same key until it is done: the lease of a dead process has to run out first."""
    answer = await api.commit(token, key)
    for _ in range(200):
        if answer["__typename"] == "ChangeCommitted":
            break
        await asyncio.sleep(0.5)
        answer = await api.commit(token, key)
    return answer


@pytest.mark.parametrize(
    ("database_url", "deadly", "buy"),
    [
        ("sqlite", ("POST", "/v1/subscriptions/sub_"), "add-on"),  # the update of a subscription
        ("postgresql", ("POST", "/v1/invoices/in_"), "plan"),  # the first payment
    ],
    indirect=["database_url"],
)
async def test_killed_between_the_providers_effect_and_our_commit(
    database_url: str, sandbox_url: str, deadly: tuple[str, str], buy: str
) -> None:
    async with killer(sandbox_url) as (standing, provider_url):
        change: Any = {"customerId": "acme", "planId": "starter"}
        async with serving(database_url, provider_url) as (process, api):
            await publish_example(api)
            await api.create_customer("acme")
            if buy == "add-on":
                assert (await api.change("start", **change))["__typename"] == "ChangeCommitted"
                change = {"customerId": "acme", "addOns": [{"id": "advanced-analytics"}]}
            quote = await api.preview(**change)
            standing.victim, standing.deadly = process, deadly
            with contextlib.suppress(httpx.HTTPError):
                await api.commit(quote["token"], "deadly")
            assert standing.killed
            await process.wait()

        async with serving(database_url, provider_url) as (_, api):
            answer = await committed(api, quote["token"], "deadly")
            assert answer["change"]["status"] == "APPLIED", answer

            customer = await api.customer("acme")
            wanted = 2 if buy == "add-on" else 1
            assert len(customer["subscriptions"][0]["items"]) == wanted
            paid = [i for i in customer["invoices"]["nodes"] if i["status"] == "paid"]
            assert len(paid) == len(customer["invoices"]["nodes"]) == wanted
            verified = await api.ask("{ verifyAudit { ok } }")
            assert verified == {"verifyAudit": {"ok": True}}
            assert await charged(sandbox_url) == [int(i["amountPaid"]["amountMinor"]) for i in paid]


async def charged(sandbox_url: str) -> list[int]:
    """What the provider has charged cards, the newest first."""
    async with httpx.AsyncClient(auth=("sk_test_x", "")) as client:
        found = (await client.get(f"{sandbox_url}/v1/invoices?limit=100&status=paid")).json()
    return [invoice["amount_paid"] for invoice in found["data"]]
