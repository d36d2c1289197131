"""May they do it now: what a customer's grants say, and the answer to one check."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime

import msgspec

from entitlements.access.usage import NOT_USED
from entitlements.catalog.model import Catalog, Feature, FeatureKind
from entitlements.grants.decide import Decision, decide
from entitlements.grants.merge import Grants
from entitlements.kernel.clock import Clock
from entitlements.kernel.errors import Conflict
from entitlements.subscriptions.customers import CustomerService
from entitlements.subscriptions.holdings import grants_of
from entitlements.subscriptions.state import CustomerState
from entitlements.subscriptions.violations import Used

MAX_CHECKS = 100


class Check(msgspec.Struct, frozen=True):
    """One question. `quantity` is for METERED, `at_least` for ENUM and NUMBER."""

    feature_id: str
    quantity: int = 1
    at_least: str | None = None


class Answer(msgspec.Struct, frozen=True):
    """`resets_at` is when the window of a METERED feature ends; None: it never does."""

    check: Check
    decision: Decision
    feature: Feature | None
    revision: int
    catalog: Catalog
    resets_at: datetime | None = None


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
        customers: CustomerService,
        used: UsedOf,
    ) -> None:
        self._catalog = catalog
        self._clock = clock
        self._customers = customers
        self._used = used

    async def check(
        self, customer_id: str, checks: Sequence[Check], *, min_revision: int | None = None
    ) -> list[Answer]:
        """Answer some checks for one customer, all at one revision.

        Raises `Conflict` `REVISION_NOT_REACHED` rather than answer by an older revision than
        `min_revision`, and `ValidationFailed` for a check that makes no sense.
        """
        catalog = await self._catalog()
        [view] = await self._customers.views([customer_id])
        revision = view.state.revision if view else 0
        if min_revision is not None and view is not None and revision < min_revision:
            raise Conflict(
                f"revision {min_revision} is not reached: {revision} is the latest",
                code="REVISION_NOT_REACHED",
            )
        if view is None:
            return await self.unknown(checks)
        now = self._clock.now()
        grants = grants_of(catalog, view.state, now)
        used = await self._usage_of(catalog, view.state, checks, now)
        return [self._answer(catalog, grants, check, revision, used) for check in checks]

    async def _usage_of(
        self, catalog: Catalog, state: CustomerState, checks: Sequence[Check], at: datetime
    ) -> Mapping[str, Used]:
        """The counters of the METERED features asked about; none asked, nothing read."""
        asked = {check.feature_id: catalog.features.get(check.feature_id) for check in checks}
        metered = [f for f in asked.values() if f is not None and f.kind is FeatureKind.METERED]
        if not metered:
            return {}
        return (await self._used(catalog, [state], metered, at))[state.id]

    async def unknown(self, checks: Sequence[Check]) -> list[Answer]:
        """The answers for a customer that is not there, as far as the one who asks is concerned."""
        catalog = await self._catalog()
        return [self._answer(catalog, None, check, 0, {}) for check in checks]

    def _answer(
        self,
        catalog: Catalog,
        grants: Grants | None,
        check: Check,
        revision: int,
        usage: Mapping[str, Used],
    ) -> Answer:
        feature = catalog.features.get(check.feature_id)
        used = usage.get(check.feature_id, NOT_USED)
        decision = decide(
            grants,
            feature,
            quantity=check.quantity,
            at_least=check.at_least,
            used=used.quantity,
        )
        return Answer(check, decision, feature, revision, catalog, used.resets_at)
