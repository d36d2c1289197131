"""The ASGI application: GraphQL, the provider's webhook, health and metrics, pages for people."""

import asyncio
import contextlib
import json
import re
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from types import FrameType
from typing import Any

import msgspec
import structlog
import uvicorn
from cross_web import AsyncHTTPRequestAdapter, HTTPException
from graphql import GraphQLError, OperationType
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.datastructures import State
from starlette.exceptions import HTTPException as RouteError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket
from strawberry.asgi import GraphQL
from strawberry.exceptions import ConnectionRejectionError
from strawberry.http import GraphQLHTTPResponse, GraphQLRequestData
from strawberry.schema.exceptions import InvalidOperationTypeError
from strawberry.subscriptions import GRAPHQL_SSE_PROTOCOL, GRAPHQL_TRANSPORT_WS_PROTOCOL
from strawberry.types import ExecutionResult
from strawberry.types.unset import UNSET, UnsetType

from entitlements.access.streams import StillGood
from entitlements.billing.webhooks import InvalidWebhook
from entitlements.kernel.clock import monotonic_seconds, wall_now
from entitlements.kernel.errors import RateLimited, Unauthenticated, Unavailable
from entitlements.kernel.ids import new_id
from entitlements.server import answers, metrics
from entitlements.server.answers import JSON_TYPE
from entitlements.server.authentication import Authenticator
from entitlements.server.front import FRONT, Front
from entitlements.server.headers import secured, shared
from entitlements.server.logging import configure_logging, request_id
from entitlements.server.migrations import is_at_head
from entitlements.server.portal.documents import beside_ours
from entitlements.server.portal.routes import (
    PAGES,
    PAGES_OF,
    SESSION_BYTES_AT_MOST,
    SESSION_PATHS,
    Pages,
)
from entitlements.server.rates import COUNTED, Rates, address_of
from entitlements.server.tracing import traced_application
from entitlements.services import Services, opened_services
from entitlements.settings import load_settings
from entitlements.worker import work
from graphql_schema.context import Context
from graphql_schema.documents import Documents, Limits, read_manifest
from graphql_schema.errors import BAD_USER_INPUT, INTERNAL
from graphql_schema.permissions import Principal, Role
from graphql_schema.schema import schema

log = structlog.get_logger()

WEBHOOK_BYTES_AT_MOST = 1_000_000
DRAIN_SECONDS = 1.0
"""How long clients have to leave a process that is told to stop, before it closes connections."""

DOCUMENT_NOT_FOUND = "PERSISTED_DOCUMENT_NOT_FOUND"
TIMEOUT = "TIMEOUT"

GRAPHQL_TYPE = "application/graphql-response+json"
"""Under this one the HTTP status says whether a request was refused; under the other it is 200."""
STREAM_TYPE = "text/event-stream"


OpenServices = Callable[[], AbstractAsyncContextManager[Services]]


class _Application(Starlette):
    """What is asked most goes in front of the framework."""

    _front: Front | None = None
    _shared: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        if self._shared is None:
            self._shared = shared(self._answer, _edge(self.state).services.settings.cors_origins)
        await self._shared(scope, receive, _ending(send) if self.state.stopping else send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in PAGES_OF:
            scope, receive = await _edge(self.state).pages.handed_on(scope, receive)
        if scope["path"] == "/graphql" and scope["method"] == "POST":
            if self._front is None:
                self._front = _edge(self.state).front
            left = await self._front.answer(scope, receive, send)
            if left is None:
                return
            receive = left
        await super().__call__(scope, receive, send)


def create_app(open_services: OpenServices, *, inbox_only: bool = True) -> Starlette:
    """The application. Its services are opened when it starts and closed when it stops.

    It works the webhook inbox, or everything that is due.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
        async with open_services() as services:
            app.state.services = services
            _edge(app.state)  # a manifest that cannot be read refuses the start
            _when_told_to_stop(app.state, services.streams.close)
            stop = asyncio.Event()
            worker = asyncio.create_task(work(services, stop, inbox_only=inbox_only))
            try:
                yield {FRONT: _edge(app.state).front}
            finally:
                stop.set()
                await worker

    app = _Application(
        routes=[
            Route("/graphql", _graphql, methods=["GET", "POST"]),
            WebSocketRoute("/graphql", _graphql_socket),
            Route("/webhooks/stripe", _webhook, methods=["POST"]),
            Route("/healthz", _healthz),
            Route("/readyz", _readyz),
            Route("/metrics", _metrics),
            *PAGES,
        ],
        exception_handlers={RouteError: _refused},
        lifespan=lifespan,
    )
    app.state.stopping = False
    app.add_middleware(_BoundedBody)
    app.add_middleware(_RequestId)
    return app


def _when_told_to_stop(state: State, act: Callable[[], None]) -> None:
    """Act on the signal that stops uvicorn, before it waits for what is under way: a stream would
    have it wait in vain.

    Before SIGTERM is obeyed, answers say for a while that their connection ends with them: a
    client that keeps connections would otherwise ask in the moment in which one is closed. Ctrl-C
    and a second SIGTERM do not wait.
    """
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        before = signal.getsignal(number)
        server = getattr(before, "__self__", None)
        if callable(before) and isinstance(server, uvicorn.Server):

            def stop(
                number: int, frame: FrameType | None, before: Callable[..., object] = before
            ) -> None:
                def obey() -> None:
                    act()
                    before(number, None)

                waits = number == signal.SIGTERM and not state.stopping
                state.stopping = True
                _edge(state).front.close()
                loop.call_soon_threadsafe(loop.call_later, DRAIN_SECONDS if waits else 0, obey)

            signal.signal(number, stop)


def _ending(send: Send) -> Send:
    """Has each answer say that no other will come on its connection."""

    async def send_last(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), (b"connection", b"close")]
        await send(message)

    return send_last


def app_from_environment() -> ASGIApp:
    """What each process of `entitlements serve` runs: a worker begins here, not at the command."""
    configure_logging()
    return traced_application(create_app(lambda: opened_services(load_settings())))


class _RequestId:
    """Names each request, in the answer and in whatever is logged or recorded during it.

    A fault that nobody expected ends here: it is logged under that name, and the answer is 500.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        id = new_id("req")
        scope.setdefault("state", {})["request_id"] = id
        named = request_id.set(id)
        started = False

        async def send_named(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = secured(message.get("headers", []))
                message["headers"] = [*headers, (b"x-request-id", id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, send_named)
        except Exception:
            log.exception("internal_error", path=scope["path"])
            if started or scope["type"] == "websocket":
                raise
            words = "something went wrong on our side"
            answer = answers.refusal(scope["path"], 500, INTERNAL, words, requestId=id)
            await answer(scope, receive, send_named)
        finally:
            request_id.reset(named)


class _BoundedBody:
    """Answers 413 to a body that is too large, without reading more of it than is allowed."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        most = _bytes_at_most(scope)
        if most is None:
            await self._app(scope, receive, send)
            return
        body = bytearray()
        more = True
        while more and len(body) <= most:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
        if len(body) > most:
            refusal = answers.refusal(
                scope["path"], 413, BAD_USER_INPUT, f"a body has at most {most} bytes"
            )
            await refusal(scope, receive, send)
            return
        whole: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def replay() -> Message:
            return whole.pop() if whole else await receive()

        await self._app(scope, replay, send)


def _bytes_at_most(scope: Scope) -> int | None:
    """How long a body may be; None where none is read."""
    if scope["type"] != "http":
        return None
    if scope["path"] == "/graphql":
        return _edge(scope["app"].state).services.settings.request_bytes_at_most
    if scope["path"] in SESSION_PATHS:
        return SESSION_BYTES_AT_MOST
    return WEBHOOK_BYTES_AT_MOST if scope["path"] == "/webhooks/stripe" else None


_NOBODY = Principal(role=Role.CUSTOMER, name="nobody")
"""Whoever a WebSocket is before it says so: nothing is open to them."""


class _SocketContext(Context):
    """A connection's: it is nobody's until its `connection_init`."""

    def __init__(self, socket: WebSocket) -> None:
        edge = _edge(socket.app.state)
        super().__init__(
            edge.services,
            _NOBODY,
            socket.state.request_id,
            documents=edge.documents,
            admit=self._admit,
            lasting=True,
        )
        self.connection_params: dict[str, object] = {}
        self._socket = socket
        self._authenticator = edge.authenticator
        self._rates = edge.rates

    def _admit(self) -> None:
        if wait_seconds := self._rates.wait_seconds(self.principal, address_of(self._socket.scope)):
            raise RateLimited(wait_seconds)

    async def connect(self) -> None:
        given = {name.lower(): value for name, value in self.connection_params.items()}
        bearer = given.get("authorization", self._socket.headers.get("authorization"))
        authenticator = self._authenticator
        wanted = bearer if isinstance(bearer, str) else None
        self.principal = (await authenticator.authenticate(wanted)).principal
        self.still_good = _lasting(authenticator, wanted)


def _lasting(authenticator: Authenticator, bearer: str | None) -> StillGood:
    async def still_good() -> float | None:
        identity = await authenticator.authenticate(bearer)
        if identity.expires_at is None:
            return None
        return (identity.expires_at - wall_now()).total_seconds()

    return still_good


def _wants_stream(accept: str) -> bool:
    """Whether events are wanted, and an answer in one piece is not, or less.

    >>> _wants_stream("text/event-stream"), _wants_stream("application/json, text/event-stream")
    (True, False)
    """
    weights = _weights(accept)
    return weights.get(STREAM_TYPE, 0.0) > max(
        weights.get(name, 0.0) for name in (JSON_TYPE, GRAPHQL_TYPE, "application/*", "*/*")
    )


class _View(GraphQL[Context, None]):
    """Strawberry's view: with our context, the statuses of GraphQL over HTTP, and exact JSON."""

    def __init__(self, documents: Documents, query_seconds: float) -> None:
        super().__init__(
            schema,
            graphql_ide=None,
            subscription_protocols=[GRAPHQL_TRANSPORT_WS_PROTOCOL, GRAPHQL_SSE_PROTOCOL],
            connection_init_wait_timeout=timedelta(seconds=10),
            allowed_origins=["*"],  # a page of another origin has no bearer: no cookie is looked at
        )
        self._documents = documents
        self._query_seconds = query_seconds

    async def get_context(
        self, request: Request | WebSocket, response: Response | WebSocket
    ) -> Context:
        state = request.state
        if isinstance(request, WebSocket):
            return _SocketContext(request)
        return Context(
            request.app.state.services,
            state.principal,
            getattr(state, "request_id", None),
            documents=self._documents,
            still_good=state.still_good,
        )

    async def on_ws_connect(self, context: Context) -> UnsetType | dict[str, object] | None:
        """A WebSocket's bearer comes in the payload of `connection_init`, or in the header."""
        assert isinstance(context, _SocketContext)
        try:
            await context.connect()
        except (Unauthenticated, Unavailable) as error:
            raise ConnectionRejectionError from error
        no_payload: UnsetType = UNSET
        return no_payload

    async def parse_http_body(
        self, request: AsyncHTTPRequestAdapter
    ) -> GraphQLRequestData | list[GraphQLRequestData]:
        sent_as = (request.content_type or "").partition(";")[0].strip()
        if request.method == "POST" and sent_as != JSON_TYPE:
            raise HTTPException(415, f"a request is sent as {JSON_TYPE}")
        asked = await super().parse_http_body(request)
        assert isinstance(asked, GraphQLRequestData)
        if asked.protocol == "http" or _wants_stream(request.headers.get("accept") or ""):
            return asked
        kind = asked.query and self._documents.kind(asked.query, asked.operation_name)
        if kind is OperationType.SUBSCRIPTION and request.method == "POST":
            return asked
        return replace(asked, protocol="http")  # either will do: in one piece

    def parse_json(self, data: str | bytes) -> Any:
        try:
            found = self.decode_json(data)
        except json.JSONDecodeError as error:
            raise HTTPException(400, error.msg) from None
        if not isinstance(found, dict):
            raise HTTPException(400, "a request is one JSON object: batches are not taken")
        return self._asked(found)

    def parse_query_params(self, params: Mapping[str, str | None]) -> dict[str, Any]:
        """A request in a URL: its variables and extensions are JSON there."""
        found: dict[str, Any] = {name: text for name, text in params.items() if text}
        if any(_NO_TEXT.search(text) for text in found.values()):
            raise HTTPException(400, "text has no NUL and no half of a surrogate pair")
        try:
            for name in {"variables", "extensions"} & found.keys():
                found[name] = self.decode_json(found[name])
        except json.JSONDecodeError as error:
            raise HTTPException(400, f"{name}: {error.msg}") from None
        return self._asked(found)

    def _asked(self, found: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(found.get("operationName"), str | None):
            raise HTTPException(400, "operationName is a string or null")
        if "documentId" in found:
            found["query"] = self._trusted_text(found)
        return found

    def _trusted_text(self, request: dict[str, Any]) -> str:
        if "query" in request or not isinstance(request["documentId"], str):
            raise HTTPException(400, "a request has a query or a documentId, which are strings")
        text = self._documents.text(request["documentId"])
        if text is None:
            raise _UnknownDocument(400, "there is no such document")
        return text

    def decode_json(self, data: str | bytes) -> object:
        """JSON in UTF-8, its numbers as exact as they were written. Else `JSONDecodeError`."""
        try:
            text = data if isinstance(data, str) else data.decode()
            found: object = json.loads(text, parse_float=str, parse_constant=_no_number)
        except (ValueError, RecursionError):
            raise json.JSONDecodeError("this is not JSON in UTF-8", "", 0) from None
        if "\\u" in text and any(_NO_TEXT.search(said) for said in _texts(found)):
            raise json.JSONDecodeError("text has no NUL and no half of a surrogate pair", "", 0)
        return found

    def encode_json(self, data: object) -> str:
        """Text: a message of a WebSocket that is bytes is not taken by its clients."""
        return msgspec.json.encode(data).decode()

    async def execute_single(
        self,
        request: Request,
        request_adapter: AsyncHTTPRequestAdapter,
        sub_response: Response,
        context: Context,
        root_value: None,
        request_data: GraphQLRequestData,
    ) -> ExecutionResult:
        """A query has its time. A mutation ends as it ends: what it began at the provider, too."""
        text, name = request_data.query, request_data.operation_name
        started_at = monotonic_seconds()
        reads = text and self._documents.kind(text, name) is OperationType.QUERY
        try:
            async with asyncio.timeout(self._query_seconds if reads else None):
                result = await super().execute_single(
                    request, request_adapter, sub_response, context, root_value, request_data
                )
        except TimeoutError:
            words = f"a query has at most {self._query_seconds:g} s"
            result = ExecutionResult(None, [GraphQLError(words, extensions={"code": TIMEOUT})])
        codes = {(error.extensions or {}).get("code") for error in result.errors or ()}
        outcome = metrics.FAILED if codes & {INTERNAL, TIMEOUT} else metrics.REFUSED
        metrics.answered(
            self._documents.prepared(text) if text else None,
            name,
            context.principal,
            outcome if codes else metrics.OK,
            monotonic_seconds() - started_at,
        )
        return result

    async def get_sub_response(self, request: Request | WebSocket) -> Response:
        response = await super().get_sub_response(request)
        response.media_type = _media_type(request.headers.get("accept", "")) or JSON_TYPE
        return response

    async def process_result(
        self, request: Request, result: ExecutionResult
    ) -> GraphQLHTTPResponse:
        """An answer has `data` where execution began: an error of execution says at which field."""
        answer = await super().process_result(request, result)
        errors = result.errors or []
        if result.data is None and errors and not any(error.path for error in errors):
            del answer["data"]
        return answer

    def create_response(
        self,
        response_data: GraphQLHTTPResponse | list[GraphQLHTTPResponse],
        sub_response: Response,
    ) -> Response:
        status = 200
        if sub_response.media_type == GRAPHQL_TYPE and "data" not in response_data:
            codes = _codes(response_data)
            status = 500 if INTERNAL in codes else 503 if TIMEOUT in codes else 400
        content = msgspec.json.encode(response_data)
        return Response(content, status, media_type=sub_response.media_type)


class _UnknownDocument(HTTPException):
    """A `documentId` that is not in the manifest: send the text, or deploy the manifest first."""


_NO_TEXT = re.compile(r"[\0\ud800-\udfff]|\\u(?:0000|\{0+\})")
"""What no database keeps as text, also as a GraphQL literal or JSON within text writes it."""


def _no_number(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _texts(value: object) -> Iterator[str]:
    """Every text within JSON data, keys too."""
    waiting = [value]
    while waiting:
        found = waiting.pop()
        if isinstance(found, str):
            yield found
        elif isinstance(found, list):
            waiting += found
        elif isinstance(found, dict):
            waiting += [*found.keys(), *found.values()]


def _codes(answer: Any) -> set[str]:
    return {error["extensions"]["code"] for error in answer.get("errors", ())}


def _media_type(accept: str) -> str | None:
    """Of the two media types the one that `accept` prefers; None where it takes neither.

    >>> _media_type("application/graphql-response+json, application/json;q=0.9")
    'application/graphql-response+json'
    >>> _media_type(""), _media_type("application/graphql-response+json;q=0.1, */*")
    ('application/json', 'application/json')
    >>> _media_type("text/html"), _media_type("text/event-stream")
    (None, 'application/json')
    """
    if not accept.strip():
        return JSON_TYPE
    weights = _weights(accept)
    taken = (JSON_TYPE, "application/*", "*/*", STREAM_TYPE)
    plain = max(weights.get(name, 0.0) for name in taken)
    wanted = weights.get(GRAPHQL_TYPE, 0.0)
    if wanted and wanted >= plain:
        return GRAPHQL_TYPE
    return JSON_TYPE if plain else None


def _weights(accept: str) -> dict[str, float]:
    """The media types of an `Accept` header, each with its weight from 0 to 1."""
    weights: dict[str, float] = {}
    for part in accept.lower().split(","):
        name, *parameters = (word.strip() for word in part.split(";"))
        weight = next((p[2:] for p in parameters if p.startswith("q=")), "1")
        weights[name] = float(weight) if re.fullmatch(r"[01](\.\d{0,3})?", weight) else 0.0
    return weights


async def _graphql_socket(socket: WebSocket) -> None:
    await _edge(socket.app.state).view.run(socket)


async def _graphql(request: Request) -> Response:
    """Answer one GraphQL request: 401 without a good bearer."""
    accept = request.headers.get("accept", "")
    media_type = _media_type(accept)
    if media_type is None:
        words = f"an answer is {GRAPHQL_TYPE}, {JSON_TYPE} or {STREAM_TYPE}"
        return answers.error(406, BAD_USER_INPUT, words)
    if request.method == "GET" and _wants_stream(accept):
        return _not_by_get(media_type)
    edge = _edge(request.app.state)
    if not _wants_stream(accept):
        edge.front.prefers(accept.encode("latin-1"), media_type)
    try:
        bearer = request.headers.get("authorization")
        authenticator = edge.authenticator
        identity = await authenticator.authenticate(bearer)
    except Unauthenticated as error:
        realm = {"WWW-Authenticate": "Bearer"}
        return answers.error(401, error.code, error.message, realm, media_type=media_type)
    except Unavailable as error:
        later = {"Retry-After": "1"}
        return answers.error(503, error.code, error.message, later, media_type=media_type)
    scope = request.scope
    if not scope.get(COUNTED) and (
        wait_seconds := edge.rates.wait_seconds(identity.principal, address_of(scope))
    ):
        limited = RateLimited(wait_seconds)
        later = {"Retry-After": str(limited.retry_after_seconds)}
        return answers.error(429, limited.code, limited.message, later, media_type=media_type)
    request.state.principal = identity.principal
    request.state.still_good = _lasting(authenticator, bearer)
    try:
        return await edge.view.run(request)
    except HTTPException as error:
        unknown = isinstance(error, _UnknownDocument)
        code = DOCUMENT_NOT_FOUND if unknown else BAD_USER_INPUT
        if isinstance(error.__cause__, InvalidOperationTypeError) and request.method == "GET":
            return _not_by_get(media_type)
        allowed = {"Allow": "GET, POST"} if error.status_code == 405 else None
        return answers.error(error.status_code, code, error.reason, allowed, media_type=media_type)


def _not_by_get(media_type: str) -> Response:
    words = "what comes by GET is a query, answered at once"
    return answers.error(405, BAD_USER_INPUT, words, {"Allow": "POST"}, media_type=media_type)


class _Edge:
    """What the requests of one application share."""

    def __init__(self, services: Services) -> None:
        settings = services.settings
        manifest = settings.trusted_documents and read_manifest(settings.trusted_documents)
        trusted = beside_ours(manifest or {})
        self.services = services
        self.authenticator = Authenticator(services)
        self.rates = Rates(settings)
        self.documents = Documents(
            schema._schema,
            trusted,
            trusted_only=settings.trusted_documents_only,
            limits=Limits(
                tokens=settings.document_tokens_at_most,
                depth=settings.document_depth_at_most,
                aliases=settings.document_aliases_at_most,
                root_fields=settings.document_root_fields_at_most,
                objects=settings.document_objects_at_most,
            ),
        )
        self.view = _View(self.documents, settings.query_seconds_at_most)
        self.front = Front(services, self.authenticator, self.documents, self.rates)
        self.pages = Pages(services, self.authenticator, self.rates)
        for mistake in self.documents.mistakes():
            log.error("trusted_document_refused", why=mistake)


def _edge(state: State) -> _Edge:
    """The application's one, made when it starts, or at its first request."""
    if not hasattr(state, "edge"):
        state.edge = _Edge(state.services)
    found: _Edge = state.edge
    return found


async def _refused(request: Request, error: Exception) -> Response:
    """There is no such path, or it is asked in another way."""
    assert isinstance(error, RouteError)
    code = "NOT_FOUND" if error.status_code == 404 else BAD_USER_INPUT
    return answers.refusal(request.url.path, error.status_code, code, error.detail, error.headers)


async def _webhook(request: Request) -> Response:
    services: Services = request.app.state.services
    signature = request.headers.get("stripe-signature", "")
    try:
        await services.webhooks.receive(await request.body(), signature)
    except InvalidWebhook as error:
        log.warning("webhook_refused", why=str(error))
        return answers.problem(400, BAD_USER_INPUT, "this is not an event of the provider")
    return JSONResponse({"received": True})


async def _healthz(_request: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _readyz(request: Request) -> Response:
    services: Services = request.app.state.services
    checks = {"database": False, "migrations": False}
    checks["change_feed"] = services.feed.is_alive
    checks["serving"] = not request.app.state.stopping
    with contextlib.suppress(SQLAlchemyError, OSError):
        checks["migrations"] = await is_at_head(services.database.engine)
        checks["database"] = True
    return JSONResponse(checks, 200 if all(checks.values()) else 503)


async def _metrics(request: Request) -> Response:
    services: Services = request.app.state.services
    services.snapshots.count_hits()
    with contextlib.suppress(SQLAlchemyError, OSError):  # what the process itself counts stays
        await metrics.measure_queues(services)
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
