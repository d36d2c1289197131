"""The provider's test clock, in a sandbox: it follows the service's."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime

import stripe

from entitlements.billing.sdk import instant, provider_errors
from entitlements.kernel.clock import Clock
from entitlements.kernel.ids import new_id
from entitlements.kernel.period import add_months, to_second

CLOCK_POLL_SECONDS = 0.05


class ProviderClock:
    """`test_clock` gives the id of the test clock that customers live under; None: not a sandbox.

    It follows the service's clock before anything is priced or charged, so that both count the
    same seconds.
    """

    def __init__(
        self,
        client: stripe.StripeClient,
        clock: Clock,
        test_clock: Callable[[], Awaitable[str]] | None,
    ) -> None:
        self._client = client
        self._clock = clock
        self._test_clock = test_clock
        self._test_clock_at: datetime | None = None

    async def advance(self, to: datetime) -> None:
        if self._test_clock is None:
            return
        async with provider_errors():
            clock_id = await self._test_clock()
            clocks = self._client.v1.test_helpers.test_clocks
            found = await clocks.retrieve_async(clock_id)
            while found.frozen_time < int(to.timestamp()) or found.status == "advancing":
                if found.status == "advancing":
                    await asyncio.sleep(CLOCK_POLL_SECONDS)
                    found = await clocks.retrieve_async(clock_id)
                    continue
                # It refuses more than two billing intervals at once.
                step = min(to, add_months(instant(found.frozen_time), 1))
                arrival = int(step.timestamp())
                try:
                    found = await clocks.advance_async(
                        clock_id,
                        {"frozen_time": arrival},
                        {"idempotency_key": f"{clock_id}:{found.frozen_time}:{arrival}"},
                    )
                except stripe.InvalidRequestError:  # another request, or process, was faster
                    found = await clocks.retrieve_async(clock_id)
        self._test_clock_at = to

    async def follow(self) -> None:
        if self._test_clock is None:
            return
        now = to_second(self._clock.now())
        if self._test_clock_at is None or self._test_clock_at < now:
            await self.advance(now)

    async def create(self, at: datetime) -> str:
        async with provider_errors():
            created = await self._client.v1.test_helpers.test_clocks.create_async(
                {"frozen_time": int(at.timestamp()), "name": "entitlements"},
                {"idempotency_key": new_id("clock")},
            )
            return created.id
