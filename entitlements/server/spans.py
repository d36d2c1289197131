"""What OpenTelemetry is told: requests, statements, calls to the provider, what the worker does.

By construction nothing is in it that somebody sent: a request goes by its operation's name, a
statement by its text, in which values are only marked, an error by its type. (The instrumentations
that there are for ASGI, SQLAlchemy and HTTPX tell URLs whole, with a query's variables in them, and
errors in the database's words, with the values.)

This is the only module that imports OpenTelemetry, and it is imported where tracing is wanted.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final

from opentelemetry import propagate, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import Span, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode
from sqlalchemy import Engine, event
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from entitlements.kernel.tracing import trace_with
from entitlements.server import metrics
from entitlements.server.front import FRONT

NOT_TRACED: Final = frozenset({"/healthz", "/readyz", "/metrics"})
"""What machines ask all the time."""

STATEMENT_CHARACTERS_AT_MOST: Final = 2_000


def exporting_provider() -> TracerProvider:
    """As the OTEL_… variables of the environment say: where to, how often, how much of it."""
    named = Resource.create()
    if str(named.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        named = named.merge(Resource({SERVICE_NAME: "entitlements"}))
    provider = TracerProvider(resource=named)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


class Spans:
    """One process's. `listen` begins it, `close` ends it, with what is not sent yet."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("entitlements")
        self._listeners: list[tuple[str, Callable[..., None]]] = [
            ("before_cursor_execute", self._begin_statement),
            ("after_cursor_execute", self._end_statement),
            ("handle_error", self._fail_statement),
        ]

    def listen(self) -> None:
        trace_with(self)
        metrics.answered_also.append(_name)
        for listener in self._listeners:
            event.listen(Engine, *listener)

    def close(self) -> None:
        trace_with(None)
        metrics.answered_also.remove(_name)
        for listener in self._listeners:
            event.remove(Engine, *listener)
        self._provider.shutdown()

    @contextmanager
    def span(self, name: str, *, remote: bool = False) -> Iterator[trace.Span]:
        kind = SpanKind.CLIENT if remote else SpanKind.INTERNAL
        with self._current(self._tracer.start_span(name, kind=kind)) as span:
            yield span

    @contextmanager
    def _current(self, span: trace.Span) -> Iterator[trace.Span]:
        """Until the block ends; what ends it is told by its kind alone."""
        used = trace.use_span(
            span, end_on_exit=False, record_exception=False, set_status_on_exception=False
        )
        try:
            with used:
                yield span
        except BaseException as error:
            _fail(span, error)
            raise
        finally:
            if span.is_recording():
                span.end()

    # ── requests ─────────────────────────────────────────────────────────────

    def request(self, scope: Scope) -> AbstractContextManager[trace.Span]:
        """As part of the trace that its `traceparent` names, if it names one."""
        carrier = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        span = self._tracer.start_span(
            scope["method"],
            context=propagate.extract(carrier),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": scope["method"]},
        )
        return self._current(span)

    # ── statements, of what is traced already: looking for work is not told ──

    def _begin_statement(
        self,
        _connection: Any,
        _cursor: Any,
        statement: str,
        _values: Any,
        context: Any,
        _many: bool,
    ) -> None:
        if context is not None and trace.get_current_span().is_recording():
            context.entitlements_span = self._tracer.start_span(
                statement.split(None, 1)[0].upper(),
                kind=SpanKind.CLIENT,
                attributes={
                    "db.system.name": context.dialect.name,
                    "db.query.text": statement[:STATEMENT_CHARACTERS_AT_MOST],
                },
            )

    def _end_statement(
        self,
        _connection: Any,
        _cursor: Any,
        _statement: str,
        _values: Any,
        context: Any,
        _many: bool,
    ) -> None:
        span = getattr(context, "entitlements_span", None)
        if span is not None:
            span.end()

    def _fail_statement(self, failed: Any) -> None:
        span = getattr(failed.execution_context, "entitlements_span", None)
        if span is not None and span.is_recording():
            _fail(span, failed.original_exception)
            span.end()


def _fail(span: trace.Span, error: BaseException) -> None:
    span.set_attribute("error.type", type(error).__qualname__)
    span.set_status(StatusCode.ERROR)


def _name(operation: str, outcome: str) -> None:
    """The request's span goes by its operation, as the metrics do."""
    span = trace.get_current_span()
    if isinstance(span, Span) and span.kind is SpanKind.SERVER and span.is_recording():
        if operation != metrics.UNNAMED:
            span.update_name(operation)
            span.set_attribute("graphql.operation.name", operation)
        span.set_attribute("entitlements.outcome", outcome)
        if outcome == metrics.FAILED:
            span.set_status(StatusCode.ERROR)


class TracedApplication:
    """An application with a span for each request; for a stream until it begins."""

    def __init__(self, app: ASGIApp, spans: Spans) -> None:
        self._app = app
        self._spans = spans

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, self._told(scope, send))
        elif scope["type"] != "http" or scope["path"] in NOT_TRACED:
            await self._app(scope, receive, send)
        else:
            with self._spans.request(scope) as span:
                await self._app(scope, receive, _telling(span, scope, send))

    def _told(self, scope: Scope, send: Send) -> Send:
        """No connection answers by itself, before there is a span; and what is not sent yet is sent
        before the server lets the process end."""

        async def tell(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                scope["state"].pop(FRONT, None)
            elif message["type"] == "lifespan.shutdown.complete":
                await asyncio.to_thread(self._spans.close)
            await send(message)

        return tell


def _telling(span: trace.Span, scope: Scope, send: Send) -> Send:
    async def tell(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = dict(message.get("headers", ()))
            if id := headers.get(b"x-request-id"):
                span.set_attribute("entitlements.request_id", id.decode())
            span.set_attribute("http.response.status_code", message["status"])
            if message["status"] >= 500:
                span.set_status(StatusCode.ERROR)
            if isinstance(span, Span) and span.name == scope["method"] and (path := _route(scope)):
                span.update_name(f"{scope['method']} {path}")
                span.set_attribute("http.route", path)
            if headers.get(b"content-type", b"").startswith(b"text/event-stream"):
                span.end()
        await send(message)

    return tell


def _route(scope: Scope) -> str | None:
    """The path, with names where values are; None where there is no such path."""
    if "endpoint" not in scope:
        return None
    path: str = scope["path"]
    for name, value in scope.get("path_params", {}).items():
        if value:
            path = path.replace(str(value), f"{{{name}}}")
    return path
