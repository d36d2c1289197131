"""Any fault at any call that an operation makes: it ends as if there had been none."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import stripe

from entitlements.billing import transport
from tests.faults.operations import OPERATIONS, Operation, prepared
from tests.faults.world import Prepared, Provider, World, drift, outcome, until_answered
from tests.reconciliation import reconciled_clean

SLOW_SECONDS, PATIENCE_SECONDS = 0.8, 0.4

SAMPLED = {
    "a first purchase": "sqlite",
    "an add-on": "postgresql",
    "a cancellation now": "sqlite",
    "an add-on given up": "postgresql",
    "an open invoice paid": "sqlite",
    "webhooks of a Checkout": "postgresql",
}
CASES_SAMPLED = 2


class Call(NamedTuple):
    method: str
    path: str


class Fault(NamedTuple):
    """`times` in a row: as many as a call is tried by itself outlast it."""

    kind: str
    times: int


READING = (
    Fault("rate_limit", transport.ATTEMPTS),
    Fault("error_before", transport.ATTEMPTS),
    Fault("cut_before", transport.ATTEMPTS),
    Fault("latency", transport.ATTEMPTS),
)
WRITING = (
    *READING,
    Fault("error_after", 1),
    Fault("error_after", transport.ATTEMPTS),
    Fault("cut_after", 1),
    Fault("cut_after", transport.ATTEMPTS),
    Fault("latency", 1),
)
"""What is slow is given up before it takes effect, and takes effect all the same."""


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """What the service asks of the provider, retries included."""
    made: list[Call] = []
    request = stripe.HTTPXClient.request_async

    async def noted(self: Any, method: str, url: str, *rest: Any) -> Any:
        made.append(Call(method.upper(), url.partition("/v1/")[2].partition("?")[0]))
        return await request(self, method, url, *rest)

    monkeypatch.setattr(stripe.HTTPXClient, "request_async", noted)
    return made


@pytest.mark.parametrize(
    ("name", "database_url"),
    [
        pytest.param(name, db, marks=() if SAMPLED.get(name) == db else pytest.mark.soak)
        for name, db in itertools.product(OPERATIONS, ("sqlite", "postgresql"))
    ],
    indirect=["database_url"],
)
async def test_a_fault_at_any_call_ends_as_if_there_had_been_none(
    name: str,
    database_url: str,
    tmp_path: Path,
    provider: Provider,
    calls: list[Call],
    monkeypatch: pytest.MonkeyPatch,
    soak: bool,
) -> None:
    operation = OPERATIONS[name]
    before = await prepared(operation, database_url, tmp_path, provider)
    async with before.again(provider) as world:
        calls.clear()
        answer = await operation.ask(world)
        assert answer["__typename"] == operation.answers[0], answer
        made = list(calls)
        undisturbed = await ended(world)

    # Each case on one of the two databases; in the suite a few of them, spread over all.
    cases = [case for n, case in enumerate(faults(made)) if n % 2 == (database_url[0] == "p")]
    if not soak:
        cases = cases[len(name) % 3 :: len(cases) // CASES_SAMPLED][:CASES_SAMPLED]
    failed = []
    for position, fault in cases:
        with monkeypatch.context() as patience:
            if fault.kind == "latency":
                patience.setattr(transport, "TIMEOUT_SECONDS", PATIENCE_SECONDS)
            wrong = await disturbed(operation, before, provider, position, fault, undisturbed)
        if wrong:
            failed.append(f"{fault.kind} × {fault.times} at {made[position]}: {wrong}")
    assert not failed, "\n".join(failed)


def faults(made: list[Call]) -> Iterator[tuple[int, Fault]]:
    """Which call is hit by what. Where nothing is written, before and after is the same."""
    for position, call in enumerate(made):
        for fault in READING if call.method == "GET" else WRITING:
            yield position, fault


async def disturbed(
    operation: Operation,
    before: Prepared,
    provider: Provider,
    position: int,
    fault: Fault,
    undisturbed: Any,
) -> str:
    """What went wrong, empty if nothing."""
    async with before.again(provider) as world:
        await world.fault(
            kind=fault.kind, times=fault.times, after=position, path="/v1/", seconds=SLOW_SECONDS
        )
        try:
            answer = await until_answered(world, operation.ask)
            if answer["__typename"] not in operation.answers:
                return f"answered {answer}"
            return compare(operation, await ended(world), undisturbed)
        except Exception as error:
            return f"{type(error).__name__}: {error}"


async def ended(world: World) -> dict[str, Any]:
    await world.run_down()
    assert await world.api.ask("{ verifyAudit { ok } }") == {"verifyAudit": {"ok": True}}
    found = await outcome(world)
    assert drift(found) == []
    await reconciled_clean(world.services)
    return found


def compare(operation: Operation, found: dict[str, Any], undisturbed: dict[str, Any]) -> str:
    """Where two endings differ."""
    here, there = (dict(leaves(told_once(operation, one))) for one in (found, undisturbed))
    return "; ".join(
        f"{path} is {here.get(path)}, not {there.get(path)}"
        for path in sorted(here.keys() | there.keys())
        if here.get(path) != there.get(path)
    )


def leaves(found: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(found, dict | list) and found:
        named = found.items() if isinstance(found, dict) else enumerate(found)
        for name, value in named:
            yield from leaves(value, f"{path}/{name}")
    else:
        yield path, found


def told_once(operation: Operation, found: dict[str, Any]) -> dict[str, Any]:
    """Without the repetitions that the operation's ledger may have."""
    entries = [entry for entry, _ in itertools.groupby(found["ledger"])]
    return found | {"ledger": entries if operation.again else found["ledger"]}
