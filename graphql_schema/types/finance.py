"""What prices and their changes are worth, as the contract shows it."""

from datetime import datetime
from decimal import Decimal
from typing import Self

import strawberry

from entitlements.catalog.model import Catalog
from entitlements.catalog.service import SoldVersion
from entitlements.finance.charges import ExplainedCharge
from entitlements.finance.movements import MovementsGroup, MrrDimension
from entitlements.finance.price_history import Standing
from entitlements.kernel import period as time
from entitlements.pricing import mrr
from graphql_schema.context import Context
from graphql_schema.types.catalog import Charge, charge_type
from graphql_schema.types.changes import Change, InvoiceLine, line_type
from graphql_schema.types.enums import describe_enum
from graphql_schema.types.money import Money, Period, money, period_type
from graphql_schema.types.proposals import CatalogProposal, proposal_type

describe_enum(
    MrrDimension,
    "What MRR movements are grouped by. Each group adds up by itself.",
    PLAN="The plan held, with all that is held beside it: the groups sum to the whole. A move "
    "between plans is contraction of one and expansion of the other.",
    ADD_ON="Each add-on and bundle, without the plans.",
    COHORT="The month, in UTC, in which the customer first paid.",
    MONTH="The calendar months of the period, in UTC.",
)


@strawberry.type(
    description="What became of the monthly recurring revenue within a period: opening + new + "
    "expansion + reactivation − contraction − churn = closing, to the minor unit. No amount is "
    "negative but where a key says so. A year's charges count ÷ 12; trials and metered use do not."
)
class MrrMovements:
    period: Period = strawberry.field(description="From when, until when.")
    currency: str = strawberry.field(description="ISO 4217, lower case.")
    opening: Money = strawberry.field(description="The MRR at the period's start.")
    new: Money = strawberry.field(description="Of customers who pay for the first time.")
    expansion: Money = strawberry.field(description="Rises of those who paid already.")
    contraction: Money = strawberry.field(description="Falls of those who go on paying: taken off.")
    churn: Money = strawberry.field(description="Of those who pay nothing any more: taken off.")
    reactivation: Money = strawberry.field(description="Of those who had stopped and pay again.")
    closing: Money = strawberry.field(description="The MRR at the period's end.")
    nrr_percent: Decimal | None = strawberry.field(
        description="Net revenue retention: (opening + expansion − contraction − churn) ÷ opening, "
        "of the customers who paid at the opening; null where nobody did."
    )
    grr_percent: Decimal | None = strawberry.field(
        description="Gross revenue retention: (opening − contraction − churn) ÷ opening, of the "
        "customers who paid at the opening; null where nobody did."
    )

    @classmethod
    def of(cls, period: time.Period, currency: str, found: mrr.MrrMovements) -> Self:
        return cls(
            period=period_type(period),
            currency=currency,
            opening=money(found.opening_minor, currency),
            new=money(found.new_minor, currency),
            expansion=money(found.expansion_minor, currency),
            contraction=money(found.contraction_minor, currency),
            churn=money(found.churn_minor, currency),
            reactivation=money(found.reactivation_minor, currency),
            closing=money(found.closing_minor, currency),
            nrr_percent=found.nrr_percent,
            grr_percent=found.grr_percent,
        )


@strawberry.type(description="The movements of one plan, add-on, cohort or month.")
class MrrMovementsGroup:
    key: str = strawberry.field(
        description="The id of a plan or an add-on, or a month such as 2026-03."
    )
    movements: MrrMovements = strawberry.field(description="What became of its MRR.")

    @classmethod
    def of(cls, currency: str, group: MovementsGroup) -> Self:
        return cls(
            key=group.key, movements=MrrMovements.of(group.period, currency, group.movements)
        )


@strawberry.type(description="A version of a package: from when to when it was sold, and to whom.")
class PriceHistoryEntry:
    package_id: strawberry.ID = strawberry.field(description="The package.")
    version: int = strawberry.field(description="Its number, from 1.")
    effective_at: datetime = strawberry.field(description="From when on it was, or will be, sold.")
    ended_at: datetime | None = strawberry.field(
        description="From when on it was not sold any more: another version was, or none. Null "
        "where that is not known to happen."
    )
    charges: list[Charge] = strawberry.field(description="What it costs.")
    proposal: CatalogProposal | None = strawberry.field(
        description="The proposal that brought it: who, why, and who approved."
    )
    subscribers: int = strawberry.field(
        description="How many customers hold it by itself now, tried or paid."
    )
    mrr: list[Money] = strawberry.field(
        description="What they pay for it per month, one a currency, in the order of its code."
    )

    @classmethod
    def of(
        cls, context: Context, catalog: Catalog, sold: SoldVersion, standing: Standing | None
    ) -> Self:
        mrr_minor = standing.mrr_minor if standing else {}
        return cls(
            package_id=strawberry.ID(sold.package.id),
            version=sold.package.version,
            effective_at=sold.effective_at,
            ended_at=sold.ended_at,
            charges=[charge_type(catalog, charge) for charge in sold.package.charges],
            proposal=proposal_type(context, sold.proposal) if sold.proposal else None,
            subscribers=standing.customers if standing else 0,
            mrr=[money(minor, currency) for currency, minor in sorted(mrr_minor.items())],
        )


@strawberry.type(
    description="Why a line has its amount, worked out anew by the engine from what was held then."
)
class ChargeExplanation:
    line: InvoiceLine = strawberry.field(description="The line.")
    steps: list[str] = strawberry.field(
        description="From the price to the amount, and to who changed, proposed and approved it, "
        "in words and figures of English."
    )
    computed: Money | None = strawberry.field(
        description="What the engine works out: the line's amount, unless a step says otherwise; "
        "null where what was held is not recorded."
    )
    package_version_id: strawberry.ID = strawberry.field(
        description="The version whose price it is."
    )
    proposal: CatalogProposal | None = strawberry.field(
        description="The proposal that brought this version."
    )
    change: Change | None = strawberry.field(
        description="The change that the line settles; of a renewal the one that brought what is "
        "renewed."
    )

    @classmethod
    def of(cls, context: Context, catalog: Catalog, found: ExplainedCharge) -> Self:
        return cls(
            line=line_type(catalog, found.line, found.currency),
            steps=list(found.steps),
            computed=(
                None
                if found.computed_minor is None
                else money(found.computed_minor, found.currency)
            ),
            package_version_id=strawberry.ID(found.version_id),
            proposal=proposal_type(context, found.proposal) if found.proposal else None,
            change=Change(row=found.change) if found.change else None,
        )
