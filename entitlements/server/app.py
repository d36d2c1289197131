"""The ASGI application: GraphQL, the provider's webhook, health and metrics."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import structlog
from cross_web import HTTPException
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket
from strawberry.asgi import GraphQL

from entitlements.billing.webhooks import InvalidWebhook
from entitlements.kernel.errors import Unauthenticated
from entitlements.kernel.ids import new_id
from entitlements.server.authentication import authenticate
from entitlements.server.migrations import is_at_head
from entitlements.services import Services, opened_services
from entitlements.settings import load_settings
from entitlements.worker import work
from graphql_schema.context import Context
from graphql_schema.permissions import Principal
from graphql_schema.schema import schema

log = structlog.get_logger()

BODY_BYTES_AT_MOST = {"/graphql": 100_000, "/webhooks/stripe": 1_000_000}
"""By path; what is not named takes no body."""


OpenServices = Callable[[], AbstractAsyncContextManager[Services]]


def create_app(open_services: OpenServices, *, inbox_only: bool = True) -> Starlette:
    """The application. Its services are opened when it starts and closed when it stops.

    It works the webhook inbox, or everything that is due.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with open_services() as services:
            app.state.services = services
            stop = asyncio.Event()
            worker = asyncio.create_task(work(services, stop, inbox_only=inbox_only))
            try:
                yield
            finally:
                stop.set()
                await worker

    app = Starlette(
        routes=[
            Route("/graphql", _graphql, methods=["GET", "POST"]),
            Route("/webhooks/stripe", _webhook, methods=["POST"]),
            Route("/healthz", _healthz),
            Route("/readyz", _readyz),
            Route("/metrics", _metrics),
        ],
        lifespan=lifespan,
    )
    app.add_middleware(_BoundedBody)
    app.add_middleware(_RequestId)
    return app


def app_from_environment() -> Starlette:
    """What each process of `entitlements serve` runs."""
    return create_app(lambda: opened_services(load_settings()))


class _RequestId:
    """Names each request, in the answer and in whatever is logged or recorded during it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = new_id("req")
        scope.setdefault("state", {})["request_id"] = request_id
        structlog.contextvars.bind_contextvars(request_id=request_id)

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message.get("headers", []),
                    (b"x-request-id", request_id.encode()),
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        try:
            await self._app(scope, receive, send_named)
        finally:
            structlog.contextvars.unbind_contextvars("request_id")


class _BoundedBody:
    """Answers 413 to a body that is too large, without reading more of it than is allowed."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in ("POST", "PUT", "PATCH"):
            await self._app(scope, receive, send)
            return
        most = BODY_BYTES_AT_MOST.get(scope["path"], 0)
        body = bytearray()
        more = True
        while more and len(body) <= most:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
        if len(body) > most:
            refusal = _error(413, "BAD_USER_INPUT", f"a body has at most {most} bytes")
            await refusal(scope, receive, send)
            return
        whole: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def replay() -> Message:
            return whole.pop() if whole else await receive()

        await self._app(scope, replay, send)


class _View(GraphQL[Context, None]):
    """Strawberry's view with our context, and numbers that stay as exact as they were written."""

    async def get_context(
        self, request: Request | WebSocket, response: Response | WebSocket
    ) -> Context:
        principal: Principal = request.state.principal
        request_id = getattr(request.state, "request_id", None)
        return Context(request.app.state.services, principal, request_id)

    def decode_json(self, data: str | bytes) -> object:
        return json.loads(data, parse_float=str)


_view = _View(schema, graphql_ide=None, allow_queries_via_get=False)


async def _graphql(request: Request) -> Response:
    """Answer one GraphQL request: 401 without a good bearer."""
    try:
        bearer = request.headers.get("authorization")
        request.state.principal = await authenticate(request.app.state.services, bearer)
    except Unauthenticated as error:
        return _error(401, error.code, error.message, {"WWW-Authenticate": "Bearer"})
    try:
        return await _view.run(request)
    except HTTPException as error:
        return _error(error.status_code, "BAD_USER_INPUT", error.reason)


def _error(
    status: int, code: str, message: str, headers: dict[str, str] | None = None
) -> JSONResponse:
    body = {"errors": [{"message": message, "extensions": {"code": code}}]}
    return JSONResponse(body, status, headers)


async def _webhook(request: Request) -> Response:
    services: Services = request.app.state.services
    signature = request.headers.get("stripe-signature", "")
    try:
        await services.webhooks.receive(await request.body(), signature)
    except InvalidWebhook as error:
        log.warning("webhook_refused", why=str(error))
        return JSONResponse({"error": "not an event of the provider"}, 400)
    return JSONResponse({"received": True})


async def _healthz(_request: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _readyz(request: Request) -> Response:
    services: Services = request.app.state.services
    checks = {"database": False, "migrations": False}
    with contextlib.suppress(SQLAlchemyError, OSError):
        checks["migrations"] = await is_at_head(services.database.engine)
        checks["database"] = True
    return JSONResponse(checks, 200 if all(checks.values()) else 503)


async def _metrics(_request: Request) -> Response:
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
