"""What changed, told to every process that keeps something in memory.

A change is announced in the transaction that makes it, as a channel and a key. PostgreSQL delivers
it at the commit (`LISTEN/NOTIFY`, one connection a process, apart from the pool); on SQLite the own
process is told at the commit, and another's commit is noticed by the file's `data_version`. Behind
both stands a poll, so that what is remembered has a greatest age, whatever breaks:

    PostgreSQL, listening                 milliseconds
    PostgreSQL, the connection lost       RETRY_SECONDS, until it is back
    PostgreSQL, the connection mute       POLL_SECONDS (a pooler that swallows notifications, too)
    SQLite, by another process            SQLITE_POLL_SECONDS
    the database cannot be reached        nothing is fresh as soon as that is known, at the latest
                                          after STALE_AT_MOST_SECONDS: whoever keeps something has
                                          to read it anew
"""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import structlog
from sqlalchemy import event, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from entitlements.kernel.clock import monotonic_seconds
from entitlements.storage.unit_of_work import Database

log = structlog.get_logger()

SQLITE_POLL_SECONDS: Final = 0.1
POLL_SECONDS: Final = 10.0
RETRY_SECONDS: Final = 1.0
STALE_AT_MOST_SECONDS: Final = 30.0
PING_TIMEOUT_SECONDS: Final = 5.0
CLOSE_TIMEOUT_SECONDS: Final = 1.0

_POSTGRESQL_CHANNEL: Final = "entitlements"

Refresh = Callable[[frozenset[str] | None], Awaitable[None]]
"""Called with the keys that changed, or with None where anything may have: after a start or a lost
connection, at each poll, and for any commit of another process on SQLite. It has to see to it that
nothing older than its call is remembered afterwards; if it raises, it is called again."""

Drop = Callable[[str], None]
"""Called at once with each key that changed, instead of `Refresh`; it has nothing to wait for."""


class ChangeFeed:
    """One process's. A feed that is not running is never fresh."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._refreshes: dict[str, Refresh] = {}
        self._drops: dict[str, Drop] = {}
        self._pending: dict[str, set[str]] = {}
        self._refreshed_at: dict[str, float] = {}
        self._wake = asyncio.Event()
        self._closing = self._down = False
        self._look_at = 0.0
        self._task: asyncio.Task[None] | None = None
        database.committed.append(self._changed)

    def subscribe(self, channel: str, refresh: Refresh, *, drop: Drop | None = None) -> None:
        """One for each channel, which is a word without a colon.

        With a `drop` keys are told to that one, before `Database.write` returns where it was the
        own process that wrote a row which is announced by itself.
        """
        self._refreshes[channel] = refresh
        if drop is not None:
            self._drops[channel] = drop
        self._look_now()

    async def announce(self, session: AsyncSession, channel: str, key: str) -> None:
        """Tell every process, if and when the session's transaction is committed.

        A key has up to 255 characters. PostgreSQL holds one lock of the whole database while a
        transaction that announces commits: announce once a transaction, and only what is read.
        """
        if self._database.is_postgresql:
            payload = f"{channel}:{key}"
            await session.execute(select(func.pg_notify(_POSTGRESQL_CHANNEL, payload)))
        else:
            event.listen(
                session.sync_session, "after_commit", lambda _: self._changed(channel, key)
            )

    def is_fresh(self, channel: str) -> bool:
        """Whether what the channel's subscriber remembers may be served without reading."""
        return self.age_seconds(channel) <= STALE_AT_MOST_SECONDS

    def age_seconds(self, channel: str) -> float:
        """Since when a channel is only known by what was announced; infinite if not at all."""
        refreshed_at = self._refreshed_at.get(channel)
        return float("inf") if refreshed_at is None else monotonic_seconds() - refreshed_at

    @property
    def is_alive(self) -> bool:
        """Whether it runs and hears, as far as is known."""
        return self._task is not None and not self._task.done() and not self._down

    # ── running ──────────────────────────────────────────────────────────────

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="change-feed")

    async def close(self) -> None:
        """Stop after what is under way: a statement is never cut off in the middle."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            await self._task
        self._refreshed_at.clear()

    async def _run(self) -> None:
        watching = self._listening if self._database.is_postgresql else self._probing
        while not self._closing:
            try:
                async with watching() as look:
                    await self._refresh_all()
                    self._tell(None)
                    await self._follow(look)
            except Exception as error:
                self._refreshed_at.clear()  # nothing is heard: only a poll can tell
                self._tell(error)
                await self._poll_alone()

    async def _follow(self, look: Callable[[], Awaitable[bool]]) -> None:
        """Refresh what is announced, and everything where `look` says that something changed."""
        poll_seconds = POLL_SECONDS if self._database.is_postgresql else SQLITE_POLL_SECONDS
        self._look_at = monotonic_seconds() + poll_seconds
        while not self._closing:
            await self._sleep(self._look_at - monotonic_seconds())
            while self._pending and not self._closing:
                channel, keys = self._pending.popitem()
                await self._refresh(channel, frozenset(keys))
            now = monotonic_seconds()
            if now >= self._look_at and not self._closing:
                if await look():
                    await self._refresh_all()
                else:
                    self._refreshed_at = dict.fromkeys(self._refreshes, now)
                self._look_at = monotonic_seconds() + poll_seconds

    async def _poll_alone(self) -> None:
        """What is left to do while nothing is heard: one poll, if the database can be reached."""
        with contextlib.suppress(Exception):
            await self._refresh_all()
        await self._sleep(RETRY_SECONDS)

    async def _sleep(self, seconds: float) -> None:
        """Wait until something happens, or the time is over."""
        if not self._closing:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), seconds)
            self._wake.clear()

    def _tell(self, error: Exception | None) -> None:
        """Log that the feed went down, or is back: once each."""
        if error is not None and not self._down:
            log.warning("change_feed_down", error=type(error).__name__, detail=str(error)[:200])
        elif error is None and self._down:
            log.info("change_feed_back")
        self._down = error is not None

    async def _refresh_all(self) -> None:
        self._pending.clear()
        for channel in tuple(self._refreshes):  # who subscribes meanwhile is looked after next
            await self._refresh(channel, None)

    async def _refresh(self, channel: str, keys: frozenset[str] | None) -> None:
        refresh = self._refreshes.get(channel)
        if refresh is None:
            return
        started_at = monotonic_seconds()
        try:
            await refresh(keys)
        except Exception:
            self._refreshed_at.pop(channel, None)  # it is known to be old
            raise
        if keys is None:
            self._refreshed_at[channel] = started_at

    def _changed(self, channel: str, key: str) -> None:
        drop = self._drops.get(channel)
        if drop is not None:
            drop(key)
        elif channel in self._refreshes:
            self._pending.setdefault(channel, set()).add(key)
            self._wake.set()

    def _look_now(self) -> None:
        self._look_at = 0.0
        self._wake.set()

    # ── PostgreSQL ───────────────────────────────────────────────────────────

    @asynccontextmanager
    async def _listening(self) -> AsyncIterator[Callable[[], Awaitable[bool]]]:
        """Hear notifications while the block runs. Losing the connection raises in the block."""
        async with self._database.engine.connect() as connection:
            driver: Any = (await connection.get_raw_connection()).driver_connection
            await connection.run_sync(lambda pooled: pooled.detach())

            async def look() -> bool:
                await driver.execute("SELECT 1", timeout=PING_TIMEOUT_SECONDS)
                return True

            try:
                driver.add_termination_listener(lambda _: self._look_now())
                await driver.add_listener(_POSTGRESQL_CHANNEL, self._notified)
                yield look
            finally:
                with contextlib.suppress(Exception):  # it may be dead already
                    await driver.close(timeout=CLOSE_TIMEOUT_SECONDS)

    def _notified(self, _driver: Any, _pid: int, _channel: str, payload: Any) -> None:
        channel, _, key = str(payload).partition(":")
        self._changed(channel, key)

    # ── SQLite ───────────────────────────────────────────────────────────────

    @asynccontextmanager
    async def _probing(self) -> AsyncIterator[Callable[[], Awaitable[bool]]]:
        """A connection that only looks whether the file was committed to: some microseconds."""
        probe = sqlite3.connect(self._database.engine.url.database or "", timeout=0)
        seen = _data_version(probe)

        async def look() -> bool:
            nonlocal seen
            before, seen = seen, _data_version(probe)
            return seen != before

        try:
            yield look
        finally:
            probe.close()


def _data_version(probe: sqlite3.Connection) -> int:
    """A number that another connection's commit changes (sqlite.org/pragma.html)."""
    version: int = probe.execute("PRAGMA data_version").fetchone()[0]
    return version
