"""A small client of the service that remembers what customers may do, and hears when it changes.

What is remembered is decided here, without a request; METERED features are asked of the service,
which counts.

    heard          the customers seen last are listened to (`entitlementsChanged`)
    not heard      good for `max_age_seconds`, then asked for again at the next check
    unreachable    what is remembered answers for `stale_at_most_seconds`; then the policy of
                   the feature does: closed (denied), unless it is among `fail_open`
"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Collection
from types import TracebackType
from typing import Any, Final, Self

import httpx

from entitlements.access.guard.verdict import (
    Denied,
    Entitlements,
    Verdict,
    read_entitlements,
)
from entitlements.kernel.lru import Lru

SILENCE_SECONDS: Final = 40.0
"""After so long without a word a stream is taken for dead: the service says something every 15."""

UNKNOWN_SECONDS: Final = 5.0
"""How long a customer who was not there is taken not to be there."""

RETRY_SECONDS: Final = (0.5, 30.0)
"""The first and the longest pause before a stream is tried again."""

_FIELDS = """revision entitlements {
  feature { id kind values higherIsBetter } value { enabled number choice } }"""
_CUSTOMER = f"query ($id: ID!) {{ customer(id: $id) {{ {_FIELDS} }} }}"
_CHANGED = f"""subscription ($id: ID!, $after: BigInt!) {{
  entitlementsChanged(customerId: $id, afterRevision: $after) {{ {_FIELDS} }} }}"""
_ACCESS = """query ($id: ID!, $feature: ID!, $quantity: BigInt!, $revision: BigInt) {
  access(customerId: $id, featureId: $feature, quantity: $quantity, minRevision: $revision) {
    allowed reason revision } }"""


class Unreachable(Exception):
    """The service did not answer in time, or not as it should."""


class Guard:
    """One application's, for one event loop: `async with Guard(url, key) as guard`.

    `key` is a service key. A check waits `timeout_seconds` at most.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        fail_open: Collection[str] = (),
        timeout_seconds: float = 0.5,
        max_age_seconds: float = 30.0,
        stale_at_most_seconds: float = 300.0,
        customers_at_most: int = 10_000,
        streams_at_most: int = 50,
    ) -> None:
        self._url = url
        self._fail_open = frozenset(fail_open)
        self._timeout_seconds = timeout_seconds
        self._max_age_seconds = max_age_seconds
        self._stale_at_most_seconds = stale_at_most_seconds
        self._streams_at_most = streams_at_most
        self._kept: Lru[str, Entitlements] = Lru(customers_at_most)
        self._asking: dict[str, asyncio.Task[Entitlements]] = {}
        self._listening: dict[str, asyncio.Task[None]] = {}
        self._client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {key}"},
            timeout=timeout_seconds,
            limits=httpx.Limits(max_connections=streams_at_most + 50),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        tasks = [*self._listening.values(), *self._asking.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.aclose()

    # ── asking ───────────────────────────────────────────────────────────────

    def check_now(
        self, customer_id: str, feature_id: str, *, at_least: str | None = None
    ) -> Verdict | None:
        """The verdict from memory alone; None where the service has to be asked."""
        kept = self._kept.peek(customer_id)
        if kept is None or kept.good_until <= time.monotonic():
            return None
        return kept.verdict(feature_id, at_least)

    async def check(
        self,
        customer_id: str,
        feature_id: str,
        *,
        at_least: str | None = None,
        quantity: int = 1,
        min_revision: int = 0,
    ) -> Verdict:
        """May they do it? `quantity` is for METERED, `at_least` for ENUM and NUMBER.

        `min_revision`, what a change answered, is never answered from an older one.
        """
        kept = self._kept.get(customer_id)
        if kept is not None and kept.revision >= min_revision:
            verdict = self.check_now(customer_id, feature_id, at_least=at_least)
            if verdict is not None:
                return verdict
        try:
            async with asyncio.timeout(self._timeout_seconds):
                found = await self._entitlements(customer_id, min_revision)
                verdict = found.verdict(feature_id, at_least)
                if verdict is None:
                    return await self._counted(customer_id, feature_id, quantity, min_revision)
                return verdict
        except (Unreachable, TimeoutError):
            return self._without_service(customer_id, feature_id, at_least, min_revision)

    async def require(
        self, customer_id: str, feature_id: str, *, at_least: str | None = None
    ) -> Verdict:
        """The verdict if it is yes; else raises `Denied`."""
        verdict = await self.check(customer_id, feature_id, at_least=at_least)
        if not verdict.allowed:
            raise Denied(feature_id, verdict)
        return verdict

    def _without_service(
        self, customer_id: str, feature_id: str, at_least: str | None, min_revision: int
    ) -> Verdict:
        kept = self._kept.peek(customer_id)
        if (
            kept is not None
            and kept.revision >= min_revision
            and time.monotonic() - kept.read_at < self._stale_at_most_seconds
        ):
            verdict = kept.verdict(feature_id, at_least)
            if verdict is not None:
                return Verdict(verdict.allowed, verdict.reason, verdict.revision, "stale")
        if feature_id in self._fail_open:
            return Verdict(True, None, 0, "policy")
        return Verdict(False, "UNREACHABLE", 0, "policy")

    async def _counted(
        self, customer_id: str, feature_id: str, quantity: int, min_revision: int
    ) -> Verdict:
        answer = await self._ask(
            _ACCESS,
            id=customer_id,
            feature=feature_id,
            quantity=str(quantity),
            revision=str(min_revision) if min_revision else None,
        )
        access = answer["access"]
        return Verdict(access["allowed"], access["reason"], int(access["revision"]), "api")

    async def _entitlements(self, customer_id: str, min_revision: int) -> Entitlements:
        """What is remembered if it is good; else what the service says, once for all who ask."""
        kept = self._kept.get(customer_id)
        if kept and kept.revision >= min_revision and kept.good_until > time.monotonic():
            return kept
        asking = self._asking.get(customer_id)
        if asking is None or min_revision:
            asking = asyncio.create_task(self._read(customer_id))
            self._asking[customer_id] = asking
            asking.add_done_callback(lambda done: self._asked(customer_id, done))
        return await asyncio.shield(asking)

    def _asked(self, customer_id: str, done: "asyncio.Task[Entitlements]") -> None:
        if self._asking.get(customer_id) is done:
            del self._asking[customer_id]
        if not done.cancelled():
            done.exception()  # whoever waited has it

    async def _read(self, customer_id: str) -> Entitlements:
        started = time.monotonic()
        customer = (await self._ask(_CUSTOMER, id=customer_id))["customer"]
        age_seconds = self._max_age_seconds
        if customer is None:
            age_seconds = min(age_seconds, UNKNOWN_SECONDS)
        found = self._remember(customer_id, customer, started, started + age_seconds)
        if customer is not None:
            self._listen(customer_id)
        return found

    def _remember(
        self, customer_id: str, customer: Any, read_at: float, good_until: float
    ) -> Entitlements:
        found = read_entitlements(customer, read_at, good_until)
        kept = self._kept.peek(customer_id)
        if kept is not None and kept.revision > found.revision > 0:
            return kept
        self._kept[customer_id] = found
        return found

    async def _ask(self, query: str, **variables: object) -> Any:
        try:
            response = await self._client.post(
                self._url, json={"query": query, "variables": variables}
            )
            body = response.json()
        except (httpx.HTTPError, ValueError) as error:
            raise Unreachable(str(error)) from error
        if response.status_code != 200 or body.get("errors") or not body.get("data"):
            raise Unreachable(f"the service answered {response.status_code}")
        return body["data"]

    # ── listening ────────────────────────────────────────────────────────────

    def _listen(self, customer_id: str) -> None:
        """Hear of the customer's changes; at the most that are heard, who is heard longest goes."""
        if customer_id in self._listening or not self._streams_at_most:
            return
        if len(self._listening) >= self._streams_at_most:
            oldest = next(iter(self._listening))
            self._listening.pop(oldest).cancel()
        task = asyncio.create_task(self._hear(customer_id))
        self._listening[customer_id] = task
        task.add_done_callback(lambda done: self._heard_out(customer_id, done))

    def _heard_out(self, customer_id: str, done: "asyncio.Task[None]") -> None:
        if self._listening.get(customer_id) is done:
            del self._listening[customer_id]
        if not done.cancelled():
            done.exception()

    async def _hear(self, customer_id: str) -> None:
        """Follow one customer for as long as they are remembered."""
        pause_seconds = RETRY_SECONDS[0]
        while (kept := self._kept.peek(customer_id)) is not None:
            with contextlib.suppress(httpx.HTTPError, ValueError):
                async for customer in self._changes(customer_id, kept.revision):
                    pause_seconds = RETRY_SECONDS[0]
                    now = time.monotonic()
                    if customer is not None:
                        self._remember(customer_id, customer, now, now + SILENCE_SECONDS)
                    elif (kept := self._kept.peek(customer_id)) is not None:
                        kept.read_at, kept.good_until = now, now + SILENCE_SECONDS
                    else:
                        return
            if (kept := self._kept.peek(customer_id)) is not None:
                # Nothing is heard any more: from here on it ages.
                kept.good_until = min(kept.good_until, time.monotonic() + self._max_age_seconds)
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(pause_seconds * 2, RETRY_SECONDS[1])

    async def _changes(self, customer_id: str, after: int) -> AsyncIterator[Any]:
        """Each change; None for a sign of life, the first when the service has taken it up."""
        body = {"query": _CHANGED, "variables": {"id": customer_id, "after": str(after)}}
        timeout = httpx.Timeout(self._timeout_seconds, read=SILENCE_SECONDS)
        headers = {"Accept": "text/event-stream"}
        async with self._client.stream(
            "POST", self._url, json=body, headers=headers, timeout=timeout
        ) as response:
            response.raise_for_status()
            yield None
            async for line in response.aiter_lines():
                if line.startswith(":"):
                    yield None
                elif line.startswith("data: {"):
                    answer = json.loads(line[len("data: ") :])
                    if answer.get("errors"):
                        raise ValueError("the service ended the stream")
                    yield answer["data"]["entitlementsChanged"]
