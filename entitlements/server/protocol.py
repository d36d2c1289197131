"""A connection: what is asked most is answered as it arrives, and what never arrives is closed.

A hot request that `Front` answers from memory needs none of what a server prepares for an
application: it is answered between two reads of the socket. Everything else goes uvicorn's way, a
hot one that cannot be answered so included, as if it had gone there from the beginning.
"""

import asyncio
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from entitlements.server.front import FRONT, Front

REQUEST_SECONDS = 20.0
"""Within this time a request is here whole, from the connection or its own first byte."""


class Protocol(HttpToolsProtocol):
    """uvicorn's, whose own timeout begins after a first answer."""

    _deadline: asyncio.TimerHandle | None = None
    _is_awaited = True
    _idle: asyncio.TimerHandle | None = None
    _answered_at = 0.0
    _front: Front | None = None
    _head: ClassVar[bytes] = b""
    _head_of: ClassVar[object] = None
    _body: bytearray | None = None
    """Of a request that `Front` may answer, as far as it is here."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._front = self.app_state.get(FRONT)
        self._await_request()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_awaited:
            self._await_request()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_awaited = True

    def on_headers_complete(self) -> None:
        if self._front is not None and self._is_plain():
            self._body = bytearray()
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if self._body is None:
            super().on_body(body)
            return
        self._body += body
        assert self._front is not None
        if len(self._body) > self._front.bytes_at_most:
            self._go_on()

    def on_message_complete(self) -> None:
        self._request_is_here()
        if self._body is not None:
            assert self._front is not None
            answer = self._front.answer_at_once(self.headers, self._body)
            if answer is not None:
                self._send(answer)
                return
            self._go_on()
        super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        self._request_is_here()
        super().handle_websocket_upgrade()

    def shutdown(self) -> None:
        self._go_on()
        super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        self._request_is_here()
        self._body = None
        if self._idle is not None:
            self._idle.cancel()
        super().connection_lost(exc)

    # ── hot requests ─────────────────────────────────────────────────────────

    def _is_plain(self) -> bool:
        """Whether it is the next one to answer, on a connection that goes on afterwards."""
        parser, cycle = self.parser, self.cycle
        return (
            self.url == b"/graphql"
            and parser.get_method() == b"POST"
            and parser.should_keep_alive()
            and parser.get_http_version() == "1.1"
            and not parser.should_upgrade()
            and not self.expect_100_continue
            and (cycle is None or cycle.response_complete)
            and not self.pipeline
            and not self.flow.write_paused
        )

    def _go_on(self) -> None:
        """Hand over to uvicorn what was held back, if anything was."""
        body, self._body = self._body, None
        if body is not None:
            super().on_headers_complete()
            if body:
                super().on_body(bytes(body))

    def _send(self, answer: bytes) -> None:
        self._body = None
        headers = self.server_state.default_headers
        if headers is not Protocol._head_of:  # uvicorn makes them once a second
            lines = [b"%b: %b\r\n" % header for header in headers]
            Protocol._head_of, Protocol._head = headers, b"HTTP/1.1 200 OK\r\n" + b"".join(lines)
        self.transport.write(Protocol._head + answer)
        self.server_state.total_requests += 1
        self._answered_at = self.loop.time()
        if self._idle is None:
            self._idle = self.loop.call_later(self.timeout_keep_alive, self._idle_for_long)

    # ── requests that do not come ────────────────────────────────────────────

    def _idle_for_long(self) -> None:
        """One timer for many answers: those of uvicorn's way bring their own."""
        self._idle = None
        is_uvicorns = self.timeout_keep_alive_task is not None or (
            self.cycle is not None and not self.cycle.response_complete
        )
        if self._body is None and not is_uvicorns:
            left = self._answered_at + self.timeout_keep_alive - self.loop.time()
            if left > 0:
                self._idle = self.loop.call_later(left, self._idle_for_long)
            else:
                self.timeout_keep_alive_handler()

    def _await_request(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(REQUEST_SECONDS, self._too_late)

    def _request_is_here(self) -> None:
        self._is_awaited = False
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_late(self) -> None:
        self._deadline = None
        transport: Any = self.transport
        if not transport.is_closing():
            transport.close()
