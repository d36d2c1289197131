"""The pages' paths: their HTML, who is signed in, and GraphQL with a cookie instead of a bearer.

What a page asks goes to `/graphql` as that bearer's own request. The cookie is looked at here
only, for requests of the same origin, and for the pages' own documents.
"""

import json
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from http.cookies import CookieError, SimpleCookie
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope

from entitlements.access import tokens
from entitlements.kernel.clock import wall_now
from entitlements.kernel.errors import RateLimited, Unauthenticated, Unavailable
from entitlements.kernel.period import format_instant, to_second
from entitlements.server import answers
from entitlements.server.authentication import Authenticator, Identity
from entitlements.server.headers import PAGE_HEADERS
from entitlements.server.portal.assets import asset, assets
from entitlements.server.portal.documents import ours
from entitlements.server.portal.sessions import CODE_SECONDS, Codes, Seal, link
from entitlements.server.rates import Rates, address_of
from entitlements.services import Services
from graphql_schema.errors import BAD_USER_INPUT
from graphql_schema.permissions import Principal, Role

FORBIDDEN: Final = "FORBIDDEN"
SESSION_BYTES_AT_MOST: Final = 16_000
COOKIE_CHARACTERS_AT_MOST: Final = 3_900
"""Browsers drop a longer one without a word."""

PAGES_OF: Final = {"/portal/graphql": "portal", "/console/graphql": "console"}
SESSION_PATHS: Final = frozenset({"/portal/links", "/portal/session", "/console/session"})

_STAFF: Final = frozenset({Role.SUPPORT, Role.PRICING, Role.FINANCE, Role.ADMIN})
_SIGNING_IN: Final = Principal(role=Role.PUBLISHABLE, name="signing-in")
"""Whoever has no session yet: counted by their address."""

_REFUSED: Final = "entitlements.refused"
_AGAIN: Final = {
    "portal": "this link is used up, expired or not ours: open the portal by a new one",
    "console": "this is not a key or token of staff that is good now",
}


class _App(msgspec.Struct, frozen=True):
    """`seconds` is how long a session lasts at most; its bearer may end sooner."""

    name: str
    seconds: int
    seal: Seal

    @property
    def cookie(self) -> str:
        return f"{self.name}_session"


class Pages:
    """One application's."""

    def __init__(self, services: Services, authenticator: Authenticator, rates: Rates) -> None:
        signer = services.signer
        self._public_url = services.settings.public_url
        self._bytes_at_most = services.settings.request_bytes_at_most
        self._authenticator = authenticator
        self._rates = rates
        self._codes = Codes(signer, services.database)
        hours = {"portal": tokens.TTL_SECONDS_AT_MOST // 3600, "console": 12}
        self._apps = {
            name: _App(name, hours[name] * 3600, Seal(signer, f"{name}-session")) for name in hours
        }
        assets()  # read at the start

    # ── GraphQL ──────────────────────────────────────────────────────────────

    async def handed_on(self, scope: Scope, receive: Receive) -> tuple[Scope, Receive]:
        """A page's request as a request to `/graphql` with the session's bearer.

        One that is refused stays what it is, and its route answers with the refusal.
        """
        app = self._apps[PAGES_OF[scope["path"]]]
        if scope["method"] != "POST":
            return scope, receive
        request = Request(scope, receive)
        body = b""
        refused = self._not_from_our_page(request)
        if refused is None:
            body, refused = await self._asked(app, receive)
        bearer = None if refused else self._bearer(app, request)
        if refused is None and bearer is None:
            refused = answers.error(401, Unauthenticated.code, "there is no session, or it ended")
        if refused is not None or bearer is None:
            return {**scope, _REFUSED: refused}, receive
        headers = [h for h in scope["headers"] if h[0] not in (b"cookie", b"authorization")]
        headers.append((b"authorization", f"Bearer {bearer}".encode()))
        whole: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return whole.pop() if whole else await receive()

        handed = {**scope, "path": "/graphql", "raw_path": b"/graphql", "headers": headers}
        return handed, replay

    async def _asked(self, app: _App, receive: Receive) -> tuple[bytes, Response | None]:
        """The body, or why it is none of this app's own documents."""
        body = bytearray()
        more = True
        while more and len(body) <= self._bytes_at_most:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        if len(body) > self._bytes_at_most:
            words = f"a body has at most {self._bytes_at_most} bytes"
            return b"", answers.error(413, BAD_USER_INPUT, words)
        asked = _object(bytes(body))
        id = asked.get("documentId")
        own = isinstance(id, str) and id.startswith(f"{app.name}.") and id in ours()
        if not own or "query" in asked:
            words = "a page asks by the documentId of one of its own documents, and by nothing else"
            return b"", answers.error(400, BAD_USER_INPUT, words)
        return bytes(body), None

    def _bearer(self, app: _App, request: Request) -> str | None:
        sealed = _cookie(request, app.cookie)
        opened = app.seal.opened(sealed, app.seconds) if sealed else None
        return opened.decode() if opened is not None else None

    # ── links and sessions ───────────────────────────────────────────────────

    async def make_link(self, request: Request) -> Response:
        """A back end with a customer's token gets a link for that customer's browser."""
        authorization = request.headers.get("authorization")
        found = await self._identity(authorization)
        if isinstance(found, Response):
            return found
        if found.principal.role is not Role.CUSTOMER:
            words = "a link is made with a customer token (createCustomerToken)"
            return answers.problem(403, FORBIDDEN, words)
        if limited := self._too_many(found.principal, request):
            return limited
        assert authorization is not None
        code = self._codes.issue(authorization.partition(" ")[2].strip())
        expires_at = to_second(wall_now()) + timedelta(seconds=CODE_SECONDS)
        return JSONResponse(
            {"url": link(self._origin(request), code), "expiresAt": format_instant(expires_at)}
        )

    async def redeem(self, request: Request) -> Response:
        """A link's code becomes a session: once, in the browser that asks first."""
        refused = self._not_from_our_page(request) or self._too_many(_SIGNING_IN, request)
        if refused:
            return refused
        code = _object(await request.body()).get("code")
        found = self._codes.token(code) if isinstance(code, str) else None
        if found is None:
            return _come_again("portal")
        id, token = found
        identity = await self._identity(f"Bearer {token}", "portal")
        if isinstance(identity, Response):
            return identity
        if not await self._codes.redeem(id):
            return _come_again("portal")
        return self._signed_in("portal", token, identity, request)

    async def sign_in(self, request: Request) -> Response:
        """A key or token of staff becomes a session of the console."""
        refused = self._not_from_our_page(request) or self._too_many(_SIGNING_IN, request)
        if refused:
            return refused
        bearer = _object(await request.body()).get("bearer")
        if not isinstance(bearer, str) or not bearer.isascii():
            return _come_again("console")
        identity = await self._identity(f"Bearer {bearer}", "console")
        if isinstance(identity, Response):
            return identity
        if identity.principal.role not in _STAFF:
            return _come_again("console")
        return self._signed_in("console", bearer.strip(), identity, request)

    def sign_out(self, app: str, request: Request) -> Response:
        refused = self._not_from_our_page(request, json_only=False)
        return refused or self._with_cookie(self._apps[app], "", 0, request)

    def _signed_in(self, name: str, bearer: str, identity: Identity, request: Request) -> Response:
        app = self._apps[name]
        seconds = app.seconds
        if identity.expires_at is not None:
            seconds = min(seconds, int((identity.expires_at - wall_now()).total_seconds()))
        sealed = app.seal.closed(bearer.encode())
        if len(sealed) > COOKIE_CHARACTERS_AT_MOST:
            words = "this token is too long for a cookie: have the issuer put less into it"
            return answers.problem(400, BAD_USER_INPUT, words)
        return self._with_cookie(app, sealed, seconds, request)

    def _with_cookie(self, app: _App, value: str, seconds: int, request: Request) -> Response:
        response = Response(status_code=204)
        response.set_cookie(
            app.cookie,
            value,
            max_age=seconds,
            path=f"/{app.name}",
            secure=self._origin(request).startswith("https:"),
            httponly=True,
            samesite="strict",
        )
        return response

    async def _identity(
        self, authorization: str | None, app: str | None = None
    ) -> Identity | Response:
        """Who a bearer is, or the refusal: in `app`'s own words where it is not good."""
        try:
            return await self._authenticator.authenticate(authorization)
        except Unauthenticated as error:
            if app is not None:
                return _come_again(app)
            realm = {"WWW-Authenticate": "Bearer"}
            return answers.problem(401, error.code, error.message, realm)
        except Unavailable as error:
            return answers.problem(503, error.code, error.message, {"Retry-After": "1"})

    def _too_many(self, principal: Principal, request: Request) -> Response | None:
        wait_seconds = self._rates.wait_seconds(principal, address_of(request.scope))
        if not wait_seconds:
            return None
        limited = RateLimited(wait_seconds)
        later = {"Retry-After": str(limited.retry_after_seconds)}
        return answers.problem(429, limited.code, limited.message, later)

    # ── where a request comes from ───────────────────────────────────────────

    def _not_from_our_page(self, request: Request, *, json_only: bool = True) -> Response | None:
        """The refusal of what another page sends, or sends as a form could."""
        path = request.url.path
        if not self._same_origin(request):
            words = "this is for pages of this service only"
            return answers.refusal(path, 403, FORBIDDEN, words)
        sent_as = request.headers.get("content-type", "").partition(";")[0].strip()
        if json_only and sent_as != answers.JSON_TYPE:
            words = f"a request is sent as {answers.JSON_TYPE}"
            return answers.refusal(path, 415, BAD_USER_INPUT, words)
        return None

    def _same_origin(self, request: Request) -> bool:
        """As the browser says it. One that does not know Sec-Fetch-Site still names the origin."""
        site = request.headers.get("sec-fetch-site")
        if site is not None:
            return site == "same-origin"
        return request.headers.get("origin") in (self._asked_at(request), self._origin(request))

    def _origin(self, request: Request) -> str:
        """Where people reach this service."""
        return self._public_url or self._asked_at(request)

    def _asked_at(self, request: Request) -> str:
        return f"{request.url.scheme}://{request.headers.get('host', '')}"


def _come_again(app: str) -> Response:
    return answers.problem(401, Unauthenticated.code, _AGAIN[app])


def _object(body: bytes) -> Mapping[str, Any]:
    """A JSON object; empty where it is none."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _cookie(request: Request, name: str) -> str | None:
    try:
        found = SimpleCookie(request.headers.get("cookie", "")).get(name)
    except CookieError:
        return None
    return found.value if found else None


# ── routes ───────────────────────────────────────────────────────────────────


def _pages(request: Request) -> Pages:
    found: Pages = request.app.state.edge.pages
    return found


def _page(app: str) -> Callable[[Request], Awaitable[Response]]:
    async def page(_request: Request) -> Response:
        shell = assets().shells[app]
        return Response(shell, headers=PAGE_HEADERS, media_type="text/html; charset=utf-8")

    return page


def _sign_out(app: str) -> Callable[[Request], Awaitable[Response]]:
    async def sign_out(request: Request) -> Response:
        return _pages(request).sign_out(app, request)

    return sign_out


async def _make_link(request: Request) -> Response:
    return await _pages(request).make_link(request)


async def _redeem(request: Request) -> Response:
    return await _pages(request).redeem(request)


async def _sign_in(request: Request) -> Response:
    return await _pages(request).sign_in(request)


async def _refused(request: Request) -> Response:
    """A page's GraphQL request that was not handed on."""
    refusal: Response = request.scope[_REFUSED]
    return refusal


PAGES: Final = (
    Route("/portal/assets/{digest}/{name:path}", asset, methods=["GET"]),
    Route("/portal/links", _make_link, methods=["POST"]),
    Route("/portal/session", _redeem, methods=["POST"]),
    Route("/portal/session", _sign_out("portal"), methods=["DELETE"]),
    Route("/console/session", _sign_in, methods=["POST"]),
    Route("/console/session", _sign_out("console"), methods=["DELETE"]),
    Route("/portal/graphql", _refused, methods=["POST"]),
    Route("/console/graphql", _refused, methods=["POST"]),
    *(
        Route(path, _page(app), methods=["GET"])
        for app in ("portal", "console")
        for path in (f"/{app}", f"/{app}/{{path:path}}")
    ),
)
