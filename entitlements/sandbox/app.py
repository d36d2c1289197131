"""The sandbox over HTTP: Stripe's edge around the endpoints, hosted pages, and the control path.

Each API request is one transaction: its effect, its events and its idempotency record are stored
together or not at all.
"""

import asyncio
import base64
import binascii
import hashlib
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import stripe
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as HttpRoute
from starlette.types import Receive, Scope, Send

from entitlements.kernel.clock import Clock, WallClock
from entitlements.sandbox import payments as _payments  # noqa: F401  (declares endpoints)
from entitlements.sandbox import previews as _previews  # noqa: F401  (declares endpoints)
from entitlements.sandbox.engine import Engine
from entitlements.sandbox.errors import Json, StripeError, invalid, not_covered
from entitlements.sandbox.events import API_VERSION
from entitlements.sandbox.faults import Fault
from entitlements.sandbox.pages import page_routes
from entitlements.sandbox.params import decode_form
from entitlements.sandbox.routes import Call, Route, find_route
from entitlements.sandbox.shapes import check_expand_of, expand
from entitlements.sandbox.store import Saved, Transaction, encode, make_id

_log = logging.getLogger(__name__)

MAX_BODY_BYTES = 1_000_000
_KEY_PREFIXES = ("sk_test_", "rk_test_")


def create_app(
    data_file: Path | None,
    *,
    public_url: str,
    wall_clock: Clock | None = None,
    deliver_webhooks: bool = True,
) -> Starlette:
    """A Stripe of one's own as an ASGI app.

    `data_file` holds its whole state (None: in memory); `public_url` is where people reach it,
    for hosted pages; `wall_clock` is what objects without a test clock live by.
    """
    engine = Engine(data_file, public_url, wall_clock or WallClock())

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(engine.tick())]
        if deliver_webhooks:
            tasks.append(asyncio.create_task(engine.deliveries.run()))
        yield
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
        engine.close()

    async def api(request: Request) -> Response:
        return await _Exchange(engine, request).answer()

    methods = ["GET", "POST", "DELETE", "PUT", "PATCH"]
    routes = [HttpRoute("/v1/{path:path}", api, methods=methods), *page_routes(engine)]
    return Starlette(routes=routes, lifespan=lifespan)


class _Exchange:
    """One API request and its answer."""

    def __init__(self, engine: Engine, request: Request) -> None:
        self.engine = engine
        self.request = request
        self.id = make_id("req")
        self.key: str | None = None
        self.headers = {"Request-Id": self.id, "Stripe-Version": API_VERSION}

    async def answer(self) -> Response:
        try:
            return await self._answer()
        except StripeError as error:
            return self._refusal(error)
        except Exception:
            _log.exception("the sandbox failed at %s", self.request.url.path)
            return self._refusal(_api_error("The sandbox failed: this is a bug of the sandbox."))

    async def _answer(self) -> Response:
        method, path = self.request.method, self.request.url.path
        self._check_edge()
        body = await self._read_body()
        route, values = _route_of(method, path)
        faults = self.engine.faults.for_call(method, path)
        raw = decode_form("&".join(filter(None, (self.request.url.query, body))))
        params = route.schema.check(raw)
        if method == "POST":
            self.key = self._idempotency_key()
        digest = hashlib.sha256(encode(raw)).hexdigest()
        if self.key is None:
            return await self._execute(route, values, params, digest, faults)
        if self.key in self.engine.in_flight:
            raise StripeError(
                409,
                "There is currently another in-progress request using this Idempotency-Key.",
                type="idempotency_error",
                code="idempotency_key_in_use",
            )
        self.engine.in_flight.add(self.key)
        try:
            return await self._execute(route, values, params, digest, faults)
        finally:
            self.engine.in_flight.discard(self.key)

    # --- the edge

    def _check_edge(self) -> None:
        key = _api_key(self.request.headers.get("authorization", ""))
        if key is None:
            raise StripeError(
                401,
                "You did not provide an API key. You need to provide your API key in the "
                "Authorization header, using Bearer auth (e.g. 'Authorization: Bearer "
                "YOUR_SECRET_KEY').",
            )
        if not key.startswith(_KEY_PREFIXES) or len(key) <= len("sk_test_"):
            raise StripeError(401, f"Invalid API Key provided: {_masked(key)}")
        version = self.request.headers.get("stripe-version", API_VERSION)
        if version != API_VERSION:
            raise invalid(
                f"Invalid Stripe API version: {version}. This sandbox speaks {API_VERSION}."
            )
        if "stripe-account" in self.request.headers:
            raise not_covered("connected accounts (Stripe-Account)")

    async def _read_body(self) -> str:
        chunks = []
        size = 0
        async for chunk in self.request.stream():
            size += len(chunk)
            if size > MAX_BODY_BYTES:
                raise StripeError(413, "The request is too large.")
            chunks.append(chunk)
        body = b"".join(chunks)
        kind = self.request.headers.get("content-type", "").split(";")[0].strip()
        if body and kind not in ("application/x-www-form-urlencoded", ""):
            raise invalid(
                f"Invalid request content type {kind[:60]}: use application/x-www-form-urlencoded."
            )
        try:
            return body.decode("utf-8")
        except UnicodeDecodeError:
            raise invalid("Invalid request: the body is not UTF-8.") from None

    def _idempotency_key(self) -> str | None:
        key = self.request.headers.get("idempotency-key")
        if key is None:
            return None
        if not 0 < len(key) <= 255:
            raise StripeError(
                400, "Idempotency-Key must be 1 to 255 characters long.", type="idempotency_error"
            )
        return key

    # --- execution

    async def _execute(
        self,
        route: Route,
        values: dict[str, str],
        params: Json,
        digest: str,
        faults: list[Fault],
    ) -> Response:
        for fault in faults:
            if fault.kind == "latency":
                await asyncio.sleep(fault.seconds)
            elif fault.kind == "rate_limit":
                raise StripeError(429, "Too many requests.", code="rate_limit")
            elif fault.kind == "error_before":
                raise _api_error("The sandbox was asked to fail before the effect.")
            elif fault.kind == "kept_error_before":
                raise self._kept_error(route, digest)
            elif fault.kind == "cut_before":
                return _Cut()
        response = self._transact(route, values, params, digest)
        self.engine.after_commit()
        for fault in faults:
            if fault.kind == "error_after":
                raise _api_error("The sandbox was asked to fail after the effect.")
            if fault.kind == "kept_error_after":
                raise self._kept_error(route, digest)
            if fault.kind == "cut_after":
                return _Cut()
        return response

    def _kept_error(self, route: Route, digest: str) -> StripeError:
        """As Stripe keeps the first answer to a key whatever it was, once it has begun with it."""
        error = _api_error("The sandbox was asked to fail, and to keep it under the key.")
        with self.engine.transaction() as tx:
            body = encode(self._error_body(error))
            self._remember(tx, self._endpoint(route), digest, error.status, body)
        return error

    def _endpoint(self, route: Route) -> str:
        return f"{route.method} {self.request.url.path}"

    def _transact(
        self, route: Route, values: dict[str, str], params: Json, digest: str
    ) -> Response:
        endpoint = self._endpoint(route)
        try:
            with self.engine.transaction() as tx:
                saved = tx.saved_answer(self.key) if self.key else None
                if saved:
                    return self._replay(saved, endpoint, digest)
                tx.request = {"id": self.id, "idempotency_key": self.key}
                status, shown = self._call(tx, route, values, params)
                body = encode(shown)
                self._remember(tx, endpoint, digest, status, body)
        except StripeError as error:
            if error.status == 402 and self.key:
                with self.engine.transaction() as tx:
                    body = encode(self._error_body(error))
                    self._remember(tx, endpoint, digest, 402, body)
            raise
        return self._json(status, body)

    def _call(
        self, tx: Transaction, route: Route, values: dict[str, str], params: Json
    ) -> tuple[int, Json]:
        paths = params.pop("expand", None) or []
        try:
            shown = route.handler(Call(tx, values, params, self.engine.public_url))
        except StripeError as error:
            if not error.keeps_effects:
                raise
            return error.status, self._error_body(error)
        check_expand_of(shown, paths)
        expand(tx, shown, paths)
        shown.pop("_kind", None)
        return 200, shown

    def _remember(
        self, tx: Transaction, endpoint: str, digest: str, status: int, body: bytes
    ) -> None:
        if self.key:
            tx.save_answer(self.key, Saved(endpoint, digest, status, body, self.id))

    def _replay(self, saved: Saved, endpoint: str, digest: str) -> Response:
        if saved.endpoint != endpoint:
            raise _idempotency_error(
                "Keys for idempotent requests can only be used for the same endpoint they were "
                f"first used for ('{saved.endpoint}' vs '{endpoint}')."
            )
        if saved.params != digest:
            raise _idempotency_error(
                "Keys for idempotent requests can only be used with the same parameters they "
                "were first used with."
            )
        self.headers |= {"Idempotent-Replayed": "true", "Original-Request": saved.request}
        return self._json(saved.status, saved.body)

    # --- answers

    def _json(self, status: int, body: bytes) -> Response:
        headers = dict(self.headers)
        if self.key:
            # A key may be any text, a header only some.
            headers["Idempotency-Key"] = self.key.encode("latin-1", "replace").decode("latin-1")
        if status == 429:
            headers["Stripe-Should-Retry"] = "false"
        return Response(body, status, headers, media_type="application/json")

    def _refusal(self, error: StripeError) -> Response:
        return self._json(error.status, encode(self._error_body(error)))

    def _error_body(self, error: StripeError) -> Json:
        return {"error": error.body | {"request_log_url": f"{self.engine.public_url}/#{self.id}"}}


class _Cut(Response):
    """No answer: the connection is closed instead."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        transport = getattr(getattr(receive, "__self__", None), "transport", None)
        if transport is not None:  # uvicorn's
            transport.abort()
            await asyncio.sleep(0.01)  # until the server has seen it
            return
        headers = [(b"content-length", b"4096")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"{", "more_body": True})


def _api_key(header: str) -> str | None:
    scheme, _, value = header.partition(" ")
    value = value.strip()
    if scheme.lower() == "bearer" and value:
        return value
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[0] or None
        except (binascii.Error, UnicodeDecodeError):
            return None
    return None


def _masked(key: str) -> str:
    return f"{key[:8]}{'*' * max(0, len(key) - 12)}{key[-4:] if len(key) > 12 else ''}"


def _api_error(message: str) -> StripeError:
    return StripeError(500, message, type="api_error")


def _idempotency_error(message: str) -> StripeError:
    return StripeError(400, message, type="idempotency_error")


def _route_of(method: str, path: str) -> tuple[Route, dict[str, str]]:
    path = path.rstrip("/") if path != "/" else path
    found = find_route(method, path)
    if found is None or path.endswith("/search"):
        if any(known(path) for known in sdk_paths()):
            raise not_covered(f"{method} {path}")
        raise StripeError(404, f"Unrecognized request URL ({method}: {path}).")
    return found


@cache
def sdk_paths() -> list[Any]:
    """Matchers of every path that the SDK calls, read from its sources when first needed."""
    folder = Path(stripe.__file__).parent
    found: set[str] = set()
    for file in folder.rglob("_*_service.py"):
        found |= set(re.findall(r'"(/v1/[^"]+)"', file.read_text()))
    return [re.compile(re.sub(r"\{\w+\}", "[^/]+", path)).fullmatch for path in sorted(found)]
