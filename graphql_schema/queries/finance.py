"""Reading what prices and their changes are worth."""

from datetime import datetime
from typing import Annotated

import strawberry

from entitlements.finance.charges import explain_of_change, explain_of_invoice
from entitlements.finance.movements import (
    MONTHS_AT_MOST,
    MrrDimension,
    checked_period,
    mrr_movements,
    mrr_movements_by,
)
from entitlements.finance.price_history import standing
from entitlements.kernel.errors import ValidationFailed
from graphql_schema.context import Info
from graphql_schema.permissions import Guarded
from graphql_schema.types.finance import (
    ChargeExplanation,
    MrrMovements,
    MrrMovementsGroup,
    PriceHistoryEntry,
)

From = Annotated[
    datetime, strawberry.argument(name="from", description="The first instant within.")
]
To = Annotated[
    datetime,
    strawberry.argument(
        description=f"The first instant after, at most {MONTHS_AT_MOST} months later."
    ),
]
Currency = Annotated[str, strawberry.argument(description="ISO 4217, lower case.")]


@strawberry.type
class FinanceQueries:
    @strawberry.field(
        extensions=[Guarded()],
        description="What became of the MRR within a period. Reads every movement until its end: "
        "a second for some hundred thousand.",
    )
    async def mrr_movements(
        self, info: Info, from_: From, to: To, currency: Currency
    ) -> MrrMovements:
        period = checked_period(from_, to, currency)
        async with info.context.services.database.read(streaming=True) as session:
            found = await mrr_movements(session, period, currency)
        return MrrMovements.of(period, currency, found)

    @strawberry.field(
        extensions=[Guarded()], description="The same in groups, in the order of their keys."
    )
    async def mrr_movements_by(
        self,
        info: Info,
        from_: From,
        to: To,
        currency: Currency,
        by: Annotated[MrrDimension, strawberry.argument(description="What they are grouped by.")],
    ) -> list[MrrMovementsGroup]:
        period = checked_period(from_, to, currency)
        async with info.context.services.database.read(streaming=True) as session:
            found = await mrr_movements_by(session, period, currency, by)
        return [MrrMovementsGroup.of(currency, group) for group in found]

    @strawberry.field(
        extensions=[Guarded()],
        description="The versions of a package, newest first, with who is still on each. Reads all "
        "who hold it: a second for some ten thousand. NOT_FOUND where there never was such.",
    )
    async def price_history(
        self,
        info: Info,
        package_id: Annotated[
            strawberry.ID, strawberry.argument(description="A plan, an add-on or a bundle.")
        ],
    ) -> list[PriceHistoryEntry]:
        services = info.context.services
        history = await services.catalog.history_of(package_id)
        catalog = await services.catalog.latest()
        async with services.database.read() as session:
            found = await standing(session, catalog, package_id)
        return [
            PriceHistoryEntry.of(info.context, catalog, sold, found.get(sold.package.version))
            for sold in history
        ]

    @strawberry.field(
        extensions=[Guarded()],
        description="Why a line of a change or an invoice has its amount. Give exactly one id. "
        "Null where there is no such. BAD_USER_INPUT: OUT_OF_RANGE where it has no such line, "
        "NOT_OF_A_PACKAGE where the payment provider wrote it by itself. Reads all that the "
        "customer ever held.",
    )
    async def explain_charge(
        self,
        info: Info,
        line: Annotated[int, strawberry.argument(description="Which line, counted from 0.")],
        change_id: Annotated[
            strawberry.ID | None, strawberry.argument(description="A change, `chg_…`.")
        ] = None,
        invoice_id: Annotated[
            strawberry.ID | None, strawberry.argument(description="An invoice, `inv_…`.")
        ] = None,
    ) -> ChargeExplanation | None:
        catalog = await info.context.catalog()
        async with info.context.services.database.read(streaming=True) as session:
            if change_id is not None and invoice_id is None:
                found = await explain_of_change(session, catalog, change_id, line)
            elif invoice_id is not None and change_id is None:
                found = await explain_of_invoice(session, catalog, invoice_id, line)
            else:
                raise ValidationFailed.of("changeId", "ONE_OF", "give exactly one id")
        return ChargeExplanation.of(info.context, catalog, found) if found else None
