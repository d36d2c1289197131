"""May they do it now: what a customer's grants say, and the answer to one check."""

from collections.abc import Awaitable, Callable, Sequence

import msgspec

from entitlements.catalog.model import Catalog, Feature
from entitlements.grants.decide import Decision, decide
from entitlements.grants.merge import Grants
from entitlements.kernel.clock import Clock
from entitlements.kernel.errors import Conflict
from entitlements.subscriptions.customers import CustomerService
from entitlements.subscriptions.holdings import grants_of

MAX_CHECKS = 100


class Check(msgspec.Struct, frozen=True):
    """One question. `quantity` is for METERED, `at_least` for ENUM and NUMBER."""

    feature_id: str
    quantity: int = 1
    at_least: str | None = None


class Answer(msgspec.Struct, frozen=True):
    check: Check
    decision: Decision
    feature: Feature | None
    revision: int
    catalog: Catalog


class Access:
    def __init__(
        self,
        catalog: Callable[[], Awaitable[Catalog]],
        clock: Clock,
        customers: CustomerService,
    ) -> None:
        self._catalog = catalog
        self._clock = clock
        self._customers = customers

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
        grants = grants_of(catalog, view.state, self._clock.now()) if view else None
        return [self._answer(catalog, grants, check, revision) for check in checks]

    async def unknown(self, checks: Sequence[Check]) -> list[Answer]:
        """The answers for a customer that is not there, as far as the one who asks is concerned."""
        catalog = await self._catalog()
        return [self._answer(catalog, None, check, 0) for check in checks]

    def _answer(
        self, catalog: Catalog, grants: Grants | None, check: Check, revision: int
    ) -> Answer:
        feature = catalog.features.get(check.feature_id)
        decision = decide(grants, feature, quantity=check.quantity, at_least=check.at_least)
        return Answer(check, decision, feature, revision, catalog)
