"""Trials, as the contract shows them."""

from datetime import datetime

import strawberry

from entitlements.catalog import model
from entitlements.catalog.model import Catalog
from entitlements.kernel.period import Interval
from entitlements.subscriptions import state, trials
from entitlements.subscriptions.state import TrialStatus
from graphql_schema.context import Info
from graphql_schema.types.catalog import Package, TrialStep, package_type
from graphql_schema.types.changes import Quote
from graphql_schema.types.enums import describe_enum
from graphql_schema.types.inputs import QuantityInput

describe_enum(
    TrialStatus,
    "How a trial stands.",
    ACTIVE="It runs: what is tried is granted.",
    CONVERTED="It was bought.",
    EXPIRED="It ended without being bought.",
    CANCELED="It was given up before its end.",
)


@strawberry.type(description="Something tried, on terms fixed at the start.")
class Trial:
    trial: strawberry.Private[state.Trial]
    customer_id: strawberry.Private[str]
    catalog: strawberry.Private[Catalog]

    @strawberry.field(description="The trial's id, `trl_…`.")
    def id(self) -> strawberry.ID:
        return strawberry.ID(self.trial.id)

    @strawberry.field(description="What is tried, at the version that it converts at.")
    def package(self) -> Package:
        return package_type(self.catalog, trials.tried_package(self.catalog, self.trial))

    @strawberry.field(description="How it stands.")
    def status(self) -> TrialStatus:
        return self.trial.status

    @strawberry.field(description="When it began.")
    def started_at(self) -> datetime:
        return self.trial.started_at

    @strawberry.field(description="From when on it grants nothing, unless it is bought.")
    def ends_at(self) -> datetime:
        return self.trial.ends_at

    @strawberry.field(
        description="CONVERT: it is bought at its end, where there is a payment method; of an "
        "add-on or a bundle that is prorated onto the next invoice. EXPIRE: it just ends."
    )
    def at_end(self) -> model.TrialEnd:
        return self.trial.at_end

    @strawberry.field(description="What is to be reached, agreed at the start.")
    def success_criteria(self) -> list[str]:
        return list(self.trial.success_criteria)

    @strawberry.field(
        description="Where the guide is, by the weeks since the start, in the catalog's words of "
        "now; null before its first step and once the trial is over."
    )
    def current_step(self, info: Info) -> TrialStep | None:
        step = trials.current_step(self.catalog, self.trial, info.context.now)
        return TrialStep(week=step.week, title=step.title, body=step.body) if step else None

    @strawberry.field(
        description="What converting now would do, at the terms fixed at the start; null where it "
        "does not run, or cannot be bought now. Asks the payment provider."
    )
    async def conversion(self, info: Info) -> Quote | None:
        if not self.trial.active:
            return None
        quote = await info.context.services.trials.conversion(self.customer_id, self.trial.id)
        return Quote(quote=quote, catalog=self.catalog) if quote is not None else None


@strawberry.input(description="What to try, and the terms that it converts at.")
class StartTrialInput:
    customer_id: strawberry.ID | None = strawberry.field(
        default=None, description="May be left out with a customer token."
    )
    package_id: strawberry.ID = strawberry.field(
        description="A plan, an add-on or a bundle that has a trial."
    )
    interval: Interval | None = strawberry.field(
        default=Interval.MONTH,
        description="How a plan is billed when it converts; anything else is billed with the "
        "subscription that it joins.",
    )
    quantities: list[QuantityInput] | None = strawberry.field(
        default=None, description="Levels that it converts at, such as seats; granted at once."
    )
    success_criteria: list[str] | None = strawberry.field(
        default=None, description="What is to be reached: up to 20 of up to 500 characters."
    )
    allow_again: bool = strawberry.field(
        default=False, description="Staff, with a reason: also if it was tried before."
    )
    reason: str | None = strawberry.field(
        default=None, description="Kept in the ledger; up to 2000 characters."
    )
    idempotency_key: str = strawberry.field(description="Yours, 1 to 255 characters.")
    return_url: str | None = strawberry.field(
        default=None, description="Where the provider's pages lead back to."
    )
