"""What somebody with a key was refused: kept in the ledger, for those who watch over roles.

A publishable key and a customer's token are in anybody's hands: what they may not do is answered,
and not written down. Nor is the same refusal twice within a minute, so that a client that goes on
trying fills no ledger.
"""

from datetime import datetime, timedelta

from entitlements.audit import ledger
from entitlements.audit.ledger import Actor
from entitlements.kernel.clock import Clock, wall_now
from entitlements.storage.installation import lock_installation
from entitlements.storage.unit_of_work import Database

STREAM = "refusals"
AGAIN_AFTER = timedelta(minutes=1)
REMEMBERED_AT_MOST = 10_000


class Refusals:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._noted: dict[tuple[str, str, str], datetime] = {}

    async def note(self, actor: Actor, asked: str, code: str, message: str) -> None:
        """`asked` is the field of the API, such as `Mutation.approveProposal`."""
        now, refusal = wall_now(), (actor.name, asked, code)
        noted = self._noted.get(refusal)
        if noted is not None and now - noted < AGAIN_AFTER:
            return
        if len(self._noted) >= REMEMBERED_AT_MOST:
            self._noted.clear()
        self._noted[refusal] = now
        async with self._database.write() as session:
            await lock_installation(session)
            await ledger.append(
                session,
                stream=STREAM,
                at=self._clock.now(),
                actor=actor,
                action="access.refused",
                object_type="field",
                object_id=asked,
                after={"code": code},
                reason=message,
            )
