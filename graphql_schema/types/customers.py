"""Customers and what they hold."""

from datetime import datetime
from typing import Annotated

import strawberry

from entitlements.catalog.model import Catalog
from entitlements.grants.merge import Grants
from entitlements.kernel.period import Interval
from entitlements.subscriptions import tables
from entitlements.subscriptions.customers import CustomerView
from entitlements.subscriptions.holdings import grants_of
from entitlements.subscriptions.lines import Book, held_mrr_minor, slots_of
from entitlements.subscriptions.standing import is_at_list, standing_of
from entitlements.subscriptions.state import (
    Item,
    SubscriptionStatus,
    held_package,
    held_plan,
)
from entitlements.subscriptions.state import Subscription as Held
from graphql_schema.context import Info
from graphql_schema.types.access import DenialCount, Entitlement, entitlement_types
from graphql_schema.types.catalog import (
    FeatureQuantity,
    Package,
    Plan,
    Product,
    feature_type,
    package_type,
    product_type,
)
from graphql_schema.types.changes import (
    Change,
    ChangeConnection,
    Invoice,
    InvoiceConnection,
    ScheduledChange,
)
from graphql_schema.types.enums import describe_enum
from graphql_schema.types.grandfathering import Grandfathering, grandfathering_type
from graphql_schema.types.money import Money, Period, money, period_type
from graphql_schema.types.overrides import Override, override_types
from graphql_schema.types.pages import After, First, PageInfo, check_first, page
from graphql_schema.types.scalars import BigInt
from graphql_schema.types.trials import Trial

describe_enum(
    SubscriptionStatus,
    "Where a subscription stands; what it grants follows from it.",
    INCOMPLETE="Its first invoice is not paid yet: it grants nothing.",
    TRIALING="On trial: full access.",
    ACTIVE="Paid: full access.",
    PAST_DUE="A renewal was not paid: full access within the product's grace, then none.",
    UNPAID="Given up after all retries: no access.",
    PAUSED="Paused at the provider: no access.",
    CANCELED="Ended.",
)


@strawberry.type(description="The card or account that is charged.")
class PaymentMethod:
    brand: str | None = strawberry.field(description="Such as visa.")
    last4: str | None = strawberry.field(description="The last four digits.")
    expires: str | None = strawberry.field(description="Month and year: 12/2030.")


@strawberry.type(description="A package held, at its version.")
class SubscriptionItem:
    held: strawberry.Private[Item]
    subscription: strawberry.Private[Held]
    catalog: strawberry.Private[Catalog]

    @strawberry.field(description="The item's id, `itm_…`.")
    def id(self) -> strawberry.ID:
        return strawberry.ID(self.held.id)

    @strawberry.field(description="The package at the version whose price is paid.")
    def package(self) -> Package:
        return package_type(self.catalog, held_package(self.catalog, self.held))

    @strawberry.field(description="How many of it.")
    def quantity(self) -> int:
        return self.held.quantity

    @strawberry.field(description="Since when it is held.")
    def started_at(self) -> datetime:
        return self.held.started_at

    @strawberry.field(description="Its licensed charges per interval.")
    def recurring(self) -> Money:
        slots = slots_of(self.catalog, [self.held], self.subscription.quantities)
        book = Book(self.catalog, self.subscription.currency)
        amount_minor = book.recurring(slots, self.subscription.interval)
        return money(amount_minor, self.subscription.currency)

    @strawberry.field(description="The version whose entitlements hold: the price's, or a later.")
    def entitlements_version(self) -> int:
        return self.held.entitlements_version

    @strawberry.field(
        description="What it keeps of an older version or price; null on the latest version at its "
        "own price."
    )
    async def grandfathered(self, info: Info) -> Grandfathering | None:
        if is_at_list(self.catalog, self.held):
            return None
        policies, held_up = await info.context.in_force()
        now = info.context.now
        found = standing_of(self.catalog, self.subscription, self.held, policies, held_up, now)
        return grandfathering_type(found, self.subscription.currency) if found else None


@strawberry.type(description="A product held by a customer.")
class Subscription:
    held: strawberry.Private[Held]
    view: strawberry.Private[CustomerView]
    catalog: strawberry.Private[Catalog]
    then: strawberry.Private[datetime | None] = None  # where it is not as it stands now

    @strawberry.field(description="The subscription's id, `sub_…`.")
    def id(self) -> strawberry.ID:
        return strawberry.ID(self.held.id)

    @strawberry.field(description="Whose it is.")
    def customer(self) -> "Customer":
        return Customer(view=self.view)

    @strawberry.field(description="The product.")
    def product(self) -> Product:
        return product_type(self.catalog, self.catalog.products[self.held.product_id])

    @strawberry.field(description="Where it stands.")
    def status(self) -> SubscriptionStatus:
        return self.held.status

    @strawberry.field(description="The plan, at the version held.")
    def plan(self) -> Plan:
        found = held_plan(self.catalog, self.held)
        assert found is not None
        plan = package_type(self.catalog, found[1])
        assert isinstance(plan, Plan)
        return plan

    @strawberry.field(description="How often it is billed.")
    def interval(self) -> Interval:
        return self.held.interval

    @strawberry.field(description="ISO 4217, lower case.")
    def currency(self) -> str:
        return self.held.currency

    @strawberry.field(description="The plan, the add-ons and the bundles held.")
    def items(self) -> list[SubscriptionItem]:
        return [
            SubscriptionItem(held=item, subscription=self.held, catalog=self.catalog)
            for item in self.held.items
        ]

    @strawberry.field(description="Seats and other levels bought.")
    def quantities(self) -> list[FeatureQuantity]:
        return [
            FeatureQuantity(
                feature=feature_type(self.catalog.feature(feature_id)), quantity=BigInt(quantity)
            )
            for feature_id, quantity in self.held.quantities.items()
        ]

    @strawberry.field(description="The billing period that runs now.")
    def current_period(self, info: Info) -> Period:
        return period_type(self.held.period_at(self.then or info.context.now))

    @strawberry.field(description="Since when.")
    def started_at(self) -> datetime:
        return self.held.started_at

    @strawberry.field(description="The end of its trial, if it is or was on trial.")
    def trial_ends_at(self) -> datetime | None:
        return self.held.trial_ends_at

    @strawberry.field(description="When it ends, if it was cancelled.")
    def cancel_at(self) -> datetime | None:
        return self.held.cancel_at

    @strawberry.field(description="Until when it keeps its access while it is past due.")
    def grace_ends_at(self) -> datetime | None:
        return self.held.grace_ends_at(self.catalog.products[self.held.product_id].policy)

    @strawberry.field(description="Changes that wait for their instant, the next one first.")
    async def scheduled_changes(self, info: Info) -> list[ScheduledChange]:
        if self.then is not None:
            rows = await info.context.services.customers.waiting_then(self.held, self.then)
            at = self.held.cancel_at or self.held.period.end
            return [ScheduledChange.of(row, at) for row in rows]
        rows = await info.context.services.customers.scheduled_changes(self.view.row.id)
        return [ScheduledChange.of(row) for row in rows if row.subscription_id == self.held.id]

    @strawberry.field(description="Its licensed charges per interval.")
    def recurring(self) -> Money:
        slots = slots_of(self.catalog, self.held.items, self.held.quantities)
        amount_minor = Book(self.catalog, self.held.currency).recurring(slots, self.held.interval)
        return money(amount_minor, self.held.currency)

    @strawberry.field(description="Monthly recurring revenue: a year's charges ÷ 12.")
    def mrr(self) -> Money:
        return money(held_mrr_minor(self.catalog, self.held), self.held.currency)


@strawberry.type(
    description="What a customer held and might do at an instant. Prices, periods and what waited "
    "are of then; what had been used is not kept, and is null."
)
class CustomerAsOf:
    at: datetime = strawberry.field(description="The instant.")
    subscriptions: list[Subscription] = strawberry.field(description="Those that were live.")
    entitlements: list[Entitlement] = strawberry.field(description="What was granted.")


@strawberry.type(description="Somebody who buys, known by the id that you gave them.")
class Customer:
    view: strawberry.Private[CustomerView]

    @property
    def _row(self) -> tables.CustomerRow:
        return self.view.row

    async def _grants(self, info: Info) -> tuple[Catalog, Grants]:
        catalog = await info.context.catalog()
        return catalog, grants_of(catalog, self.view.state, info.context.now)

    @strawberry.field(description="Your own id of the customer.")
    def id(self) -> strawberry.ID:
        return strawberry.ID(self._row.id)

    @strawberry.field(description="The name, for people.")
    def name(self) -> str | None:
        return self._row.name

    @strawberry.field(description="Where the payment provider sends receipts.")
    def email(self) -> str | None:
        return self._row.email

    @strawberry.field(description="ISO 4217, lower case; fixed when the customer is created.")
    def currency(self) -> str:
        return self._row.currency

    @strawberry.field(description="When the customer was created.")
    def created_at(self) -> datetime:
        return self._row.created_at

    @strawberry.field(description="The id at the payment provider; null but for staff.")
    def provider_id(self, info: Info) -> str | None:
        return self._row.provider_id if info.context.may_see_provider_ids else None

    @strawberry.field(description="Rises with every change of the customer; usage does not count.")
    def revision(self) -> BigInt:
        return BigInt(self._row.revision)

    @strawberry.field(description="Live subscriptions, one a product at most.")
    async def subscriptions(self, info: Info) -> list[Subscription]:
        catalog = await info.context.catalog()
        return [
            Subscription(held=held, view=self.view, catalog=catalog)
            for held in self.view.state.subscriptions
            if held.live
        ]

    @strawberry.field(description="The live subscription of a product, if there is one.")
    async def subscription(
        self,
        info: Info,
        product_id: Annotated[strawberry.ID, strawberry.argument(description="Of this product.")],
    ) -> Subscription | None:
        held = self.view.state.live(product_id)
        if held is None:
            return None
        return Subscription(held=held, view=self.view, catalog=await info.context.catalog())

    @strawberry.field(description="Everything that the customer may do, with where it comes from.")
    async def entitlements(self, info: Info) -> list[Entitlement]:
        catalog, grants = await self._grants(info)
        return entitlement_types(self._row.id, catalog, grants)

    @strawberry.field(
        description="What staff granted or took by hand and is in force, newest first. Empty for "
        "a customer token, which sees what they grant among `entitlements`."
    )
    async def overrides(self, info: Info) -> list[Override]:
        if not info.context.may_see_overrides:
            return []
        catalog = await info.context.catalog()
        return override_types(catalog, self.view.state.overrides, info.context.now)

    @strawberry.field(description="All that was ever tried, newest first.")
    async def trials(self, info: Info) -> list[Trial]:
        catalog = await info.context.catalog()
        return [
            Trial(trial=trial, customer_id=self._row.id, catalog=catalog)
            for trial in reversed(self.view.state.trials)
        ]

    @strawberry.field(
        description="What they were denied by checks and counting, newest day first: kept for 800 "
        "days, some seconds late. Empty for a customer token, which hears each as it happens."
    )
    async def denials(self, info: Info, first: First = 50) -> list[DenialCount]:
        check_first(first)
        if not info.context.may_see_denials:
            return []
        rows = await info.context.services.signals.denials(self._row.id, first=first)
        catalog = await info.context.catalog()
        return [DenialCount.of(catalog, row) for row in rows]

    @strawberry.field(description="Changes, newest first.")
    async def changes(self, info: Info, first: First = 50, after: After = None) -> ChangeConnection:
        customers = info.context.services.customers

        async def load(*, first: int, after: str | None) -> list[tables.ChangeRow]:
            return list(await customers.changes(self._row.id, first=first, after=after))

        rows, page_info = await page(load, first, after, cursor=lambda row: row.id)
        return ChangeConnection(nodes=[Change(row=row) for row in rows], page_info=page_info)

    @strawberry.field(description="Invoices, newest first, as the payment provider has them.")
    async def invoices(
        self, info: Info, first: First = 50, after: After = None
    ) -> InvoiceConnection:
        customers = info.context.services.customers

        async def load(*, first: int, after: str | None) -> list[tables.InvoiceRow]:
            return list(await customers.invoices(self._row.id, first=first, after=after))

        rows, page_info = await page(load, first, after, cursor=lambda row: row.id)
        catalog = await info.context.catalog()
        nodes = [invoice_type(catalog, self.view, row) for row in rows]
        return InvoiceConnection(nodes=nodes, page_info=page_info)

    @strawberry.field(description="What is charged; null where none is saved.")
    def payment_method(self) -> PaymentMethod | None:
        row = self._row
        if row.payment_method_id is None:
            return None
        return PaymentMethod(brand=row.card_brand, last4=row.card_last4, expires=row.card_expires)

    @strawberry.field(
        description="What was held and granted at an instant, as it was answered then: at most the "
        "present. BAD_USER_INPUT: IN_THE_FUTURE; NOT_RECORDED where nothing was written down yet."
    )
    async def as_of(
        self,
        info: Info,
        at: Annotated[datetime, strawberry.argument(description="When.")],
    ) -> CustomerAsOf:
        catalog, view = await info.context.customers_then.load((self._row.id, at))
        if view is None:
            return CustomerAsOf(at=at, subscriptions=[], entitlements=[])
        return CustomerAsOf(
            at=at,
            subscriptions=[
                Subscription(held=held, view=self.view, catalog=catalog, then=at)
                for held in view.state.subscriptions
                if held.live
            ],
            entitlements=entitlement_types(None, catalog, grants_of(catalog, view.state, at)),
        )

    @strawberry.field(
        description="Credit held at the provider, taken from the next invoices; "
        "negative: carried over to them."
    )
    def credit_balance(self) -> Money:
        return money(self._row.credit_balance_minor, self._row.currency)


def invoice_type(catalog: Catalog, view: CustomerView, row: tables.InvoiceRow) -> Invoice:
    held = next((s for s in view.state.subscriptions if s.id == row.subscription_id), None)
    subscription = Subscription(held=held, view=view, catalog=catalog) if held else None
    return Invoice(row=row, catalog=catalog, held=subscription)


@strawberry.type(description="A page of customers, newest first.")
class CustomerConnection:
    nodes: list[Customer] = strawberry.field(description="The customers.")
    page_info: PageInfo = strawberry.field(description="Whether and where there is more.")


@strawberry.type(description="The customer as they are now.")
class CustomerPayload:
    customer: Customer = strawberry.field(description="The customer.")


@strawberry.type(description="The override, and the customer as they are now.")
class OverridePayload:
    override: Override = strawberry.field(description="The override.")
    customer: Customer = strawberry.field(description="The customer.")


@strawberry.type(description="The trial runs: what it grants is there from `revision` on.")
class TrialStarted:
    trial: Trial = strawberry.field(description="The trial.")
    customer: Customer = strawberry.field(description="The customer as they are now.")
    revision: BigInt = strawberry.field(description="For `minRevision` of checks.")


@strawberry.type(description="The trial, and the customer as they are now.")
class TrialPayload:
    trial: Trial = strawberry.field(description="The trial.")
    customer: Customer = strawberry.field(description="The customer.")


@strawberry.type(description="A token that a front end may carry: it sees this customer only.")
class CustomerToken:
    token: str = strawberry.field(description="For `Authorization: Bearer …`. Shown this once.")
    expires_at: datetime = strawberry.field(description="From when on it is refused.")
