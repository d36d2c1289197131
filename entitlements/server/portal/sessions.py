"""Sessions of the pages: a bearer, sealed in a cookie that no script can read.

A link to the portal carries a code, which is a customer token sealed in the same way, good for
five minutes and once. All of it is by wall time, as bearers are.
"""

import base64
from datetime import timedelta
from typing import Final

import msgspec
from cryptography.fernet import Fernet as Key
from cryptography.fernet import InvalidToken, MultiFernet
from sqlalchemy import delete
from sqlalchemy.exc import IntegrityError

from entitlements.kernel.clock import wall_now
from entitlements.kernel.ids import random_token
from entitlements.kernel.signing import Signer
from entitlements.server.tables import RedeemedCodeRow
from entitlements.storage.unit_of_work import Database

CODE_SECONDS: Final = 300
_REMEMBERED: Final = timedelta(hours=1)
"""Longer than a code is good by any process's clock."""


class Seal:
    """Of one purpose: the first of the signing keys closes, all open."""

    def __init__(self, signer: Signer, purpose: str) -> None:
        keys = signer.derived_keys(purpose)
        self._keys = MultiFernet([Key(base64.urlsafe_b64encode(key)) for key in keys])

    def closed(self, content: bytes) -> str:
        return self._keys.encrypt_at_time(content, _seconds()).decode()

    def opened(self, text: str, ttl_seconds: int) -> bytes | None:
        """What was sealed; None where it was not by us for this purpose, or too long ago."""
        try:
            return self._keys.decrypt_at_time(text.encode(), ttl_seconds, _seconds())
        except InvalidToken:
            return None


def _seconds() -> int:
    return int(wall_now().timestamp())


class _Code(msgspec.Struct, frozen=True):
    id: str
    token: str


class Codes:
    """A customer token in a link, and out of it."""

    def __init__(self, signer: Signer, database: Database) -> None:
        self._seal = Seal(signer, "portal-code")
        self._database = database

    def issue(self, token: str) -> str:
        return self._seal.closed(msgspec.json.encode(_Code(random_token(), token)))

    def token(self, code: str) -> tuple[str, str] | None:
        """A code's id and token, if it is one of ours and not too old."""
        found = self._seal.opened(code, CODE_SECONDS)
        if found is None:
            return None
        read = msgspec.json.decode(found, type=_Code)
        return read.id, read.token

    async def redeem(self, id: str) -> bool:
        """Whether this is the first time, in any process."""
        now = wall_now()
        try:
            async with self._database.write() as session:
                await session.execute(
                    delete(RedeemedCodeRow).where(RedeemedCodeRow.expires_at <= now)
                )
                session.add(RedeemedCodeRow(id=id, expires_at=now + _REMEMBERED))
        except IntegrityError:
            return False
        return True


def link(origin: str, code: str) -> str:
    """Where a browser redeems it: what follows a `#` is sent to nobody."""
    return f"{origin}/portal#code={code}"
