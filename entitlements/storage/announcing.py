"""Rows whose changes are announced by themselves, so that nobody who writes one can forget it.

the own process     told when `Database.write()` has committed what the ORM wrote
other processes     PostgreSQL: by a trigger of the migrations, whoever writes, also by hand;
                    SQLite: any commit is noticed (see `feed`)
"""

from collections.abc import Callable
from typing import Any

from sqlalchemy import event, inspect
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, object_session

from entitlements.storage.base import Base

_ANNOUNCED = "entitlements.announced"


def announce_changes(
    kind: type[Base], column: str, channel: str, key: Callable[[Any], str]
) -> None:
    """Announce every new row, and every one whose column changes. The trigger says the same."""

    def note(_mapper: object, _connection: object, row: Any) -> None:
        session = object_session(row)
        if session is not None:
            session.info.setdefault(_ANNOUNCED, []).append((channel, key(row)))

    def note_if_changed(mapper: object, connection: object, row: Any) -> None:
        if inspect(row).attrs[column].history.has_changes():
            note(mapper, connection, row)

    event.listen(kind, "after_insert", note)
    event.listen(kind, "after_update", note_if_changed)


def announced(session: AsyncSession | Session) -> list[tuple[str, str]]:
    """What the session has written that is announced: channels and keys."""
    found: list[tuple[str, str]] = session.info.get(_ANNOUNCED, [])
    return found
