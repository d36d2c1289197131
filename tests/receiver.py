"""Somebody else's endpoint on this machine: takes notices, and answers as a test says."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from standardwebhooks import Webhook

SILENCE = 0
"""Instead of a status: take the notice, and never answer."""


class Received(msgspec.Struct, frozen=True):
    """A request as it came, its headers in lower case."""

    headers: dict[str, str]
    body: str

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    def verified(self, secret: str) -> Any:
        """What it says, if the signature is good: judged by Standard Webhooks' own library."""
        return Webhook(secret).verify(self.body, self.headers)


class Receiver:
    """Answers with each of `statuses` once, and with the last of them from then on."""

    def __init__(self, statuses: Sequence[int], headers: str, body: str) -> None:
        self.url = ""
        self.received: list[Received] = []
        self.on_receipt: Callable[[], None] | None = None
        self._statuses = list(statuses)
        self._rest = f"{headers}Content-Length: {len(body)}\r\n\r\n{body}"

    def answer(self, *statuses: int) -> None:
        """What it answers from now on."""
        self._statuses = list(statuses)

    async def has_received(self, count: int) -> None:
        """Wait until so many notices have come."""
        async with asyncio.timeout(30):
            while len(self.received) < count:
                await asyncio.sleep(0.01)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError), contextlib.closing(writer):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
                pairs = (line.split(": ", 1) for line in head[1:] if line)
                headers = {name.lower(): value for name, value in pairs}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                self.received.append(Received(headers, body.decode()))
                if self.on_receipt is not None:
                    self.on_receipt()
                status = self._statuses.pop(0) if len(self._statuses) > 1 else self._statuses[0]
                if status == SILENCE:
                    await reader.read()  # until the other side gives up
                    return
                writer.write(f"HTTP/1.1 {status} Said\r\n{self._rest}".encode())
                await writer.drain()


@asynccontextmanager
async def receiving(
    *statuses: int, headers: str = "", body: str = "", tls: ssl.SSLContext | None = None
) -> AsyncIterator[Receiver]:
    receiver = Receiver(statuses or (204,), headers, body)
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0, ssl=tls)
    receiver.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hooks"
    async with server:
        yield receiver
