"""Whatever is changed, in any order: the preview is the outcome, and nothing is credited twice."""

from typing import Any

import stripe
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.sandbox.conftest import AUGUST_6, World, lines_of

HOUR = 3600
AMOUNTS = (333, 1000, 3252, 12_345)

moves = st.lists(
    st.tuples(
        st.integers(1, 150),  # hours that go by first
        st.sampled_from(["price", "quantity", "add", "remove"]),
        st.integers(0, 3),
        st.sampled_from(["always_invoice", "create_prorations", "none"]),
    ),
    min_size=1,
    max_size=5,
)


def item_params(sub: Any, prices: list[str], kind: str, n: int) -> list[dict[str, Any]] | None:
    """A change that is possible on what is held; None where it is not."""
    items = sub["items"].data
    free = [p for p in prices if p not in {i.price.id for i in items}]
    item = items[n % len(items)]
    if kind == "quantity":
        return [{"id": item.id, "quantity": n + 1}]
    if kind == "remove":
        return [{"id": item.id, "deleted": True}] if len(items) > 1 else None
    if not free:
        return None
    price = free[n % len(free)]
    return [{"price": price}] if kind == "add" else [{"id": item.id, "price": price}]


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(moves=moves)
def test_previews_are_outcomes_and_credits_never_exceed_charges(
    client: stripe.StripeClient, moves: list[tuple[int, str, int, str]]
) -> None:
    world = World(client)
    world.card()
    prices = [world.price(amount) for amount in AMOUNTS]
    sub = world.subscribe(prices[0])
    for hours, kind, n, behaviour in moves:
        world.advance(world.now + hours * HOUR)
        sub = world.v1.subscriptions.retrieve(sub.id)
        items = item_params(sub, prices, kind, n)
        if items is None:
            continue
        wanted: Any = {"items": items, "proration_behavior": behaviour}
        if behaviour != "none":
            wanted["proration_date"] = world.now
        shown = world.v1.invoices.create_preview(
            {"subscription": sub.id, "subscription_details": wanted}
        )
        made = len(world.invoices())
        world.v1.subscriptions.update(sub.id, wanted)
        if len(world.invoices()) > made:
            assert lines_of(world.invoices()[-1]) == lines_of(shown)
        else:
            again = world.v1.invoices.create_preview({"subscription": sub.id})
            assert sorted(lines_of(again)) == sorted(lines_of(shown))
    world.advance(AUGUST_6 + 70 * 24 * HOUR)
    check_the_books(world)


def check_the_books(world: World) -> None:
    by_item: dict[str, int] = {}
    for invoice in world.invoices():
        lines = list(world.v1.invoices.line_items.list(invoice.id).auto_paging_iter())
        assert sum(line.amount for line in lines) == invoice.total
        assert invoice.ending_balance is not None
        due = invoice.total + invoice.starting_balance
        assert invoice.amount_paid + invoice.ending_balance == due
        for line in lines:
            assert line.parent is not None
            assert line.parent.subscription_item_details is not None
            item = line.parent.subscription_item_details.subscription_item
            by_item[item] = by_item.get(item, 0) + line.amount
    assert all(net >= 0 for net in by_item.values()), by_item
    customer = world.v1.customers.retrieve(world.customer)
    entries = world.v1.customers.balance_transactions.list(world.customer, {"limit": 100})
    assert customer.balance == sum(entry.amount for entry in entries.auto_paging_iter())
