"""The sandbox's state: one SQLite file, one table of objects, one transaction per API request.

Objects are Stripe-shaped dictionaries; keys that begin with `_` are ours and never shown. Whatever
an object is found by (customer, parent, clock, due time, …) is copied into a column when it is
saved. Each process keeps one connection; calls are short and never overlap.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from entitlements.kernel.ids import new_id
from entitlements.sandbox.errors import Json, missing

_SCHEMA = """
create table if not exists objects (
  seq integer primary key,
  id text not null unique,
  kind text not null,
  customer text,
  parent text,
  lookup text,
  clock text not null,
  due integer,
  created integer not null,
  body blob not null
);
create index if not exists objects_kind on objects (kind, seq);
create index if not exists objects_customer on objects (customer, kind, seq);
create index if not exists objects_parent on objects (parent, kind, seq);
create index if not exists objects_lookup on objects (kind, lookup);
create index if not exists objects_due on objects (clock, due) where due is not null;
create table if not exists idempotency (
  key text primary key,
  endpoint text not null,
  params text not null,
  status integer not null,
  body blob not null,
  request text not null
);
create table if not exists deliveries (
  event text not null,
  endpoint text not null,
  attempts integer not null default 0,
  due real not null default 0,
  state text not null default 'pending',
  primary key (event, endpoint)
);
create index if not exists deliveries_due on deliveries (due) where state = 'pending';
create table if not exists settings (name text primary key, value text not null);
"""

_SAVE = """
insert into objects (id, kind, customer, parent, lookup, clock, due, created, body)
values (?, ?, ?, ?, ?, ?, ?, ?, ?)
on conflict (id) do update set customer = excluded.customer, parent = excluded.parent,
  lookup = excluded.lookup, clock = excluded.clock, due = excluded.due, body = excluded.body
"""

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(dict[str, Any]).decode


class Saved(msgspec.Struct, frozen=True):
    """A request's first answer, kept under its idempotency key."""

    endpoint: str
    params: str
    status: int
    body: bytes
    request: str


class Store:
    def __init__(self, file: Path | None) -> None:
        self._db = sqlite3.connect(
            file or ":memory:", isolation_level=None, check_same_thread=False, timeout=10
        )
        self._db.execute("pragma journal_mode = wal")
        # A killed process loses nothing at this setting; only a power cut could.
        self._db.execute("pragma synchronous = normal")
        self._db.executescript(_SCHEMA)

    @contextmanager
    def transaction(self, wall: int) -> Iterator["Transaction"]:
        """All or nothing. `wall` is the machine's time in whole seconds, for what has no clock."""
        self._db.execute("begin immediate")
        tx = Transaction(self._db, wall)
        try:
            yield tx
            tx.flush()
        except BaseException:
            self._db.execute("rollback")
            raise
        self._db.execute("commit")

    def is_due(self, wall: int) -> bool:
        """Whether anything is due by the machine's time."""
        sql = "select 1 from objects where clock = '' and due <= ? limit 1"
        return self._db.execute(sql, (wall,)).fetchone() is not None

    def deliveries_due(self, now: float, limit: int) -> list[tuple[str, str]]:
        """The events to send by now, with their endpoints, oldest first."""
        return self._db.execute(
            "select event, endpoint from deliveries where state = 'pending' and due <= ? "
            "order by due, event limit ?",
            (now, limit),
        ).fetchall()

    def delivered(self, event: str, endpoint: str, state: str) -> None:
        self._db.execute(
            "update deliveries set state = ?, attempts = attempts + 1 "
            "where event = ? and endpoint = ?",
            (state, event, endpoint),
        )

    def postpone(
        self, event: str, endpoint: str, now: float, pauses: tuple[int, ...], give_up: int
    ) -> None:
        """Note a failed attempt: pending again after a pause, failed once it took too long."""
        row = self._db.execute(
            "select attempts from deliveries where event = ? and endpoint = ?", (event, endpoint)
        ).fetchone()
        if row is None:
            return
        pause = pauses[min(row[0], len(pauses) - 1)]
        spent = sum(pauses[min(i, len(pauses) - 1)] for i in range(row[0] + 1))
        self._db.execute(
            "update deliveries set attempts = attempts + 1, due = ?, state = ? "
            "where event = ? and endpoint = ?",
            (now + pause, "failed" if spent > give_up else "pending", event, endpoint),
        )

    def close(self) -> None:
        self._db.close()


class Transaction:
    """One unit of work over the objects. What was read stays the same object until the end."""

    def __init__(self, db: sqlite3.Connection, wall: int) -> None:
        self.db = db
        self.wall = wall
        self.public_url = ""
        self.hooks: list[Json] | None = None
        self.held: set[str] = set()  # subscriptions whose one event is yet to be written
        self.request: Json = {"id": None, "idempotency_key": None}
        self._known: dict[str, Json] = {}
        self._dirty: dict[str, None] = {}

    def get(self, id: str) -> Json | None:
        found = self._known.get(id)
        if found is not None:
            return found
        row = self.db.execute("select body from objects where id = ?", (id,)).fetchone()
        return None if row is None else self._remember(row[0])

    def need(self, id: str, kind: str, param: str = "id") -> Json:
        """The object, or Stripe's `resource_missing` where there is none of that kind."""
        found = self.get(id)
        if found is None or found["object"] != kind or found.get("_deleted"):
            raise missing(kind.split(".")[-1].replace("_", " "), id, param)
        return found

    def save(self, doc: Json) -> Json:
        """Keep a new or a changed object."""
        self._known[doc["id"]] = doc
        self._dirty[doc["id"]] = None
        return doc

    def find(self, kind: str, **filters: Any) -> list[Json]:
        """Every object of a kind that matches, oldest first; see `scan` for the filters."""
        return list(self.scan(kind, newest_first=False, **filters))

    def scan(
        self,
        kind: str,
        *,
        newest_first: bool = True,
        below: int | None = None,
        above: int | None = None,
        **filters: Any,
    ) -> Iterator[Json]:
        """The objects of a kind that match, one by one, in order of creation.

        `filters` are columns: `customer`, `parent`, `lookup`, `clock`. `below` and `above` bound
        the sequence number, both exclusive. Save nothing while scanning: use `find`.
        """
        self.flush()
        if not filters.keys() <= {"customer", "parent", "lookup", "clock"}:
            raise ValueError(f"no such column among {sorted(filters)}")
        where = "".join(f" and {name} = ?" for name in filters)
        values: list[Any] = [kind, *filters.values()]
        for bound, sign in ((below, "<"), (above, ">")):
            if bound is not None:
                where += f" and seq {sign} ?"
                values.append(bound)
        order = "desc" if newest_first else "asc"
        # What is put in is ours, values are bound.
        sql = f"select id, body from objects where kind = ?{where} order by seq {order}"  # nosec B608
        for id, body in self.db.execute(sql, values):
            doc = self._known.get(id) or self._remember(body)
            if not doc.get("_deleted"):
                yield doc

    def first_due(self, clock: str, until: int) -> Json | None:
        """What is due first on a clock by an instant (inclusive); "" is the machine's clock."""
        self.flush()
        row = self.db.execute(
            "select id, body from objects where clock = ? and due <= ? "
            "order by due, kind <> 'subscription_schedule', seq limit 1",
            (clock, until),
        ).fetchone()
        return None if row is None else self._known.get(row[0]) or self._remember(row[1])

    def seq_of(self, id: str) -> int | None:
        self.flush()
        row = self.db.execute("select seq from objects where id = ?", (id,)).fetchone()
        return None if row is None else int(row[0])

    def flush(self) -> None:
        """Write what changed, so that a query sees it."""
        if not self._dirty:
            return
        dirty, self._dirty = self._dirty, {}
        self.db.executemany(_SAVE, [_row(self._known[id]) for id in dirty])

    def setting(self, name: str, default: str) -> str:
        row = self.db.execute("select value from settings where name = ?", (name,)).fetchone()
        return default if row is None else str(row[0])

    def set_setting(self, name: str, value: str) -> None:
        self.db.execute(
            "insert into settings values (?, ?) on conflict do update set value = excluded.value",
            (name, value),
        )

    def saved_answer(self, key: str) -> Saved | None:
        row = self.db.execute(
            "select endpoint, params, status, body, request from idempotency where key = ?", (key,)
        ).fetchone()
        return None if row is None else Saved(*row)

    def save_answer(self, key: str, saved: Saved) -> None:
        self.db.execute(
            "insert or replace into idempotency values (?, ?, ?, ?, ?, ?)",
            (key, saved.endpoint, saved.params, saved.status, saved.body, saved.request),
        )

    def _remember(self, body: bytes) -> Json:
        doc = decode(body)
        return self._known.setdefault(doc["id"], doc)


def _row(doc: Json) -> tuple[Any, ...]:
    return (
        doc["id"],
        doc["object"],
        doc.get("_customer") or _id_of(doc.get("customer")),
        doc.get("_parent"),
        doc.get("_lookup"),
        doc.get("test_clock") or "",
        doc.get("_due"),
        doc.get("created") or 0,
        encode(doc),
    )


def _id_of(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def make_id(prefix: str) -> str:
    """An id in the form of Stripe's: a prefix and letters and digits."""
    return new_id(prefix)
