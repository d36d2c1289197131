"""What is stored of many revisions is what publishing them one after the other gives."""

import copy
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from sqlalchemy import func, select

from entitlements.catalog import examples
from entitlements.catalog.document import parse, read
from entitlements.catalog.model import Catalog
from entitlements.catalog.tables import CatalogRevisionRow, PackageVersionRow
from entitlements.catalog.versions import publish as publish_draft
from entitlements.kernel.clock import SettableClock
from entitlements.services import Services, opened_services
from entitlements.settings import Settings
from tests.conftest import START, publish

WORKSPACE = read(examples.text("workspace")).document


def revisions() -> Iterator[Any]:
    """A life of a catalog: prices, words, places, features and packages that go and come back."""
    document = copy.deepcopy(WORKSPACE)
    workspace = document["products"][0]
    starter = workspace["plans"][0]
    yield document
    starter["name"] = "Basic"  # wording, of a version that goes on
    yield document
    starter["charges"][0]["prices"]["usd"]["month"] = "31.00"  # starter@2
    yield document
    calls = next(a for a in workspace["add_ons"] if a["id"] == "extra-calls")
    calls["charges"][0]["prices"]["usd"]["month"] = "16.00"  # with the bundle that it is part of
    yield document
    help_desk = document["products"].pop()
    document["features"] = [
        f for f in document["features"] if f["id"] not in ("agents", "conversations")
    ]
    yield document
    enterprise = workspace["plans"].pop()
    workspace["plans"].insert(0, {**enterprise, "id": "site", "extends": "professional"})
    starter["description"] = "Words for holders of the last version"
    yield document
    document["products"].append(help_desk)
    document["features"] += WORKSPACE["features"][-2:]
    starter["charges"][0]["prices"]["usd"]["month"] = "29.00"  # as starter@1, but its third
    yield document


async def test_a_process_that_starts_knows_the_whole_history(
    services: Services, settings: Settings
) -> None:
    expected: list[Catalog] = [Catalog.EMPTY]
    for document in revisions():
        await publish(services, copy.deepcopy(document))
        expected.append(
            publish_draft(
                parse(document),
                expected[-1],
                revision=len(expected),
                effective_at=START,
                published_at=START,
            ).catalog
        )
    last = len(expected) - 1
    assert {"starter@3", "help-desk-team@2", "enterprise@1"} <= expected[last].versions.keys()
    for order in (range(last + 1), range(last, -1, -1)):
        async with opened_services(settings, clock=SettableClock(START)) as started:
            for revision in order:
                assert await started.catalog.revision(revision) == expected[revision]
    assert await services.catalog.current() == expected[last]


async def test_what_did_not_change_is_not_stored_again(services: Services) -> None:
    """Storage grows with what changes: a revision does not carry the versions before it."""
    document = copy.deepcopy(WORKSPACE)
    starter = document["products"][0]["plans"][0]
    sizes = []
    for amount in range(30, 40):
        starter["charges"][0]["prices"]["usd"]["month"] = f"{amount}.00"
        await publish(services, copy.deepcopy(document))
        async with services.database.read() as session:
            sizes.append(await session.scalar(select(func.sum(_length))))
    steps = [b - a for a, b in pairwise(sizes)]
    assert max(steps) <= min(steps) + 50
    async with services.database.read() as session:
        versions = await session.scalar(select(func.count()).select_from(PackageVersionRow))
    assert versions == len(parse(document).packages) + 9


_length = func.length(CatalogRevisionRow.resolved)
