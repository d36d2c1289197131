"""Products, prices and what they cost."""

from functools import partial
from typing import Any

import pytest
import stripe

from tests.unit.sandbox.conftest import World, lines_of, refused

VOLUME: Any = [
    {"up_to": 10, "unit_amount": 1000},
    {"up_to": 50, "unit_amount": 800},
    {"up_to": "inf", "unit_amount": 600},
]
FLAT: Any = [
    {"up_to": 10, "unit_amount": 100, "flat_amount": 500},
    {"up_to": "inf", "unit_amount_decimal": "50.5", "flat_amount": 300},
]


@pytest.mark.parametrize(
    ("price", "quantity", "amount"),
    [
        ({"unit_amount_decimal": "0.123456789012"}, 1_000_000, 123_457),
        ({"unit_amount_decimal": "0.5"}, 1, 1),
        ({"unit_amount": 1000}, 0, 0),
        ({"billing_scheme": "tiered", "tiers_mode": "volume", "tiers": VOLUME}, 10, 10_000),
        ({"billing_scheme": "tiered", "tiers_mode": "volume", "tiers": VOLUME}, 11, 8_800),
        ({"billing_scheme": "tiered", "tiers_mode": "volume", "tiers": VOLUME}, 51, 30_600),
        ({"billing_scheme": "tiered", "tiers_mode": "graduated", "tiers": VOLUME}, 51, 42_600),
        ({"billing_scheme": "tiered", "tiers_mode": "graduated", "tiers": FLAT}, 12, 1_901),
        ({"billing_scheme": "tiered", "tiers_mode": "graduated", "tiers": FLAT}, 0, 500),
        ({"billing_scheme": "tiered", "tiers_mode": "volume", "tiers": FLAT}, 0, 500),
        ({"unit_amount": 150, "transform_quantity": {"divide_by": 1000, "round": "up"}}, 1001, 300),
        (
            {"unit_amount": 150, "transform_quantity": {"divide_by": 1000, "round": "down"}},
            1999,
            150,
        ),
    ],
)
def test_a_period_costs(world: World, price: dict[str, Any], quantity: int, amount: int) -> None:
    item: Any = {"price": world.price(None, **price), "quantity": quantity}
    shown = world.v1.invoices.create_preview(
        {"customer": world.customer, "subscription_details": {"items": [item]}}
    )
    assert lines_of(shown) == [amount]


@pytest.mark.parametrize(("currency", "due"), [("jpy", 49), ("kwd", 1250), ("eur", 49)])
def test_amounts_are_minor_units_of_any_currency(world: World, currency: str, due: int) -> None:
    world.card()
    price = world.price(due, currency=currency)
    sub = world.subscribe(price)
    invoice = world.invoices()[0]
    assert (sub.currency, invoice.total) == (currency, due)
    assert invoice.amount_due == (0 if due == 49 else due)
    other = world.price(100, currency="usd")
    assert "currenc" in str(refused(lambda: world.subscribe(other)))


def test_a_price_is_immutable_but_for_its_labels(world: World) -> None:
    price = world.price(1000)
    changed: Any = {"active": False, "nickname": "old", "metadata": {"version": "1"}}
    assert world.v1.prices.update(price, changed).active is False
    for param in ("unit_amount", "recurring", "tiers", "product"):
        given: Any = {param: "1"}
        assert refused(partial(world.v1.prices.update, price, given)).param == param
    assert "inactive" in str(refused(lambda: world.subscribe(price)))


def test_a_lookup_key_moves_only_when_told(world: World) -> None:
    key = f"pro-{world.customer}"
    old = world.price(1000, lookup_key=key)
    assert refused(lambda: world.price(1200, lookup_key=key)).param == "lookup_key"
    new = world.price(1200, lookup_key=key, transfer_lookup_key=True)
    assert [p.id for p in world.v1.prices.list({"lookup_keys": [key]}).data] == [new]
    assert world.v1.prices.retrieve(old).lookup_key is None


def test_tiers_are_shown_when_expanded(world: World) -> None:
    price = world.price(None, billing_scheme="tiered", tiers_mode="volume", tiers=VOLUME)
    plain = world.v1.prices.retrieve(price)
    assert "tiers" not in plain.to_dict()
    tiers = world.v1.prices.retrieve(price, {"expand": ["tiers"]}).tiers
    assert tiers is not None
    assert [(t.up_to, t.unit_amount) for t in tiers] == [(10, 1000), (50, 800), (None, 600)]


def test_a_subscription_holds_at_most_twenty_items(world: World) -> None:
    prices = [world.price(100 + i) for i in range(21)]
    assert refused(lambda: world.subscribe(*prices)).param == "items"
    twice = refused(lambda: world.subscribe(prices[0], prices[0]))
    assert "same price" in str(twice)


def test_deleted_customers_and_products_are_shown_as_deleted(world: World) -> None:
    world.card()
    sub = world.subscribe(world.price(1000))
    assert world.v1.customers.delete(world.customer).deleted is True
    assert world.v1.customers.retrieve(world.customer).deleted is True
    assert world.v1.subscriptions.retrieve(sub.id).status == "canceled"
    with pytest.raises(stripe.InvalidRequestError):
        world.v1.customers.update(world.customer, {"name": "x"})
    spare = world.v1.products.create({"name": "spare"})
    assert world.v1.products.delete(spare.id).deleted is True


def test_the_balance_is_explained_by_its_transactions(world: World) -> None:
    world.card()
    world.v1.customers.balance_transactions.create(
        world.customer, {"amount": -400, "currency": "usd", "description": "goodwill"}
    )
    world.subscribe(world.price(1000))
    entries = world.v1.customers.balance_transactions.list(world.customer).data
    assert [(e.type, e.amount, e.ending_balance) for e in entries] == [
        ("applied_to_invoice", 400, 0),
        ("adjustment", -400, -400),
    ]
    assert world.invoices()[0].amount_paid == 600


@pytest.mark.parametrize(
    "name",
    ["pm_card_chargeDeclined", "pm_card_visa_chargeDeclinedInsufficientFunds"],
)
def test_declined_test_cards_cannot_be_attached(world: World, name: str) -> None:
    error = refused(lambda: world.card(name))
    assert (error.http_status, error.code) == (402, "card_declined")
    assert refused(lambda: world.card("pm_card_unheardOf")).code == "resource_missing"


def test_attaching_a_named_card_makes_a_new_one_and_detaching_is_final(world: World) -> None:
    first, second = world.card(), world.card()
    assert first != second
    world.v1.payment_methods.detach(second)
    customer = world.v1.customers.retrieve(world.customer)
    assert customer.invoice_settings is not None
    assert customer.invoice_settings.default_payment_method is None
    again = partial(world.v1.payment_methods.attach, second, {"customer": world.customer})
    assert "may not be used again" in str(refused(again))
    listed = world.v1.customers.payment_methods.list(world.customer).data
    assert [m.id for m in listed] == [first]
    assert world.events("payment_method.attached", "payment_method.detached")[:2] == [
        "payment_method.attached",
        "payment_method.attached",
    ]
