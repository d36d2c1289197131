"""What a connection answers by itself is what the application would answer, in HTTP too."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import func, select

from entitlements.access.tables import DenialRow
from entitlements.server.front import Front
from entitlements.server.protocol import Protocol
from entitlements.services import Services
from entitlements.settings import Settings
from tests.api import Api

CHECK = '{ access(featureId: "dashboards") { allowed reason revision } }'


@pytest.fixture
def database_url(sqlite_database_url: str) -> str:
    return sqlite_database_url


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each request that came to the front of a connection, whether it was answered there."""
    seen: list[bool] = []
    answer_at_once = Front.answer_at_once

    def noted(*given: Any) -> bytes | None:
        answer = answer_at_once(*given)
        seen.append(answer is not None)
        return answer

    monkeypatch.setattr(Front, "answer_at_once", noted)
    return seen


class Line:
    """One connection of somebody with a token of acme's."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, bearer: str
    ) -> None:
        self.reader = reader
        self.writer = writer
        self.bearer = bearer

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.writer.get_extra_info("peername")
        return host, port

    def request(self, query: str = CHECK, *more: str, version: str = "1.1") -> bytes:
        body = json.dumps({"query": query})
        lines = [
            f"POST /graphql HTTP/{version}",
            "Host: x",
            f"Authorization: Bearer {self.bearer}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            *more,
        ]
        return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()

    async def answer(self) -> tuple[int, dict[str, str], Any]:
        async with asyncio.timeout(10):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            body = await self.reader.readexactly(int(headers["content-length"]))
        return int(head[0].split()[1]), headers, json.loads(body)

    async def ask(self, *given: str) -> Any:
        self.writer.write(self.request(*given))
        return await self.answer()


@pytest.fixture
async def line(url: str, api: Api) -> AsyncIterator[Line]:
    """Known here already, as whoever asks again is."""
    host, _, port = url.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    found = Line(reader, writer, (await api.token("acme", "READ", "BUY")).bearer)
    for _ in range(2):
        await found.ask()
    yield found
    writer.close()


async def test_what_was_just_bought_is_there_in_the_next_answer(
    line: Line, at_once: list[bool]
) -> None:
    _, _, before = await line.ask()
    assert before["data"]["access"]["reason"] == "NOT_ENTITLED"
    buy = """mutation { purchaseAddOn(input: {addOnId: "advanced-analytics", idempotencyKey: "k"}) {
               ... on ChangeCommitted { revision } } }"""
    _, _, bought = await line.ask(buy)
    for _ in range(2):
        _, headers, after = await line.ask()
        revision = bought["data"]["purchaseAddOn"]["revision"]
        assert after["data"]["access"] == {"allowed": True, "reason": None, "revision": revision}
        assert headers["x-request-id"].startswith("req_")
        assert headers["x-content-type-options"] == "nosniff"
    assert at_once[0]
    assert at_once[-1]


async def test_answers_come_in_the_order_of_the_requests(line: Line, at_once: list[bool]) -> None:
    viewer = "{ viewer { role } }"
    asked = [CHECK, viewer, CHECK, CHECK, viewer]
    line.writer.write(b"".join(line.request(query) for query in asked))
    for query in asked:
        _, _, told = await line.answer()
        assert list(told["data"]) == (["access"] if query is CHECK else ["viewer"])
    assert at_once[0], "the first waits for nobody"
    await line.ask()
    assert at_once[-1]


async def test_a_request_may_come_in_pieces(line: Line, at_once: list[bool]) -> None:
    whole = line.request()
    for piece in (whole[:30], whole[30:-20], whole[-20:-5], whole[-5:]):
        line.writer.write(piece)
        await asyncio.sleep(0.02)
    assert (await line.answer())[0] == 200
    assert at_once == [True]


@pytest.mark.parametrize(
    ("more", "version"), [(("Connection: close",), "1.1"), ((), "1.0")], ids=["close", "1.0"]
)
async def test_the_last_answer_of_a_connection_ends_it(
    line: Line, at_once: list[bool], more: tuple[str, ...], version: str
) -> None:
    line.writer.write(line.request(CHECK, *more, version=version))
    status, headers, _ = await line.answer()
    assert (status, headers["connection"]) == (200, "close")
    assert await asyncio.wait_for(line.reader.read(), 10) == b""
    assert at_once == []


async def test_a_fault_of_ours_is_left_to_the_application(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise KeyError("ours")

    monkeypatch.setattr("graphql_schema.at_once.answered", broken)
    monkeypatch.setattr("graphql_schema.at_once.SHOWN_AT_MOST", 0)
    query = CHECK.replace("dashboards", "sso")
    for _ in range(2):
        status, _, told = await line.ask(query)
        assert (status, told["data"]["access"]["reason"]) == (200, "NOT_ENTITLED")


async def test_what_is_too_long_is_refused_by_the_application(
    line: Line, settings: Settings, at_once: list[bool]
) -> None:
    status, _, told = await line.ask(CHECK + " " * settings.request_bytes_at_most)
    assert (status, told["errors"][0]["extensions"]["code"]) == (413, "BAD_USER_INPUT")
    assert at_once == []


async def test_whoever_says_nothing_any_more_is_let_go(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    soon = property(lambda _: 0.3, lambda *_: None)
    monkeypatch.setattr(Protocol, "timeout_keep_alive", soon, raising=False)
    other = Line(*await asyncio.open_connection(*line.address), line.bearer)
    assert (await other.ask())[0] == 200
    assert await asyncio.wait_for(other.reader.read(), 3) == b""
    other.writer.close()


async def test_a_denial_counts_however_it_was_answered(
    line: Line, services: Services, at_once: list[bool]
) -> None:
    await services.signals.flush()
    for _ in range(3):
        await line.ask()
    assert at_once == [True] * 3
    before = await denials(services)
    await services.signals.flush()
    assert await denials(services) == before + 3


async def denials(services: Services) -> int:
    async with services.database.read() as session:
        return await session.scalar(select(func.sum(DenialRow.count))) or 0
