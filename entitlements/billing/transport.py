"""How every call to the provider travels: with a time limit, and tried again.

Trying again is always safe: reading changes nothing, and whatever changes something carries an
idempotency key, under which the provider does it once and answers the same again.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import stripe
from prometheus_client import Counter, Histogram

from entitlements.kernel.tracing import span

ATTEMPTS = 4
TIMEOUT_SECONDS = 10.0
"""For one attempt, from connecting to the last byte."""

FIRST_PAUSE_SECONDS = 0.5

BUDGET_SECONDS = 20.0
"""No attempt begins later than this after the first."""

AT_ONCE = 8
"""Calls that one task makes side by side: far below the provider's limits."""

RETRIES = Counter(
    "entitlements_provider_retries_total",
    "Calls to the payment provider that were tried again, by why.",
    ["why"],
)

CALLS = Histogram(
    "entitlements_provider_call_seconds",
    "Attempts to call the payment provider, by the answer's status (none: no answer).",
    ["method", "status"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)

Answer = tuple[bytes, int, Mapping[str, str]]


class Transport(stripe.HTTPXClient):
    """The SDK's HTTP client, with all retries in this one place (the SDK's own are switched off).

    Tried again are broken connections and timeouts, 409 (another request is at it under the same
    key), 429 (the SDK would give up) and 5xx, after growing pauses with jitter, or as long as
    `Retry-After` says. What asks for more patience than is left is handed back at once.
    """

    def __init__(self) -> None:
        super().__init__(timeout=TIMEOUT_SECONDS, allow_sync_methods=False)

    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: Any = None
    ) -> Answer:
        now = asyncio.get_running_loop().time
        give_up_at = now() + BUDGET_SECONDS
        attempt = 1
        while True:
            answer: Answer | None = None
            broken: stripe.APIConnectionError | None = None
            began_at = now()
            with span(f"{method.upper()} {resource_of(url)}", remote=True) as attempted:
                try:
                    async with asyncio.timeout(TIMEOUT_SECONDS):
                        answer = await super().request_async(method, url, headers, post_data)
                except TimeoutError:
                    words = f"no answer within {TIMEOUT_SECONDS:.0f} s"
                    broken = stripe.APIConnectionError(words)  # type: ignore[no-untyped-call]
                except stripe.APIConnectionError as error:
                    broken = error
                status = "none" if answer is None else str(answer[1])
                attempted.set_attribute("provider.status", status)
                attempted.set_attribute("provider.attempt", attempt)
            CALLS.labels(method, status).observe(now() - began_at)
            why = retried_for(answer)
            pause_seconds = self._pause_seconds(attempt, answer)
            if why is None or attempt == ATTEMPTS or now() + pause_seconds > give_up_at:
                if answer is None:
                    assert broken is not None
                    raise broken
                return answer
            RETRIES.labels(why).inc()
            await asyncio.sleep(pause_seconds)
            attempt += 1

    def _pause_seconds(self, attempt: int, answer: Answer | None) -> float:
        """The first pause, then twice as long each time, less up to half of it by chance."""
        grown: float = self._add_jitter_time(FIRST_PAUSE_SECONDS * 2 ** (attempt - 1))
        asked = "" if answer is None else answer[2].get("Retry-After", "")
        return max(grown, float(asked)) if asked.isdigit() else grown


NAMESPACES = frozenset({"billing", "checkout", "test_helpers"})


def resource_of(url: str) -> str:
    """What a call is about, without the ids and values that are in its URL.

    >>> resource_of("https://api.stripe.com/v1/subscriptions/sub_1?expand[]=customer")
    'stripe/subscriptions'
    >>> resource_of("https://api.stripe.com/v1/checkout/sessions/cs_1/expire")
    'stripe/checkout/sessions'
    """
    parts = urlsplit(url).path.strip("/").split("/")[1:]
    return "/".join(("stripe", *parts[: 2 if parts[:1] and parts[0] in NAMESPACES else 1]))


def is_replayed(headers: Mapping[str, str] | None) -> bool:
    """Whether an answer is the one that was kept under the key, and nothing was done now."""
    return (headers or {}).get("Idempotent-Replayed") == "true"


def retried_for(answer: Answer | None) -> str | None:
    """Why an answer (None: there was none) is asked for again; None: it stands.

    >>> retried_for(None), retried_for((b"", 503, {})), retried_for((b"", 429, {}))
    ('connection', 'error', 'rate_limit')
    >>> retried_for((b"", 503, {"Stripe-Should-Retry": "false"})), retried_for((b"", 402, {}))
    (None, None)

    What is only repeated stays as it is:

    >>> retried_for((b"", 500, {"Idempotent-Replayed": "true"}))

    The provider's advice counts, but for 429: that the SDK should not retry it says nothing of us,
    who wait.
    """
    if answer is None:
        return "connection"
    _, status, headers = answer
    if is_replayed(headers):
        return None
    if status == 429:
        return "rate_limit"
    advice = headers.get("Stripe-Should-Retry")
    if advice in ("true", "false"):
        return "advice" if advice == "true" else None
    if status == 409:
        return "conflict"
    return "error" if status >= 500 else None


async def each(
    things: Sequence[Any], do: Callable[[Any], Awaitable[None]], *, at_once: int = AT_ONCE
) -> None:
    """Do something with each, a few at a time. The first fault ends it."""
    waiting = iter(things)

    async def work() -> None:
        for thing in waiting:
            await do(thing)

    workers = [asyncio.create_task(work()) for _ in range(min(at_once, len(things)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        for worker in workers:
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await worker
