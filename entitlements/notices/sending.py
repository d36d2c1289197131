"""One attempt over HTTP: to a checked address, bounded in time and size, following nobody.

The host is resolved here and the connection made to the very address that was checked, so that a
name cannot become another address in between. TLS still verifies the name.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence

import httpcore
import msgspec
import structlog

from entitlements.kernel.errors import ValidationFailed
from entitlements.notices.addresses import may_reach, parse, refused_address

log = structlog.get_logger()

TIMEOUT_SECONDS = 10.0
RESOLVE_SECONDS = 3.0
CONNECT_SECONDS = 3.0
ADDRESSES_TRIED = 4
CONNECTIONS_AT_MOST = 200
KEPT_SECONDS = 3.0
ANSWER_BYTES_READ = 16_384
"""So much of an answer is read, to use the connection again, and none of it kept."""

GONE = 410
HEADERS = {"Content-Type": "application/json", "User-Agent": "entitlements"}

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


class Answer(msgspec.Struct, frozen=True):
    """How an attempt ended: an HTTP status, or an error in two or three words."""

    status: int | None = None
    error: str | None = None

    @property
    def taken(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


class AddressRefused(httpcore.ConnectError):
    """The host is, or has become, an address that is not for notices."""


async def resolve(host: str, port: int) -> Sequence[str]:
    """The addresses of a host as the system knows them, without repetitions; an `OSError` else."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class Sender:
    """Sends from one event loop, over connections that are kept for a while."""

    def __init__(
        self,
        *,
        sandbox: bool,
        timeout_seconds: float = TIMEOUT_SECONDS,
        resolve: Resolve = resolve,
    ) -> None:
        self._sandbox = sandbox
        self._timeout_seconds = timeout_seconds
        self._resolve = resolve
        self._pool: httpcore.AsyncConnectionPool | None = None

    async def check(self, url: str) -> None:
        """`ValidationFailed` for a URL that no notice would be sent to, by its form or address.

        A host that has no address now may get one: then the attempts say so.
        """
        target = parse(url, sandbox=self._sandbox)
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(RESOLVE_SECONDS):
                addresses = await self._resolve(target.host, target.port)
            if not self._all_allowed(addresses):
                raise refused_address(target.host)

    async def post(self, url: str, headers: Mapping[str, str], body: str) -> Answer:
        """Send once. Never raises for what the other side does, or is."""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await self._post(url, headers, body)
        except TimeoutError:
            return Answer(error="timed out")
        except AddressRefused:
            return Answer(error="address refused")
        except ValidationFailed as error:
            return Answer(error=error.issues[0].code.lower().replace("_", " "))
        except (httpcore.ConnectError, httpcore.ConnectTimeout, OSError):
            return Answer(error="cannot connect")
        except (
            httpcore.NetworkError,
            httpcore.ProtocolError,
            httpcore.TimeoutException,
            httpcore.ConnectionNotAvailable,
        ):
            return Answer(error="no proper answer")
        except Exception as fault:  # a bug must not be tried for ever
            log.error("webhook_attempt_fault", error=type(fault).__name__)
            return Answer(error="fault")

    async def _post(self, url: str, headers: Mapping[str, str], body: str) -> Answer:
        target = parse(url, sandbox=self._sandbox)
        request = self._connections().stream(
            "POST",
            httpcore.URL(
                scheme=target.scheme, host=target.host, port=target.port, target=target.path
            ),
            headers=list({**HEADERS, **headers}.items()),
            content=body.encode(),
        )
        async with request as response:
            await _drain(response.aiter_stream())
            return Answer(status=response.status)

    def _connections(self) -> httpcore.AsyncConnectionPool:
        if self._pool is None:
            self._pool = httpcore.AsyncConnectionPool(
                ssl_context=httpcore.default_ssl_context(),
                max_connections=CONNECTIONS_AT_MOST,
                keepalive_expiry=KEPT_SECONDS,
                network_backend=_CheckedBackend(self._addresses),
            )
        return self._pool

    async def _addresses(self, host: str, port: int) -> Sequence[str]:
        """What a host resolves to now. One address that is not allowed refuses them all."""
        addresses = await self._resolve(host, port)
        if not self._all_allowed(addresses):
            raise AddressRefused(host)
        return addresses[:ADDRESSES_TRIED]

    def _all_allowed(self, addresses: Sequence[str]) -> bool:
        return all(may_reach(address, sandbox=self._sandbox) for address in addresses)

    async def close(self) -> None:
        if self._pool is not None:
            await self._pool.aclose()


class _CheckedBackend(httpcore.AsyncNetworkBackend):
    """Connects to addresses that were checked, and to nothing else."""

    def __init__(self, addresses: Resolve) -> None:
        self._addresses = addresses
        self._backend = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 (httpcore's signature)
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        failed: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in await self._addresses(host, port):
            try:
                return await self._backend.connect_tcp(
                    address, port, CONNECT_SECONDS, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failed = error
        raise failed


async def _drain(stream: AsyncIterator[bytes]) -> None:
    read = 0
    async for piece in stream:
        read += len(piece)
        if read >= ANSWER_BYTES_READ:
            return
