"""What customers may do, kept in memory: a check reads no database while nothing has changed.

A snapshot is a customer's merged grants at one revision, in one catalog, until an instant. It goes
when the change feed says that the customer has changed; where only time has passed, or another
catalog is sold, it is merged anew from the state that it holds, without a read. While the feed is
not fresh (the database cannot be heard) each answer reads first; where that fails, too, what was
last known goes on answering, and says since when it is unsure.

    unknown customers    kept apart, so that asking for many of them drops nobody who is there
    one load at a time   whoever asks meanwhile waits for the same one, unless a change came since
    reads together       who is asked for while others are read is read in the same statements
"""

import asyncio
import contextlib
import functools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from prometheus_client import Counter, Gauge
from sqlalchemy import select

from entitlements.access.batches import Batches
from entitlements.catalog.model import Catalog
from entitlements.catalog.service import CATALOG_CHANNEL, CatalogService
from entitlements.grants.merge import Grants
from entitlements.kernel.clock import Clock, monotonic_seconds, wall_now
from entitlements.kernel.errors import Conflict, Unavailable
from entitlements.kernel.lru import Lru
from entitlements.storage.engine import is_unreachable
from entitlements.storage.feed import ChangeFeed
from entitlements.storage.patience import Patience
from entitlements.storage.unit_of_work import Database
from entitlements.subscriptions.holdings import grants_of
from entitlements.subscriptions.records import load_states, rows_by
from entitlements.subscriptions.state import CustomerState
from entitlements.subscriptions.tables import CUSTOMER_CHANNEL, CustomerRow, announced_revision

UNKNOWN_AT_MOST: Final = 1_000
CHECKED_AT_ONCE: Final = 1_000
"""How many remembered revisions one statement compares with the database's."""

REVISION_WAIT_SECONDS: Final = 2.0
"""How long a check waits for the revision that it asks for."""

READ_SECONDS: Final = 5.0
"""How long a check waits for a database that does not answer, with nothing else to answer from."""

_hits = Counter("entitlements_snapshot_hits", "Times that a customer was known from memory")
_misses = Counter("entitlements_snapshot_misses", "Times that a customer was read")
_unsure = Counter(
    "entitlements_snapshot_unsure",
    "Times that a customer was known from memory alone, the database away",
)
_size = Gauge("entitlements_snapshot_size", "Customers whose grants are in memory")
_staleness = Gauge(
    "entitlements_snapshot_staleness_seconds",
    "Since when the customers in memory are only known by what was announced",
)


_CUSTOMERS = rows_by(CustomerRow.__table__, "id")


class Snapshot(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one customer may do. Without a `state` there is no such customer.

    It holds in the catalog of `catalog_revision`, before `holds_until` (None: for good), and was
    read `read_at`, in monotonic seconds. `shown` is for whoever answers from it: what was put
    together once of what follows from it alone.
    """

    state: CustomerState | None
    token_generation: int
    grants: Grants | None
    catalog_revision: int
    read_at: float
    shown: dict[Any, Any] = msgspec.field(default_factory=dict)

    @property
    def revision(self) -> int:
        return self.state.revision if self.state is not None else 0

    @property
    def holds_until(self) -> datetime | None:
        return self.grants.holds_until if self.grants is not None else None


class Known(msgspec.Struct, frozen=True, gc=False):
    """A snapshot that holds now, its catalog, and since when it is unsure (None: it is sure)."""

    snapshot: Snapshot
    catalog: Catalog
    unsure_since: datetime | None = None


class _Load:
    """A read that is due or under way; what it finds is kept only if no older than `at_least`."""

    def __init__(self, customer_id: str) -> None:
        self.customer_id = customer_id
        self.task: asyncio.Task[Snapshot] | None = None
        self.has_begun = False
        self.at_least: float = 0


class Snapshots:
    def __init__(
        self,
        database: Database,
        catalog: CatalogService,
        clock: Clock,
        feed: ChangeFeed,
        *,
        at_most: int,
    ) -> None:
        self._database = database
        self._catalogs = catalog
        self._clock = clock
        self._feed = feed
        self._kept: Lru[str, Snapshot] = Lru(at_most)
        self._unknown: Lru[str, Snapshot] = Lru(UNKNOWN_AT_MOST)
        self._loads: dict[str, _Load] = {}
        self._batches = Batches[_Load, Snapshot](self._read)
        self._watching: dict[str, set[asyncio.Event]] = {}
        self._hits = 0
        self._sure_at = float("-inf")
        self._patience = Patience()
        feed.subscribe(CUSTOMER_CHANNEL, self._refresh, drop=self._drop)
        _staleness.set_function(lambda: feed.age_seconds(CUSTOMER_CHANNEL))

    def known_now(self, customer_id: str, *, min_revision: int = 0) -> Known | None:
        """What `get` would say, where nothing has to be waited for; else None."""
        kept = self._kept.get(customer_id)
        if kept is None or kept.revision < min_revision:
            return None
        if not self._feed.is_fresh(CUSTOMER_CHANNEL) or not self._feed.is_fresh(CATALOG_CHANNEL):
            return None
        now = self._clock.now()
        catalog = self._catalogs.remembered(now)
        if catalog is None:
            return None
        self._hits += 1
        return self._held(customer_id, kept, catalog, now)

    def count_hits(self) -> None:
        """Add to the metric what was counted since. One by one it would cost what a look costs."""
        hits, self._hits = self._hits, 0
        _hits.inc(hits)

    async def get(self, customer_id: str, *, min_revision: int = 0) -> Known:
        """What a customer may do now, at `min_revision` or later.

        A revision that the database does not have yet is waited for, `REVISION_WAIT_SECONDS` at
        most: then `Conflict` `REVISION_NOT_REACHED`. `Unavailable` where nothing is remembered and
        the database cannot be reached.
        """
        known = await self._get(customer_id, min_revision)
        if known.snapshot.state is None or known.snapshot.revision >= min_revision:
            return known
        until = monotonic_seconds() + REVISION_WAIT_SECONDS
        pause_seconds = 0.02
        with self.watching(customer_id) as changed:
            while (left := until - monotonic_seconds()) > 0:
                await pause(changed, min(pause_seconds, left))
                known = await self._get(customer_id, min_revision)
                if known.snapshot.revision >= min_revision:
                    return known
                pause_seconds *= 2
        raise Conflict(
            f"revision {min_revision} is not reached: {known.snapshot.revision} is the latest",
            code="REVISION_NOT_REACHED",
        )

    def at_hand(self, customer_id: str) -> Snapshot | None:
        """What is remembered of a customer and sure, be it from an earlier time; else None."""
        return self._kept.get(customer_id) if self._feed.is_fresh(CUSTOMER_CHANNEL) else None

    async def token_generation(self, customer_id: str, *, at_least: int) -> int:
        """The generation of a customer's tokens; 0 where there is no such customer.

        `at_least` is one that is known to be reached, by a token that we signed.
        """
        known = await self._get(customer_id, 0)
        if known.snapshot.token_generation < at_least:  # not heard of yet
            self._unknown.pop(customer_id)
            self._forget(customer_id)
            known = await self._get(customer_id, 0)
        return known.snapshot.token_generation

    @contextmanager
    def watching(self, customer_id: str) -> Iterator[asyncio.Event]:
        """An event that is set, within the block, whenever the customer may have changed."""
        changed = asyncio.Event()
        events = self._watching.setdefault(customer_id, set())
        events.add(changed)
        try:
            yield changed
        finally:
            events.discard(changed)
            if not events:
                self._watching.pop(customer_id, None)

    def revisions(self) -> dict[str, int]:
        """By customer the revision that is remembered."""
        kept = ((id, self._kept.peek(id)) for id in list(self._kept))
        return {id: snapshot.revision for id, snapshot in kept if snapshot is not None}

    # ── asking ───────────────────────────────────────────────────────────────

    async def _get(self, customer_id: str, min_revision: int) -> Known:
        kept = self._kept.get(customer_id) or self._unknown.get(customer_id)
        if kept is not None and kept.revision < min_revision:
            kept = None
        if kept is not None and self._feed.is_fresh(CUSTOMER_CHANNEL):
            self._hits += 1
            catalog = await self._catalog()
            return self._held(customer_id, kept, catalog, self._clock.now())
        loaded: Snapshot | None
        if kept is None:
            loaded = await self._load_at_all(customer_id)
        else:
            loaded = await self._patience.read(lambda: self._load(customer_id))
        catalog = await self._catalog()
        if loaded is not None:
            _misses.inc()
            return self._held(customer_id, loaded, catalog, self._clock.now())
        assert kept is not None
        _unsure.inc()
        return self._held(customer_id, kept, catalog, self._clock.now(), unsure=True)

    async def _load_at_all(self, customer_id: str) -> Snapshot:
        try:
            async with asyncio.timeout(READ_SECONDS):
                return await self._load(customer_id)
        except Exception as error:
            if not is_unreachable(error):
                raise
            raise Unavailable("the database cannot be reached: try again") from error

    async def _catalog(self) -> Catalog:
        """What is sold now; while the database cannot be reached, as far as it was known."""
        now = self._clock.now()
        remembered = self._catalogs.remembered(now)
        if remembered is None:
            return await self._catalogs.as_of(now)
        if self._feed.is_fresh(CATALOG_CHANNEL):
            return remembered
        return await self._patience.read(lambda: self._catalogs.as_of(now)) or remembered

    def _held(
        self,
        customer_id: str,
        snapshot: Snapshot,
        catalog: Catalog,
        now: datetime,
        *,
        unsure: bool = False,
    ) -> Known:
        """The snapshot as it holds now, merged anew if time has passed or the catalog changed."""
        until = snapshot.holds_until
        over = until is not None and until <= now
        if over or snapshot.catalog_revision != catalog.revision:
            fresh = _snapshot(
                catalog, snapshot.state, snapshot.token_generation, now, snapshot.read_at
            )
            if self._kept.peek(customer_id) is snapshot:
                self._kept[customer_id] = fresh
            snapshot = fresh
        unsure_since = None
        if unsure:
            age_seconds = monotonic_seconds() - max(self._sure_at, snapshot.read_at)
            unsure_since = wall_now() - timedelta(seconds=age_seconds)
        return Known(snapshot, catalog, unsure_since)

    # ── reading ──────────────────────────────────────────────────────────────

    async def _load(self, customer_id: str) -> Snapshot:
        """Read a customer, together with whoever asks for the same one now."""
        load = self._loads.get(customer_id)
        if load is None or (load.has_begun and load.at_least):
            load = self._loads[customer_id] = _Load(customer_id)
            load.task = asyncio.create_task(self._batches.settled(load))
            load.task.add_done_callback(functools.partial(self._keep, customer_id, load))
        assert load.task is not None
        return await asyncio.shield(load.task)

    async def _read(self, loads: Sequence[_Load]) -> list[Snapshot]:
        """One read at a time, so it must not wait for ever: others wait for it."""
        for load in loads:
            load.has_begun = True
        ids = list({load.customer_id for load in loads})
        read_at = monotonic_seconds()
        catalog = await self._catalog()
        async with asyncio.timeout(READ_SECONDS), self._database.rows() as connection:
            rows: Any = (await connection.execute(_CUSTOMERS, {"ids": ids})).all()
            states = await load_states(connection, rows)
        generations = {row.id: row.token_generation for row in rows}
        now = self._clock.now()
        return [
            _snapshot(catalog, states.get(id), generations.get(id, 0), now, read_at)
            for id in (load.customer_id for load in loads)
        ]

    def _keep(self, customer_id: str, load: _Load, done: "asyncio.Task[Snapshot]") -> None:
        if self._loads.get(customer_id) is load:
            del self._loads[customer_id]
        if done.cancelled() or done.exception() is not None:
            return
        snapshot = done.result()
        kept = self._kept.peek(customer_id)
        if snapshot.revision < load.at_least or (kept and kept.revision > snapshot.revision):
            return
        if snapshot.state is None:
            self._unknown[customer_id] = snapshot
        else:
            self._kept[customer_id] = snapshot
        _size.set(len(self._kept))

    # ── forgetting ───────────────────────────────────────────────────────────

    def _drop(self, key: str) -> None:
        """A customer has reached a revision: what is older is forgotten."""
        revision, customer_id = announced_revision(key)
        self._unknown.pop(customer_id)
        load = self._loads.get(customer_id)
        if load is not None:
            load.at_least = max(load.at_least, revision)
        kept = self._kept.peek(customer_id)
        if kept is not None and kept.revision < revision:
            self._forget(customer_id)
        else:
            self._wake(customer_id)

    async def _refresh(self, _keys: Iterable[str] | None = None) -> None:
        """Anything may have changed: compare every revision that is remembered."""
        started_at = monotonic_seconds()
        for load in self._loads.values():
            load.at_least = float("inf")
        self._unknown.clear()
        ids = list(self._kept)
        for start in range(0, len(ids), CHECKED_AT_ONCE):
            await self._compare(ids[start : start + CHECKED_AT_ONCE])
        for customer_id in list(self._watching):
            if customer_id not in ids:
                self._wake(customer_id)
        self._sure_at = started_at

    async def _compare(self, ids: list[str]) -> None:
        query = select(CustomerRow.id, CustomerRow.revision).where(CustomerRow.id.in_(ids))
        async with self._database.read() as session:
            stored = {row.id: row.revision for row in await session.execute(query)}
        for customer_id in ids:
            kept = self._kept.peek(customer_id)
            if kept is not None and stored.get(customer_id, kept.revision + 1) > kept.revision:
                self._forget(customer_id)

    def _forget(self, customer_id: str) -> None:
        self._kept.pop(customer_id)
        _size.set(len(self._kept))
        self._wake(customer_id)

    def _wake(self, customer_id: str) -> None:
        for changed in self._watching.get(customer_id, ()):
            changed.set()


def _snapshot(
    catalog: Catalog,
    state: CustomerState | None,
    token_generation: int,
    at: datetime,
    read_at: float,
) -> Snapshot:
    return Snapshot(
        state=state,
        token_generation=token_generation,
        grants=grants_of(catalog, state, at) if state is not None else None,
        catalog_revision=catalog.revision,
        read_at=read_at,
    )


async def pause(changed: asyncio.Event, seconds: float) -> None:
    """Wait until the event is set, or so long; then it is clear again."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(changed.wait(), seconds)
    changed.clear()
