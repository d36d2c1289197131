"""Mistakes and mischief: each gets a typed error that names the field, and nothing has changed."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from entitlements.catalog import examples
from entitlements.catalog.document import read
from entitlements.services import Services
from tests.api import Api
from tests.conftest import on_postgresql, on_sqlite, publish
from tests.stories import Story

BIGGEST_INT, BIGGEST_BIG_INT = 2**31 - 1, 2**63 - 1
REFUSED = """mutation ($input: ChangeInput!) { previewChange(input: $input) { __typename
  ... on UserError { code message } ... on ValidationFailed { issues { path code message } } } }"""
CREATE = """mutation ($input: CreateCustomerInput!) { createCustomer(input: $input) { __typename
  ... on ValidationFailed { issues { path code message } } } }"""


def add_on(id: str, quantity: int = 1) -> dict[str, Any]:
    return {"addOns": [{"id": id, "quantity": quantity}]}


def bought(feature_id: str, quantity: int, plan_id: str = "help-desk-team") -> dict[str, Any]:
    named = {"featureId": feature_id, "quantity": str(quantity)}
    return {"planId": plan_id, "quantities": [named]}


WISHES = [
    # What is not sold, or is something else
    ("planId", "UNKNOWN_PACKAGE", {"planId": "platinum"}),
    ("planId", "UNKNOWN_PACKAGE", {"planId": ""}),
    ("planId", "UNKNOWN_PACKAGE", {"planId": "advanced-analytics"}),
    ("addOns.starter", "UNKNOWN_PACKAGE", add_on("starter")),
    ("addOns.nothing", "UNKNOWN_PACKAGE", add_on("nothing")),
    ("bundles.extra-calls", "UNKNOWN_PACKAGE", {"bundles": [{"id": "extra-calls"}]}),
    ("productId", "UNKNOWN_PRODUCT", {"productId": "nothing"}),
    ("productId", "AMBIGUOUS_PRODUCT", {"planId": "help-desk-team", **add_on("extra-calls")}),
    ("productId", "AMBIGUOUS_PRODUCT", {"planId": "starter", "productId": "help-desk"}),
    ("quantities.nothing", "UNKNOWN_FEATURE", bought("nothing", 1)),
    ("quantities.conversations", "NOT_SOLD_BY_QUANTITY", bought("conversations", 5)),
    ("quantities.seats", "NOT_SOLD_BY_QUANTITY", bought("seats", 3, "professional")),
    # Quantities
    ("addOns.extra-seats.quantity", "QUANTITY_OUT_OF_RANGE", add_on("extra-seats", -1)),
    ("addOns.extra-calls.quantity", "QUANTITY_OUT_OF_RANGE", add_on("extra-calls", BIGGEST_INT)),
    ("addOns.extra-seats", "MAX_QUANTITY", add_on("extra-seats", 501)),
    ("addOns.advanced-analytics", "MAX_QUANTITY", add_on("advanced-analytics", 2)),
    ("quantities.agents.quantity", "QUANTITY_OUT_OF_RANGE", bought("agents", -1)),
    ("quantities.agents.quantity", "QUANTITY_OUT_OF_RANGE", bought("agents", BIGGEST_BIG_INT)),
    ("quantities.agents.quantity", "OVER_LIMIT", bought("agents", 201)),
    ("addOns", "DUPLICATE", {"addOns": [{"id": "extra-calls"}, {"id": "extra-calls"}]}),
    # What does not go together
    ("addOns.lead-scoring", "REQUIRES", add_on("lead-scoring")),
    ("addOns.api-access", "DOES_NOT_FIT", add_on("api-access")),
    # What comes to nothing, or is nobody's to choose
    ("input", "NOTHING_TO_CHANGE", {}),
    ("input", "NOTHING_TO_CHANGE", {"planId": "starter"}),
    ("reason", "REASON_REQUIRED", {"planId": "professional", "timing": "PERIOD_END"}),
    ("reason", "LENGTH", {"planId": "professional", "reason": "x" * 2001}),
]


@pytest.fixture
async def story(
    api: Api, services: Services, sandbox_url: str, example: Any
) -> AsyncIterator[Story]:
    """Acme holds Starter."""
    await api.create_customer("acme")
    await api.change("start", customerId="acme", planId="starter")
    async with httpx.AsyncClient(base_url=sandbox_url, auth=("sk_test_x", "")) as provider:
        yield Story(api, services, provider)


def _issues(answer: Any) -> list[tuple[str, str]]:
    assert answer["__typename"] == "ValidationFailed", answer
    assert all(issue["message"] for issue in answer["issues"])
    return [(".".join(issue["path"]), issue["code"]) for issue in answer["issues"]]


@on_sqlite
async def test_a_wish_that_cannot_be_met_names_what_is_wrong_with_it(story: Story) -> None:
    before = await story.seen()
    for path, code, wish in WISHES:
        asked = {"customerId": "acme", **wish}
        answer = (await story.api.ask(REFUSED, input=asked))["previewChange"]
        assert _issues(answer) == [(path, code)], wish
    assert await story.seen() == before


@on_sqlite
async def test_all_that_is_wrong_is_told_at_once(story: Story) -> None:
    wish = {
        "addOns": [
            {"id": "extra-calls", "quantity": -1},
            {"id": "extra-seats", "quantity": 501},
            {"id": "api-access"},
        ]
    }
    answer = await story.api.preview(customerId="acme", **wish)
    assert sorted(_issues(answer)) == [
        ("addOns.api-access", "DOES_NOT_FIT"),
        ("addOns.extra-calls.quantity", "QUANTITY_OUT_OF_RANGE"),
        ("addOns.extra-seats", "MAX_QUANTITY"),
    ]


@on_sqlite
async def test_what_two_add_ons_exclude_cannot_be_had_together(
    story: Story, services: Services
) -> None:
    document = read(examples.text("workspace")).document
    [support] = [a for a in document["products"][0]["add_ons"] if a["id"] == "integration-pack"]
    support["excludes"] = ["security-pack"]
    await publish(services, document)
    both = {"addOns": [{"id": "integration-pack"}, {"id": "security-pack"}]}
    before = await story.seen()
    answer = await story.api.preview(customerId="acme", **both)
    assert _issues(answer) == [("addOns.integration-pack", "EXCLUDES")]
    assert await story.seen() == before


@on_sqlite
async def test_a_21st_item_is_refused_and_20_are_not(story: Story, services: Services) -> None:
    """The provider takes 20 items a subscription; the plan is one of them."""
    document = read(examples.text("workspace")).document
    add_ons = document["products"][0]["add_ons"]
    [calls] = [a for a in add_ons if a["id"] == "extra-calls"]
    add_ons += [calls | {"id": f"module-{n}"} for n in range(20)]
    await publish(services, document)
    twenty = [{"id": f"module-{n}"} for n in range(20)]
    before = await story.seen()
    answer = await story.api.preview(customerId="acme", addOns=twenty)
    assert _issues(answer) == [("addOns", "TOO_MANY_ITEMS")]
    assert await story.seen() == before
    taken = await story.api.change("most", customerId="acme", addOns=twenty[1:])
    assert taken["change"]["status"] == "APPLIED", taken


@on_sqlite
@pytest.mark.parametrize("currency", ["gbp", "USD", "", "usdx"])
async def test_a_currency_that_nothing_is_sold_in_is_refused(story: Story, currency: str) -> None:
    asked = {"id": "bolt", "currency": currency}
    answer = (await story.api.ask(CREATE, input=asked))["createCustomer"]
    assert _issues(answer) == [("currency", "UNKNOWN_CURRENCY")]
    assert (await story.api.ask('{ customer(id: "bolt") { id } }'))["customer"] is None


@on_sqlite
async def test_a_customer_whose_currency_is_sold_no_more_gets_a_typed_error(
    story: Story, services: Services
) -> None:
    await story.api.ask(CREATE, input={"id": "bolt", "currency": "eur"})
    document = read(examples.text("workspace")).document
    document["currencies"] = ["usd"]
    for product in document["products"]:
        for package in (
            *product["plans"],
            *product.get("add_ons", ()),
            *product.get("bundles", ()),
        ):
            for charge in package.get("charges", ()):
                charge["prices"].pop("eur")
    await publish(services, document)
    before = await story.api.customer("bolt")
    answer = await story.api.preview(customerId="bolt", planId="starter")
    assert _issues(answer) == [("currency", "NO_PRICE")]
    assert await story.api.customer("bolt") == before


@on_postgresql
async def test_a_quote_that_was_tampered_with_or_is_of_another_is_worth_nothing(
    story: Story,
) -> None:
    api = story.api
    await api.create_customer("bolt")
    bolt = await api.token("bolt", "READ", "BUY")
    quote = await api.preview(customerId="acme", planId="professional")
    token = quote["token"]
    before = await story.seen()
    other = (await api.preview(customerId="bolt", planId="starter"))["token"]
    head, body, seal = token.split(".")
    for tampered in (
        "",
        token + "x",
        token[::-1],
        f"{head}.{body}.{seal[::-1]}",
        f"{head}.{other.split('.')[1]}.{seal}",  # what bolt would pay, under the seal of acme's
        f"{head}.{body}.",
        "x" * 50_000,
    ):
        assert _issues(await api.commit(tampered, "key")) == [("token", "INVALID_TOKEN")]
    assert (await bolt.commit(token, "key"))["__typename"] == "NotFound"
    for foreign in (
        await bolt.preview(customerId="acme", planId="professional"),
        await bolt.purchase(customerId="acme", addOnId="extra-calls", idempotencyKey="key"),
        await bolt.cancel("key", customerId="acme", productId="workspace"),
        await api.preview(customerId="nobody", planId="starter"),
    ):
        assert foreign["__typename"] == "NotFound", foreign
    assert await story.seen() == before
    assert (await api.commit(token, "key"))["change"]["status"] == "APPLIED"


@on_sqlite
async def test_a_purchase_of_nothing_or_dearer_than_agreed_is_refused(story: Story) -> None:
    more: dict[str, Any] = {"customerId": "acme", "addOnId": "extra-calls"}
    before = await story.seen()
    for quantity in (0, -1):
        answer = await story.api.purchase(**more, quantity=quantity, idempotencyKey="key")
        assert _issues(answer) == [("quantity", "QUANTITY_OUT_OF_RANGE")]
    for key in ("", "k" * 256):
        answer = await story.api.purchase(**more, idempotencyKey=key)
        assert _issues(answer) == [("idempotencyKey", "LENGTH")]
    dearer = await story.api.purchase(**more, maxDueNow="1499", idempotencyKey="key")
    assert dearer["__typename"] == "QuoteStale"
    assert await story.seen() == before


@on_sqlite
async def test_what_is_no_value_of_its_type_is_refused_before_anything_is_read(
    story: Story,
) -> None:
    before = await story.seen()
    for input in (
        add_on("extra-calls", BIGGEST_INT + 1),
        bought("agents", BIGGEST_BIG_INT + 1),
        {"interval": "WEEK"},
        {"planId": "starter\0"},
        {"addOns": [{"id": "extra-calls", "quantity": 1.5}]},
        {"price": 1},
        {"reason": "x" * 100_000},
    ):
        code = await story.api.refused(REFUSED, input={"customerId": "acme", **input})
        assert code == "BAD_USER_INPUT", input
    assert await story.seen() == before
