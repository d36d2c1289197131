"""The edge of the service: what is no proper request gets a clear refusal, and nothing breaks."""

import asyncio
import contextlib
import json
import socket
from typing import Any

import httpx
import pytest

from entitlements.server.demo import listen
from tests.api import Api
from tests.conftest import ADMIN_KEY

JSON_TYPE = "application/json"
GRAPHQL_TYPE = "application/graphql-response+json"
VIEWER = json.dumps({"query": "{ viewer { role } }"}).encode()


async def post(api: Api, body: bytes, content_type: str = JSON_TYPE, **headers: str) -> Any:
    return await api.client.post(
        "/graphql",
        content=body,
        headers={"Authorization": f"Bearer {ADMIN_KEY}", "Content-Type": content_type} | headers,
    )


def code_of(response: httpx.Response) -> str:
    """The code of an answer that has one error, and no data."""
    body = response.json()
    assert body.keys() == {"errors"}, body
    [error] = body["errors"]
    return str(error["extensions"]["code"])


async def test_what_is_not_served_is_said_as_a_problem(api: Api) -> None:
    for method, path, status, code in (
        ("GET", "/webhooks/stripe", 405, "BAD_USER_INPUT"),
        ("POST", "/healthz", 405, "BAD_USER_INPUT"),
        ("GET", "/nowhere", 404, "NOT_FOUND"),
        ("POST", "/nowhere", 404, "NOT_FOUND"),
    ):
        body = VIEWER if method == "POST" else None
        response = await api.client.request(method, path, content=body)
        problem = response.json()
        assert (response.status_code, problem["code"]) == (status, code), (method, path)
        assert problem.keys() == {"type", "title", "status", "detail", "code"}
        assert response.headers["content-type"] == "application/problem+json"
        assert ("allow" in response.headers) == (status == 405)


async def test_queries_come_by_get_too_and_nothing_else_does(api: Api) -> None:
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}

    async def get(accept: str = JSON_TYPE, **parameters: str) -> httpx.Response:
        return await api.client.get(
            "/graphql", params=parameters, headers=headers | {"Accept": accept}
        )

    check = "query ($id: ID!) { customer(id: $id) { id } }"
    answer = await get(query=check, variables='{"id": "no-one"}', operationName="")
    assert answer.json() == {"data": {"customer": None}}
    unknown = await get(documentId="nothing")
    assert (unknown.status_code, code_of(unknown)) == (400, "PERSISTED_DOCUMENT_NOT_FOUND")

    create = 'mutation { createCustomer(input: {id: "x"}) { __typename } }'
    for accept in (JSON_TYPE, GRAPHQL_TYPE, "text/event-stream"):
        refused = await get(accept, query=create)
        assert (refused.status_code, code_of(refused)) == (405, "BAD_USER_INPUT"), accept
        assert refused.headers["allow"] == "POST"
    for parameters in (
        {},
        {"query": check, "variables": "{"},
        {"query": check, "variables": "[]"},
        {"query": check, "variables": '{"id": "\\u0000"}'},
        {"query": "{ viewer { role } } # \0"},
    ):
        response = await get(**parameters)
        assert (response.status_code, code_of(response)) == (400, "BAD_USER_INPUT"), parameters
    put = await api.client.put("/graphql", headers=headers)
    assert (put.status_code, code_of(put)) == (405, "BAD_USER_INPUT")
    assert set(put.headers["allow"].split(", ")) >= {"GET", "POST"}


async def test_who_takes_no_answer_of_ours_gets_406(api: Api) -> None:
    for accept in ("text/html", "application/xml, text/*", "application/json;q=0"):
        response = await post(api, VIEWER, Accept=accept)
        assert (response.status_code, code_of(response)) == (406, "BAD_USER_INPUT"), accept


NO_REQUESTS = [
    (VIEWER, "text/plain", 415),
    (VIEWER, "", 415),
    (VIEWER, "multipart/form-data; boundary=x", 415),
    (b"query=%7Bviewer%7Brole%7D%7D", "application/x-www-form-urlencoded", 415),
    (b"", JSON_TYPE, 400),
    (b"{", JSON_TYPE, 400),
    (b"null", JSON_TYPE, 400),
    (b"5", JSON_TYPE, 400),
    (b"[" + VIEWER + b"]", JSON_TYPE, 400),
    (b"[" * 50_000, JSON_TYPE, 400),
    (b'{"query": "\xff"}', JSON_TYPE, 400),
    (VIEWER.decode().encode("utf-16"), JSON_TYPE, 400),
    (b'{"query": 5}', JSON_TYPE, 400),
    (b'{"variables": {}}', JSON_TYPE, 400),
    (b'{"query": "{ viewer { role } }", "variables": []}', JSON_TYPE, 400),
    (b'{"query": "{ viewer { role } }", "operationName": 5}', JSON_TYPE, 400),
    (b'{"query": "{ viewer { role } }", "operationName": "Other"}', JSON_TYPE, 400),
    (b'{"query": "{ viewer { role } }", "variables": {"n": NaN}}', JSON_TYPE, 400),
    (b'{"query": "{ viewer { role } }", "n": ' + b"9" * 5000 + b"}", JSON_TYPE, 400),
    (b'{"query": "' + b" " * 100_000 + b'"}', JSON_TYPE, 413),
]


async def test_what_is_no_request_is_refused_and_breaks_nothing(api: Api) -> None:
    for body, content_type, status in NO_REQUESTS:
        response = await post(api, body, content_type)
        assert (response.status_code, code_of(response)) == (status, "BAD_USER_INPUT"), body[:80]


async def test_a_request_may_name_its_charset(api: Api) -> None:
    response = await post(api, VIEWER, "application/json; charset=utf-8")
    assert response.json() == {"data": {"viewer": {"role": "admin"}}}


REFUSED_DOCUMENTS = [
    "{ customer(id: $id) { id } }",
    "{ customer(id: ",
    "{ nothing }",
    "query ($n: BigInt!) { access(customerId: 1, featureId: 1, quantity: $n) { allowed } }",
]


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("", JSON_TYPE),
        ("*/*", JSON_TYPE),
        (JSON_TYPE, JSON_TYPE),
        (GRAPHQL_TYPE, GRAPHQL_TYPE),
        (f"{GRAPHQL_TYPE}; charset=utf-8, {JSON_TYPE};q=0.9", GRAPHQL_TYPE),
        (f"{JSON_TYPE}, {GRAPHQL_TYPE};q=0.9", JSON_TYPE),
    ],
)
async def test_a_refused_document_is_400_only_under_graphqls_own_media_type(
    api: Api, accept: str, media_type: str
) -> None:
    status = 400 if media_type == GRAPHQL_TYPE else 200
    for said in REFUSED_DOCUMENTS:
        response = await post(api, json.dumps({"query": said}).encode(), Accept=accept)
        assert (response.status_code, code_of(response)) == (status, "BAD_USER_INPUT"), said
        assert response.headers["content-type"] == media_type


async def test_an_error_of_execution_is_200_with_data_under_either_media_type(api: Api) -> None:
    body = json.dumps({"query": '{ customer(id: "no-one") { id } sandboxClock { now } }'})
    failing = json.dumps({"query": "{ access(featureId: 1) { allowed } }"})
    for accept in (JSON_TYPE, GRAPHQL_TYPE):
        good = await post(api, body.encode(), Accept=accept)
        assert (good.status_code, good.headers["content-type"]) == (200, accept)
        assert good.json()["data"]["customer"] is None
        failed = await post(api, failing.encode(), Accept=accept)
        assert (failed.status_code, failed.headers["content-type"]) == (200, accept)
        assert failed.json()["data"] is None
        assert failed.json()["errors"][0]["extensions"]["code"] == "BAD_USER_INPUT"


CREATE = """mutation ($id: ID!, $name: String) {
  createCustomer(input: {id: $id, name: $name}) { __typename } }"""


NO_TEXTS: list[dict[str, Any]] = [
    {"query": CREATE, "variables": {"id": "a\0b"}},
    {"query": CREATE, "variables": {"id": "a", "name": "\0"}},
    {"query": CREATE, "variables": {"id": "a", "name": "\ud800"}},
    {"query": CREATE, "variables": {"id": "a", "name\0": "x"}},
    {"query": 'mutation { revokeCustomerTokens(customerId: "a\\u0000") { __typename } }'},
    {"query": 'mutation { revokeCustomerTokens(customerId: "a\\u{0}") { __typename } }'},
    {"query": '{ customers(search: "\\u0000") { nodes { id } } }'},
]


async def test_what_no_database_keeps_as_text_is_refused_at_the_edge(api: Api) -> None:
    for body in NO_TEXTS:
        response = await post(api, json.dumps(body).encode())
        assert (response.status_code, code_of(response)) == (400, "BAD_USER_INPUT"), body


async def test_text_of_every_script_is_kept(api: Api, example: Any) -> None:
    name = "Žofie & 株式会社 🧾 \\"
    made = await api.ask(CREATE, id="a", name=name)
    assert made["createCustomer"]["__typename"] == "CustomerPayload"
    found = await api.ask('{ customer(id: "a") { name } }')
    assert found["customer"]["name"] == name


async def test_an_answer_is_sent_at_once_however_the_socket_was_bound() -> None:
    with contextlib.closing(listen("127.0.0.1", 0)) as bound:
        host, port = bound.getsockname()
        seen: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def look(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connection = writer.get_extra_info("socket")
            seen.set_result(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        async with await asyncio.start_server(look, sock=bound):
            _, writer = await asyncio.open_connection(host, port)
            assert await seen
            writer.close()
