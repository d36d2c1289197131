"""May they do it now: the answers to some checks, from what is known of a customer."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime

import msgspec

from entitlements.access.snapshots import Known, Snapshot, Snapshots
from entitlements.access.usage import NOT_USED
from entitlements.catalog.model import Catalog, Feature, FeatureKind
from entitlements.grants.decide import Decision, decide
from entitlements.kernel.clock import Clock
from entitlements.kernel.errors import Unavailable
from entitlements.storage.engine import is_unreachable
from entitlements.subscriptions.state import CustomerState
from entitlements.subscriptions.violations import Used

MAX_CHECKS = 100


class Check(msgspec.Struct, frozen=True):
    """One question. `quantity` is for METERED, `at_least` for ENUM and NUMBER."""

    feature_id: str
    quantity: int = 1
    at_least: str | None = None


class Answer(msgspec.Struct, frozen=True):
    """`resets_at` is when the window of a METERED feature ends; None: it never does.

    `unsure_since`: the database could not be asked, and this is what was known then.
    """

    check: Check
    decision: Decision
    feature: Feature | None
    revision: int
    catalog: Catalog
    resets_at: datetime | None = None
    unsure_since: datetime | None = None


UsedOf = Callable[
    [Catalog, Iterable[CustomerState], Iterable[Feature], datetime],
    Awaitable[Mapping[str, Mapping[str, Used]]],
]
"""What is used of METERED features at an instant, by customer and feature."""


class Access:
    def __init__(
        self,
        catalog: Callable[[], Awaitable[Catalog]],
        clock: Clock,
        snapshots: Snapshots,
        used: UsedOf,
        heard: Callable[[str, Iterable[Answer]], None],
    ) -> None:
        self._catalog = catalog
        self._clock = clock
        self._snapshots = snapshots
        self._used = used
        self._heard = heard

    async def check(
        self, customer_id: str, checks: Sequence[Check], *, min_revision: int | None = None
    ) -> list[Answer]:
        """Answer some checks for one customer, all at one revision, from memory if it is there.

        Counters of METERED features are read from the database at each check. Raises `Conflict`
        `REVISION_NOT_REACHED` rather than answer by an older revision than `min_revision`, after
        having waited for it a moment, `Unavailable` where the database is needed and cannot be
        reached, and `ValidationFailed` for a check that makes no sense.
        """
        least = min_revision or 0
        known = self._snapshots.known_now(customer_id, min_revision=least)
        if known is None:
            known = await self._snapshots.get(customer_id, min_revision=least)
        metered = _metered(known, checks)
        used = await self._usage_of(known, metered) if metered else {}
        answers = [answered(known, check, used.get(check.feature_id, NOT_USED)) for check in checks]
        self._heard(customer_id, answers)
        return answers

    async def _usage_of(self, known: Known, metered: Sequence[Feature]) -> Mapping[str, Used]:
        """The counters of METERED features."""
        state, catalog = known.snapshot.state, known.catalog
        assert state is not None
        try:
            return (await self._used(catalog, [state], metered, self._clock.now()))[state.id]
        except Exception as error:
            if not is_unreachable(error):
                raise
            raise Unavailable("the counters cannot be read: try again") from error

    async def unknown(self, checks: Sequence[Check]) -> list[Answer]:
        """The answers for a customer that is not there, as far as the one who asks is concerned."""
        catalog = await self._catalog()
        nobody = Snapshot(
            state=None,
            token_generation=0,
            grants=None,
            catalog_revision=catalog.revision,
            read_at=0,
        )
        return [answered(Known(nobody, catalog), check, NOT_USED) for check in checks]


def _metered(known: Known, checks: Sequence[Check]) -> list[Feature]:
    """Of what is asked about, that which is counted."""
    if known.snapshot.state is None:
        return []
    features = known.catalog.features
    asked = [features.get(check.feature_id) for check in checks]
    found = {f.id: f for f in asked if f is not None and f.kind is FeatureKind.METERED}
    return list(found.values())


def answered(known: Known, check: Check, used: Used) -> Answer:
    """The answer to one check, with what is used of its feature, if that is METERED."""
    feature = known.catalog.features.get(check.feature_id)
    snapshot = known.snapshot
    decision = decide(
        snapshot.grants,
        feature,
        quantity=check.quantity,
        at_least=check.at_least,
        used=used.quantity,
    )
    revision, resets_at = snapshot.revision, used.resets_at
    return Answer(check, decision, feature, revision, known.catalog, resets_at, known.unsure_since)
