"""One trace from the request to the provider and back, and nothing in it that somebody sent."""

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from sqlalchemy.exc import DBAPIError

from entitlements.kernel.tracing import span
from entitlements.server.app import create_app
from entitlements.server.spans import Spans, TracedApplication
from entitlements.server.tracing import traced_application
from entitlements.services import Services
from entitlements.worker import work_once
from tests.api import Api
from tests.conftest import ADMIN_KEY, on_sqlite
from tests.provider_traffic import SERVICE_KEY
from tests.serving import serving

THEIRS = "0af7651916cd43dd8448eb211c80319c"
"""The trace of whoever asks."""

Told = Callable[[], list[ReadableSpan]]


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def spans(exporter: InMemorySpanExporter) -> Iterator[Spans]:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    listening = Spans(provider)
    listening.listen()
    yield listening
    listening.close()


@pytest.fixture
async def traced(services: Services, spans: Spans) -> AsyncIterator[Api]:
    """The API, its requests traced, asked by somebody who traces."""

    @asynccontextmanager
    async def already_open() -> AsyncIterator[Services]:
        yield services

    app = create_app(already_open)
    app.state.services = services
    transport = httpx.ASGITransport(TracedApplication(app, spans))
    headers = {"traceparent": f"00-{THEIRS}-b7ad6b7169203331-01"}
    url = "http://entitlements"
    async with httpx.AsyncClient(transport=transport, base_url=url, headers=headers) as client:
        yield Api(client, ADMIN_KEY)


PURCHASE = """mutation Buy($input: PurchaseAddOnInput!) {
  purchaseAddOn(input: $input) { ... on ChangeCommitted { revision } } }"""


def said(found: ReadableSpan) -> str:
    """All that a span tells."""
    events = [(event.name, dict(event.attributes or {})) for event in found.events]
    return f"{found.name} {dict(found.attributes or {})} {events} {found.status.description}"


async def test_a_purchase_is_one_trace_and_carries_nothing_that_was_sent(
    traced: Api, api: Api, example: Any, exporter: InMemorySpanExporter
) -> None:
    await api.create_customer("ant-and-sons")
    await api.change("start", customerId="ant-and-sons", planId="starter")
    token = await traced.token("ant-and-sons", "READ", "BUY")
    exporter.clear()
    bought = {"addOnId": "extra-calls", "idempotencyKey": "a-key-of-theirs"}
    answer = await token.send(PURCHASE, input=bought)
    assert answer.json()["data"]["purchaseAddOn"]["revision"]
    found = exporter.get_finished_spans()
    by_name = {one.name: one for one in found}
    assert {format(one.context.trace_id, "032x") for one in found if one.context} == {THEIRS}
    request = by_name["purchaseAddOn"]  # names that the public makes up are not taken
    assert request.attributes is not None
    assert request.attributes["entitlements.request_id"] == answer.headers["x-request-id"]
    assert request.attributes["http.response.status_code"] == 200
    ids = {one.context.span_id: one for one in found if one.context}
    for one in found:
        if one is not request:
            assert one.parent is not None
            assert one.parent.span_id in ids, one.name
    assert {"SELECT", "INSERT", "UPDATE", "POST stripe/subscriptions"} <= by_name.keys()
    everything = "\n".join(said(one) for one in found)
    for secret in ("ant-and-sons", "a-key-of-theirs", token.bearer, ADMIN_KEY, SERVICE_KEY, "cus_"):
        assert secret not in everything


@on_sqlite
async def test_what_comes_in_a_url_is_not_told_and_machines_that_ask_are_not_either(
    traced: Api, example: Any, exporter: InMemorySpanExporter
) -> None:
    query = "query Look($id: ID) { customer(id: $id) { id } }"
    url = httpx.URL("/graphql", params={"query": query, "variables": '{"id": "a-secret-name"}'})
    bearer = {"Authorization": f"Bearer {ADMIN_KEY}"}
    await traced.client.get(url, headers=bearer)
    await traced.client.get("/no/such/a-secret-name")
    await traced.client.post("/webhooks/stripe", content="{}")
    await traced.client.get("/healthz")
    names = [one.name for one in exporter.get_finished_spans() if one.kind is SpanKind.SERVER]
    assert names == ["Look", "GET", "POST /webhooks/stripe"]
    assert "a-secret-name" not in "\n".join(said(one) for one in exporter.get_finished_spans())


@on_sqlite
async def test_the_worker_tells_what_it_does_and_not_that_it_looked(
    api: Api, services: Services, spans: Spans, example: Any, exporter: InMemorySpanExporter
) -> None:
    await api.create_customer("ant")
    while await work_once(services):
        pass
    exporter.clear()
    await work_once(services)
    assert exporter.get_finished_spans() == ()
    await api.change("start", customerId="ant", planId="professional")
    await api.change("later", customerId="ant", planId="starter")
    await api.advance("2026-04-02T00:00:00Z")
    while await work_once(services):
        pass
    assert "due.apply" in {one.name for one in exporter.get_finished_spans()}


@on_sqlite
async def test_a_check_that_memory_could_answer_at_once_has_its_span_too(
    api: Api,
    services: Services,
    spans: Spans,
    example: Any,
    exporter: InMemorySpanExporter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await api.create_customer("ant")
    monkeypatch.setattr(spans, "close", lambda: None)  # the fixture does
    async with (
        serving(services, around=lambda app: TracedApplication(app, spans)) as address,
        httpx.AsyncClient(base_url=f"http://{address}") as client,
    ):
        for _ in range(3):
            await Api(client, ADMIN_KEY).access("ant", "sso")
    names = [one.name for one in exporter.get_finished_spans() if one.kind is SpanKind.SERVER]
    assert names.count("access") == 3


async def test_what_fails_is_told_by_its_kind_alone(
    services: Services, spans: Spans, exporter: InMemorySpanExporter
) -> None:
    async def look() -> None:
        with span("work"):
            async with services.database.read() as session:
                connection = await session.connection()
                await connection.exec_driver_sql("SELECT 1 FROM no_such_table")

    with pytest.raises(DBAPIError, match="no_such_table"):
        await look()
    statement, work = exporter.get_finished_spans()[-2:]
    for failed in (statement, work):
        assert not failed.status.is_ok
        assert failed.status.description is None
        assert failed.events == ()


async def test_nothing_is_traced_where_no_endpoint_is_set_or_nothing_is_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def app(*_: Any) -> None:
        pass

    assert traced_application(app) is app
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert traced_application(app) is app
    monkeypatch.delenv("OTEL_SDK_DISABLED")
    monkeypatch.setitem(sys.modules, "entitlements.server.spans", None)
    assert traced_application(app) is app
