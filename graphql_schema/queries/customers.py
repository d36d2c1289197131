"""Reading customers, their changes, and what they may do."""

from typing import Annotated

import strawberry

from entitlements.access.service import MAX_CHECKS, Check
from entitlements.kernel.errors import NotFound, ValidationFailed
from entitlements.subscriptions.tables import CustomerRow
from graphql_schema.context import Info
from graphql_schema.permissions import Guarded, customer_of
from graphql_schema.types.access import AccessDecision, AccessInput
from graphql_schema.types.changes import Change, ChangeConnection
from graphql_schema.types.customers import Customer, CustomerConnection
from graphql_schema.types.pages import After, First, page
from graphql_schema.types.scalars import BigInt

CustomerId = Annotated[
    strawberry.ID | None,
    strawberry.argument(description="May be left out with a customer token."),
]
MinRevision = Annotated[
    BigInt | None,
    strawberry.argument(
        description="Wait up to 2 seconds for this revision, then refuse (REVISION_NOT_REACHED) "
        "rather than answer by an older one."
    ),
]

ONE = BigInt(1)


@strawberry.type
class CustomerQueries:
    @strawberry.field(extensions=[Guarded()], description="A customer; null where there is none.")
    async def customer(self, info: Info, id: CustomerId = None) -> Customer | None:
        try:
            customer_id = customer_of(info.context.principal, id)
        except NotFound:
            return None
        view = await info.context.customers.load(customer_id)
        return Customer(view=view) if view else None

    @strawberry.field(extensions=[Guarded()], description="Customers, newest first.")
    async def customers(
        self,
        info: Info,
        first: First = 50,
        after: After = None,
        search: Annotated[
            str | None,
            strawberry.argument(description="The beginning of an id, a name or an e-mail address."),
        ] = None,
    ) -> CustomerConnection:
        service = info.context.services.customers

        async def load(*, first: int, after: str | None) -> list[CustomerRow]:
            return list(await service.page(first=first, after=after, search=search))

        rows, page_info = await page(load, first, after, cursor=lambda row: row.sequence)
        views = await info.context.customers.load_many([row.id for row in rows])
        nodes = [Customer(view=view) for view in views if view is not None]
        return CustomerConnection(nodes=nodes, page_info=page_info)

    @strawberry.field(extensions=[Guarded()], description="A change; null where there is none.")
    async def change(
        self,
        info: Info,
        id: Annotated[strawberry.ID, strawberry.argument(description="The change's id, `chg_…`.")],
    ) -> Change | None:
        row = await info.context.services.customers.change(id)
        mine = info.context.principal.customer_id
        if row is None or mine not in (None, row.customer_id):
            return None
        return Change(row=row)

    @strawberry.field(
        extensions=[Guarded()],
        description="Changes of all customers that wait for approval, newest first.",
    )
    async def changes_awaiting_approval(
        self, info: Info, first: First = 50, after: After = None
    ) -> ChangeConnection:
        load = info.context.services.approvals.awaiting
        rows, page_info = await page(load, first, after, cursor=lambda row: row.id)
        return ChangeConnection(nodes=[Change(row=row) for row in rows], page_info=page_info)

    @strawberry.field(extensions=[Guarded()], description="May this customer do this now?")
    async def access(
        self,
        info: Info,
        feature_id: Annotated[
            strawberry.ID, strawberry.argument(description="Its key in the catalog.")
        ],
        customer_id: CustomerId = None,
        quantity: Annotated[
            BigInt, strawberry.argument(description="METERED: how many more units.")
        ] = ONE,
        at_least: Annotated[
            str | None, strawberry.argument(description="ENUM and NUMBER: the value needed.")
        ] = None,
        min_revision: MinRevision = None,
    ) -> AccessDecision:
        check = Check(feature_id, quantity, at_least)
        [decision] = await _decisions(info, customer_id, [check], min_revision)
        return decision

    @strawberry.field(
        extensions=[Guarded()],
        description=f"Up to {MAX_CHECKS} checks of one customer, all at one revision.",
    )
    async def access_many(
        self,
        info: Info,
        checks: Annotated[
            list[AccessInput], strawberry.argument(description="In the order of the answers.")
        ],
        customer_id: CustomerId = None,
        min_revision: MinRevision = None,
    ) -> list[AccessDecision]:
        if not 1 <= len(checks) <= MAX_CHECKS:
            raise ValidationFailed.of("checks", "LENGTH", f"from 1 to {MAX_CHECKS} checks")
        return await _decisions(info, customer_id, [c.domain() for c in checks], min_revision)


async def _decisions(
    info: Info, customer_id: str | None, checks: list[Check], min_revision: int | None
) -> list[AccessDecision]:
    access = info.context.services.access
    try:
        found = customer_of(info.context.principal, customer_id)
    except NotFound:
        return [AccessDecision.of(answer) for answer in await access.unknown(checks)]
    answers = await access.check(found, checks, min_revision=min_revision)
    return [AccessDecision.of(answer, found, answer.check) for answer in answers]
