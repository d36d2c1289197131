"""Reading what is sold: the catalog, its packages, plans side by side, and what they would cost."""

import asyncio
from datetime import datetime
from typing import Annotated, TypeVar

import strawberry

from entitlements.catalog import model
from entitlements.grants.comparison import compare
from entitlements.kernel.errors import Forbidden
from entitlements.pricing.estimate import estimate
from graphql_schema.context import Info
from graphql_schema.permissions import DATED_CATALOG, Guarded
from graphql_schema.types.catalog import (
    AddOn,
    Bundle,
    Catalog,
    Plan,
    add_on_type,
    bundle_type,
    catalog_type,
    plan_type,
)
from graphql_schema.types.comparison import PlanComparison, comparison_type
from graphql_schema.types.estimate import (
    Estimate,
    EstimateInput,
    estimate_request,
    estimate_type,
)

P = TypeVar("P", model.Plan, model.AddOn, model.Bundle)

PackageId = Annotated[
    strawberry.ID, strawberry.argument(description="Its key in the catalog, such as `pro`.")
]
Version = Annotated[
    int | None,
    strawberry.argument(
        description="Which version; the one sold now if left out. Any other is open to staff and "
        "services, and to a customer's token if the customer holds it."
    ),
]


@strawberry.type
class CatalogQueries:
    @strawberry.field(extensions=[Guarded()], description="All that is sold.")
    async def catalog(
        self,
        info: Info,
        as_of: Annotated[
            datetime | None,
            strawberry.argument(
                description="When, past or to come; now if left out. For staff and services."
            ),
        ] = None,
    ) -> Catalog:
        if as_of is None:
            return catalog_type(await info.context.catalog())
        if info.context.principal.role not in DATED_CATALOG:
            raise Forbidden("the catalog of another time is for staff and services")
        return catalog_type(await info.context.services.catalog.as_of(as_of))

    @strawberry.field(
        extensions=[Guarded()], description="A plan; null if there is no such, or it is not sold."
    )
    async def plan(self, info: Info, id: PackageId, version: Version = None) -> Plan | None:
        found = await _package(info, model.Plan, id, version)
        return found and plan_type(*found)

    @strawberry.field(
        extensions=[Guarded()],
        description="An add-on; null if there is no such, or it is not sold.",
    )
    async def add_on(self, info: Info, id: PackageId, version: Version = None) -> AddOn | None:
        found = await _package(info, model.AddOn, id, version)
        return found and add_on_type(*found)

    @strawberry.field(
        extensions=[Guarded()], description="A bundle; null if there is no such, or it is not sold."
    )
    async def bundle(self, info: Info, id: PackageId, version: Version = None) -> Bundle | None:
        found = await _package(info, model.Bundle, id, version)
        return found and bundle_type(*found)

    @strawberry.field(
        extensions=[Guarded()],
        description="Plans side by side; null if nothing is sold of such a product. At most 25,000 "
        "cells (features × plans), otherwise BAD_USER_INPUT, TOO_LARGE.",
    )
    async def compare_plans(
        self,
        info: Info,
        product_id: Annotated[
            strawberry.ID, strawberry.argument(description="The product that they are plans of.")
        ],
        plan_ids: Annotated[
            list[strawberry.ID] | None,
            strawberry.argument(
                description="Which, in this order; all, lowest tier first, if left out."
            ),
        ] = None,
    ) -> PlanComparison | None:
        catalog = await info.context.catalog()
        product = catalog.products.get(product_id)
        if product is None or not product.packages:
            return None
        return comparison_type(catalog, compare(catalog, product_id, plan_ids))

    @strawberry.field(
        extensions=[Guarded()],
        description="What a choice would cost somebody who holds nothing yet. Mistakes in it are "
        "BAD_USER_INPUT, all at once.",
    )
    async def estimate(
        self,
        info: Info,
        input: Annotated[EstimateInput, strawberry.argument(description="What is chosen.")],
    ) -> Estimate:
        catalog = await info.context.catalog()
        # The search for cheaper ways may take a good part of a second: other requests go on.
        answer = await asyncio.to_thread(estimate, catalog, estimate_request(input))
        return estimate_type(catalog, answer)


async def _package(
    info: Info, kind: type[P], id: str, version: int | None
) -> tuple[model.Catalog, P] | None:
    """The package in the present catalog, at a version or as it is sold now.

    Raises `Forbidden` for a version that the principal may not see, whether there is one or not.
    """
    catalog = await info.context.catalog()
    sold = catalog.current.get(id)
    if version is None or (sold is not None and version == sold.version):
        return (catalog, sold) if isinstance(sold, kind) else None
    version_id = f"{id}@{version}"
    if not await _may_see(info, catalog, version_id):
        raise Forbidden("versions that are not sold now are for staff and services, and holders")
    found = catalog.versions.get(version_id)
    return (catalog, found) if isinstance(found, kind) else None


async def _may_see(info: Info, catalog: model.Catalog, version_id: str) -> bool:
    """Staff and services see every version; a customer those that it holds, parts included."""
    principal = info.context.principal
    if principal.role in DATED_CATALOG:
        return True
    if principal.customer_id is None:
        return False
    view = await info.context.customers.load(principal.customer_id)
    held = [item for s in view.state.subscriptions if s.live for item in s.items] if view else []
    return any(
        version_id in _versions_within(catalog, item.package_id, version)
        for item in held
        for version in (item.version, item.entitlements_version)
    )


def _versions_within(catalog: model.Catalog, package_id: str, version: int) -> set[str]:
    """A version's own id, and those of the components that a bundle pins."""
    package = catalog.version(package_id, version)
    components = package.components if isinstance(package, model.Bundle) else ()
    return {package.version_id, *(f"{c.package_id}@{c.version}" for c in components)}
