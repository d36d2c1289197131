"""What a process remembers is told of what others change, and never grows older than is said."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from entitlements.kernel.clock import monotonic_seconds
from entitlements.storage import feed as feeds
from entitlements.storage.engine import create_engine
from entitlements.storage.feed import ChangeFeed
from entitlements.storage.unit_of_work import Database

Keys = frozenset[str] | None


class Heard:
    """A subscriber that remembers what it was told, and fails while it is told to."""

    def __init__(self) -> None:
        self.keys: list[Keys] = []
        self.failing = False

    async def __call__(self, keys: Keys) -> None:
        if self.failing:
            raise OSError("the database is away")
        self.keys.append(keys)

    async def until(self, keys: Keys, seconds: float = 5) -> float:
        """How many seconds it took until these keys were heard."""
        return await until(lambda: keys in self.keys, seconds)


async def until(true: Callable[[], bool], seconds: float = 5) -> float:
    start = monotonic_seconds()
    while not true():
        assert monotonic_seconds() < start + seconds, "waited in vain"
        await asyncio.sleep(0.002)
    return monotonic_seconds() - start


@asynccontextmanager
async def process(url: str) -> AsyncIterator[tuple[Database, ChangeFeed, Heard]]:
    """What one process has: an engine of its own, a feed, one who listens."""
    database = Database(create_engine(url))
    feed, heard = ChangeFeed(database), Heard()
    feed.subscribe("things", heard)
    assert not feed.is_fresh("things")
    feed.start()
    await until(lambda: feed.is_fresh("things"))
    try:
        yield database, feed, heard
    finally:
        await feed.close()
        await database.close()
    assert not feed.is_fresh("things")


async def announced(database: Database, feed: ChangeFeed, key: str) -> None:
    async with database.write() as session:
        await session.execute(text("UPDATE installation SET test_clock_id = :key"), {"key": key})
        await feed.announce(session, "things", key)


async def test_what_is_committed_is_heard_in_the_own_process_and_in_another(
    database_url: str,
) -> None:
    async with process(database_url) as (database, feed, own), process(database_url) as another:
        other = another[-1]
        other.keys.clear()
        await announced(database, feed, "one")
        keys = frozenset(["one"])
        await own.until(keys)
        # SQLite cannot tell another process what was changed, only that something was.
        seconds = await other.until(keys if database.is_postgresql else None)
        assert seconds < 1


async def test_what_is_rolled_back_is_not_heard(database_url: str) -> None:
    async with process(database_url) as (database, feed, heard):
        async with AsyncSession(database.engine) as session:
            await feed.announce(session, "things", "undone")
            await session.rollback()
        await announced(database, feed, "done")
        await heard.until(frozenset(["done"]))
        assert frozenset(["undone"]) not in heard.keys


async def test_what_was_missed_while_nobody_listened_is_made_up_for(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "RETRY_SECONDS", 0.05)
    async with process(database_url) as (database, _, heard):
        if not database.is_postgresql:
            pytest.skip("SQLite has no connection to lose")
        heard.keys.clear()
        async with database.read() as session:
            lost = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE :listen"
            killed = await session.scalars(text(lost), {"listen": 'LISTEN "entitlements"%'})
            assert killed.all() == [True]
        # Anything may have changed: once while nobody listens, once when listening again.
        await until(lambda: heard.keys == [None, None])
        await announced(database, ChangeFeed(database), "again")
        await heard.until(frozenset(["again"]))


async def test_what_is_not_announced_is_found_by_the_poll(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "POLL_SECONDS", 0.1)
    async with process(database_url) as (_, _, heard):
        heard.keys.clear()
        database = Database(create_engine(database_url))
        async with database.write() as session:
            await session.execute(text("UPDATE installation SET test_clock_id = 'x'"))
        await heard.until(None)
        await database.close()


@pytest.mark.parametrize("announces", [True, False])
async def test_nothing_is_fresh_once_a_refresh_failed_until_one_succeeds(
    database_url: str, monkeypatch: pytest.MonkeyPatch, announces: bool
) -> None:
    monkeypatch.setattr(feeds, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(feeds, "POLL_SECONDS", 0.05)
    async with process(database_url) as (database, feed, heard):
        heard.failing = True
        await announced(database, feed if announces else ChangeFeed(database), "one")
        await until(lambda: not feed.is_fresh("things"))
        heard.failing = False
        await until(lambda: feed.is_fresh("things"))


async def test_what_nothing_refreshes_is_fresh_no_more_after_a_while(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with process(database_url) as (_, feed, heard):
        hanging: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        blocked: Callable[[Keys], Awaitable[None]] = lambda _: hanging  # noqa: E731
        feed.subscribe("things", blocked)
        monkeypatch.setattr(feeds, "STALE_AT_MOST_SECONDS", 0.2)
        feed._changed("things", "one")
        await until(lambda: not feed.is_fresh("things"))
        assert feed.age_seconds("things") > 0.2
        hanging.set_result(None)
        feed.subscribe("things", heard)


async def test_who_subscribes_while_all_is_refreshed_disturbs_nobody(tmp_path: Path) -> None:
    async with process(f"sqlite+aiosqlite:///{tmp_path}/x.db") as (_, feed, heard):

        async def subscribing(_: Keys) -> None:
            feed.subscribe("others", heard)

        feed.subscribe("things", subscribing)
        await feed._refresh_all()
        await until(lambda: feed.is_fresh("others"))
