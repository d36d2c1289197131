"""Which answers of the provider are asked for again, and how often."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import stripe

from entitlements.billing.transport import ATTEMPTS, Transport

SILENCE = object()
BROKEN = httpx.ConnectError("refused")
KEY = {"Idempotency-Key": "chg_1:update"}


async def ask(answers: Iterator[Any]) -> tuple[Any, list[httpx.Request]]:
    """What the transport hands on of answers (statuses, headers, or faults), and what it sent."""
    sent: list[httpx.Request] = []

    async def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        given = next(answers)
        if isinstance(given, Exception):
            raise given
        if given is SILENCE:
            await asyncio.sleep(60)
        status, headers = given if isinstance(given, tuple) else (given, {})
        return httpx.Response(status, headers=headers, content=b"{}")

    transport = Transport()
    await transport.close_async()  # type: ignore[no-untyped-call]
    transport._client_async = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    try:
        _, status, _ = await transport.request_async("post", "http://provider/v1/prices", KEY)
    finally:
        await transport.close_async()  # type: ignore[no-untyped-call]
    return status, sent


@pytest.mark.parametrize(
    ("answers", "ends", "times"),
    [
        ([200], 200, 1),
        ([429, 429, 200], 200, 3),
        ([BROKEN, 503, 409, 200], 200, 4),
        ([(429, {"Stripe-Should-Retry": "false"}), 200], 200, 2),
        ([(400, {"Stripe-Should-Retry": "true"}), 200], 200, 2),
        ([(500, {"Stripe-Should-Retry": "false"})], 500, 1),
        ([400], 400, 1),
        ([402], 402, 1),
        ([(429, {"Retry-After": "60"})], 429, 1),
        ([503] * 9, 503, ATTEMPTS),
        ([429] * 9, 429, ATTEMPTS),
    ],
)
async def test_what_may_pass_is_tried_again_under_the_same_key(
    answers: list[Any], ends: int, times: int
) -> None:
    status, sent = await ask(iter(answers))
    assert (status, len(sent)) == (ends, times)
    assert {request.headers["Idempotency-Key"] for request in sent} == {"chg_1:update"}


async def test_no_answer_is_waited_for_longer_than_an_attempt_may_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("entitlements.billing.transport.TIMEOUT_SECONDS", 0.05)
    status, sent = await ask(iter([SILENCE, 200]))
    assert (status, len(sent)) == (200, 2)


async def test_a_provider_that_stays_away_is_given_up() -> None:
    with pytest.raises(stripe.APIConnectionError):
        await ask(iter([BROKEN] * ATTEMPTS))
