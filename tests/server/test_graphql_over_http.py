"""GraphQL over HTTP, as its specification and other people's clients see it."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.api import Api
from tests.conftest import ADMIN_KEY

NODE = Path(__file__).parent.parent / "node"


@pytest.fixture
def database_url(sqlite_database_url: str) -> str:
    return sqlite_database_url


in_node = pytest.mark.skipif(
    shutil.which("node") is None or not (NODE / "node_modules").is_dir(),
    reason="needs Node 20 and `make node`, which installs the clients of tests/node",
)


async def run(script: str, *arguments: str) -> list[Any]:
    """What a script of tests/node says, a JSON value a line."""
    process = await asyncio.create_subprocess_exec(
        "node", str(NODE / script), *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, err.decode()
    return [json.loads(line) for line in out.decode().splitlines()]


@in_node
async def test_every_must_and_should_of_the_specification_is_met(url: str) -> None:
    *failed, total = await run("audit.mjs", f"http://{url}/graphql", ADMIN_KEY)
    assert total["audits"] > 60
    assert failed == [], json.dumps(failed, indent=1)


@in_node
async def test_a_front_end_with_urql_asks_buys_and_listens(url: str, api: Api) -> None:
    token = await api.token("acme", "READ", "BUY")
    posted, got, *rest = await run("client.mjs", url, token.bearer)
    assert posted["viewer"] == {"role": "customer", "customerId": "acme", "__typename": "Viewer"}
    assert got["viewer"]["role"] == "customer"
    [bought] = [said["purchaseAddOn"] for said in rest if "purchaseAddOn" in said]
    assert (bought["__typename"], bought["change"]["status"]) == ("ChangeCommitted", "APPLIED")
    heard = [int(s["entitlementsChanged"]["revision"]) for s in rest if "purchaseAddOn" not in s]
    assert heard[0] < heard[1]


async def test_a_python_client_with_gql_asks_buys_and_listens(url: str, api: Api) -> None:
    pytest.importorskip("gql", reason="needs the development dependencies of now: `make .venv/dev`")
    from gql import Client, gql
    from gql.transport.httpx import HTTPXAsyncTransport
    from gql.transport.websockets import WebsocketsTransport

    bearer = {"Authorization": f"Bearer {(await api.token('acme', 'READ', 'BUY')).bearer}"}
    over_http = HTTPXAsyncTransport(url=f"http://{url}/graphql", headers=bearer)
    over_socket = WebsocketsTransport(
        url=f"ws://{url}/graphql",
        init_payload={"authorization": bearer["Authorization"]},
        subprotocols=[WebsocketsTransport.GRAPHQLWS_SUBPROTOCOL],
    )
    buy = gql("""mutation ($input: PurchaseAddOnInput!) { purchaseAddOn(input: $input) {
      ... on ChangeCommitted { change { status } } } }""")
    buy.variable_values = {"input": {"addOnId": "extra-calls", "idempotencyKey": "from-python"}}
    # It reads the schema first, and holds its own documents against it.
    async with (
        Client(transport=over_http, fetch_schema_from_transport=True) as asking,
        Client(transport=over_socket) as listening,
    ):
        found = await asking.execute(gql("{ viewer { role customerId } }"))
        assert found == {"viewer": {"role": "customer", "customerId": "acme"}}
        events = listening.subscribe(gql("subscription { entitlementsChanged { revision } }"))
        before = await anext(events)
        assert await asking.execute(buy) == {"purchaseAddOn": {"change": {"status": "APPLIED"}}}
        after = await anext(events)
        await events.aclose()
    revisions = [int(event["entitlementsChanged"]["revision"]) for event in (before, after)]
    assert revisions[0] < revisions[1]
