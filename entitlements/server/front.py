"""In front of the framework: hot documents of bearers that are remembered, answered directly.

What comes here is a `POST /graphql` that any ordinary client sends. Whatever is unusual about it
(its headers, its body, its bearer, its document, its variables) goes on to the ordinary way, from
the beginning: that one says what is wrong, and remembers what the next request may be answered
from. So nothing is decided here that is not decided there, and nothing is said differently.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

import msgspec
from starlette.types import Message, Receive, Scope, Send

from entitlements.kernel.clock import monotonic_seconds
from entitlements.kernel.ids import new_id
from entitlements.kernel.lru import Lru
from entitlements.server import metrics
from entitlements.server.authentication import Authenticator, Identity
from entitlements.server.headers import SECURITY_HEADERS
from entitlements.server.logging import request_id
from entitlements.server.rates import COUNTED, Rates, address_of
from entitlements.services import Services
from graphql_schema.coercion import NotHere
from graphql_schema.compiled import AtOnce, Operation, compile_operation
from graphql_schema.context import Context
from graphql_schema.documents import CHARACTERS_REMEMBERED_AT_MOST, Documents, Prepared
from graphql_schema.permissions import Role
from graphql_schema.schema import schema

FRONT: Final = "front"
"""How the state of a lifespan calls the application's `Front`: there connections find it."""

ACCEPTS_AT_MOST: Final = 100
"""How many different `Accept` headers are remembered."""

BODIES_AT_MOST: Final = 1_000
BODY_BYTES_REMEMBERED_AT_MOST: Final = 1_000
"""A check with a customer token says the same whoever the customer is."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_MISSING: Any = object()
_SECURITY_HEADERS = b"".join(b"%b: %b\r\n" % header for header in SECURITY_HEADERS)

Headers = Iterable[tuple[bytes, bytes]]
"""Of a request, their names in lower case."""


class _Asked(NamedTuple):
    """What a body asks for; `at_once`: how memory may answer it."""

    prepared: Prepared
    name: str | None
    operation: Operation
    variables: Mapping[str, Any]
    at_once: AtOnce | None


class Front:
    """One application's. `media_type` is what of ours an `Accept` header prefers."""

    def __init__(
        self,
        services: Services,
        authenticator: Authenticator,
        documents: Documents,
        rates: Rates,
    ) -> None:
        self._services = services
        self._authenticator = authenticator
        self._documents = documents
        self._rates = rates
        self.bytes_at_most = services.settings.request_bytes_at_most
        self._media_types: Lru[bytes, bytes] = Lru(ACCEPTS_AT_MOST)
        self._bodies: Lru[bytes, _Asked] = Lru(BODIES_AT_MOST)
        self._is_closed = False

    def prefers(self, accept: bytes, media_type: str) -> None:
        """An ordinary request had this `Accept`, and was answered in this media type."""
        self._media_types[accept] = media_type.encode()

    def close(self) -> None:
        """From now on nothing is answered at once: answers have to say that they are the last."""
        self._is_closed = True

    def answer_at_once(self, headers: Headers, body: bytes | bytearray) -> bytes | None:
        """An answer from memory, from its first header on; None: the application has to answer.

        Its address counts for a publishable key, and its origin for a page: these go on, too.
        """
        found = None if self._is_closed else self._client(headers)
        if found is None:
            return None
        identity, media_type, is_page = found
        principal = identity.principal
        if is_page or principal.role is Role.PUBLISHABLE:
            return None
        asked = self._asked(bytes(body))
        if asked is None or asked.at_once is None:
            return None
        prepared, name = asked.prepared, asked.name
        if not self._documents.are_open_to(principal, prepared):
            return None
        started_at = monotonic_seconds()
        id = new_id("req")
        context = Context(self._services, principal, id, documents=self._documents)
        try:
            answer = _encode(asked.at_once.answer(context))
        except Exception:  # `NotHere`, or a fault: the application says, and logs, what is wrong
            return None
        if self._rates.wait_seconds(principal, ""):
            return None
        seconds = monotonic_seconds() - started_at
        metrics.answered(prepared, name, principal, metrics.OK, seconds)
        return b"content-type: %b\r\ncontent-length: %d\r\nx-request-id: %b\r\n%b\r\n%b" % (
            media_type,
            len(answer),
            id.encode(),
            _SECURITY_HEADERS,
            answer,
        )

    def _client(self, headers: Headers) -> tuple[Identity, bytes, bool] | None:
        """Who asks, in what media type the answer is wanted, and whether a page asks."""
        bearer = content_type = None
        accept, is_page = b"", False
        for name, value in headers:
            if name == b"authorization" and bearer is None:
                bearer = value
            elif name == b"content-type" and content_type is None:
                content_type = value
            elif name == b"accept" and not accept:
                accept = value
            elif name == b"origin":
                is_page = True
        media_type = self._media_types.get(accept)
        if content_type != b"application/json" or bearer is None or media_type is None:
            return None
        identity = self._authenticator.remembered(bearer)
        return None if identity is None else (identity, media_type, is_page)

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> Receive | None:
        """Answer, or say what the ordinary way has to receive."""
        client = self._client(scope["headers"])
        if client is None:
            return receive
        identity, media_type, _ = client
        messages = [await receive()]
        body: bytes = messages[0].get("body", b"")
        while messages[-1].get("more_body") and len(body) <= self.bytes_at_most:
            messages.append(await receive())
            body += messages[-1].get("body", b"")
        found = self._asked(body)
        if found is None:
            return _again(messages, receive)
        prepared, name = found.prepared, found.name
        if not self._documents.are_open_to(identity.principal, prepared):
            return _again(messages, receive)
        if self._rates.wait_seconds(identity.principal, address_of(scope)):
            return _again(messages, receive)
        scope[COUNTED] = True
        started_at = monotonic_seconds()
        id = new_id("req")
        named = request_id.set(id)
        context = Context(self._services, identity.principal, id, documents=self._documents)
        try:
            said = await found.operation.answer(context, found.variables)
            answer = _encode(said)
        except NotHere:
            return _again(messages, receive)
        finally:
            request_id.reset(named)
        outcome = metrics.REFUSED if "errors" in said else metrics.OK
        seconds = monotonic_seconds() - started_at
        metrics.answered(prepared, name, identity.principal, outcome, seconds)
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [
                    (b"content-length", b"%d" % len(answer)),
                    (b"content-type", media_type),
                    (b"x-request-id", id.encode()),
                    *SECURITY_HEADERS,
                ],
            }
        )
        await send({"type": "http.response.body", "body": answer})
        return None

    def _asked(self, body: bytes) -> _Asked | None:
        """What a body asks for, if that is a hot operation: read once, whoever sends it."""
        found = self._bodies.get(body)
        if found is None:
            found = self._read(body)
            if found is not None and len(body) <= BODY_BYTES_REMEMBERED_AT_MOST:
                self._bodies[body] = found
        return found

    def _read(self, body: bytes) -> _Asked | None:
        if len(body) > self.bytes_at_most:
            return None
        if b"\\u" in body or not body.isascii():  # half surrogates, NUL, what is not UTF-8
            return None
        try:
            asked = _decode(body)
        except (msgspec.DecodeError, RecursionError):
            return None
        if type(asked) is not dict:
            return None
        text, name = asked.get("query"), asked.get("operationName")
        if "documentId" in asked:
            id = asked["documentId"]
            text = None if "query" in asked or type(id) is not str else self._documents.text(id)
        elif type(text) is str and len(text) > CHARACTERS_REMEMBERED_AT_MOST:
            return None
        variables, extensions = asked.get("variables"), asked.get("extensions")
        if not (
            isinstance(text, str)
            and isinstance(name, str | None)
            and isinstance(variables, dict | None)
            and isinstance(extensions, dict | None)
        ):
            return None
        prepared = self._documents.prepared(text)
        operation = prepared.compiled.get(name, _MISSING)
        if operation is _MISSING:
            operation = None
            if prepared.ast is not None and not prepared.errors:
                operation = compile_operation(schema, prepared.ast, name)
            prepared.compiled[name] = operation
        if operation is None:
            return None
        given = variables or {}
        return _Asked(prepared, name, operation, given, operation.at_once(given))


def _again(messages: list[Message], receive: Receive) -> Receive:
    """What was received, once more, and then what comes."""
    waiting = iter(messages)

    async def again() -> Message:
        return next(waiting, None) or await receive()

    return again
