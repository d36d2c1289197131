"""What a proposal says beside its document: policies for those who hold an older version of a
package, and notes on what publishing it would do.
"""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

import msgspec

from entitlements.catalog.advice import warnings
from entitlements.catalog.diff import probable_renames
from entitlements.catalog.document import Draft
from entitlements.catalog.model import AnyPackage, Catalog
from entitlements.catalog.versions import publish
from entitlements.kernel.errors import Issue


class GrandfatherPolicy(StrEnum):
    KEEP = "keep"
    KEEP_UNTIL = "keep_until"
    AT_RENEWAL = "at_renewal"
    NOW = "now"


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """For one package, for the price and the entitlements apart (DESIGN 9).

    `until` belongs to KEEP_UNTIL, `renewals` (1 is the next) to AT_RENEWAL. `max_increase_percent`
    caps what one renewal may raise; `notice_days` delay a move.
    """

    package_id: str
    price: GrandfatherPolicy = GrandfatherPolicy.KEEP
    entitlements: GrandfatherPolicy = GrandfatherPolicy.KEEP
    until: datetime | None = None
    renewals: int | None = None
    max_increase_percent: Decimal | None = None
    notice_days: int | None = None


class PublishedPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What a published version says of those who hold a lower one. Notice counts from then."""

    version: int
    published_at: datetime
    policy: Policy
    proposal_id: str = ""
    reason: str = ""  # the proposal's


def check_policies(policies: Sequence[Policy], base: Catalog, draft: Draft) -> list[Issue]:
    """Every mistake in a proposal's policies, with its path."""
    issues = []
    seen: set[str] = set()
    for index, policy in enumerate(policies):
        path = ("policies", str(index))
        named = {policy.price, policy.entitlements}
        if policy.package_id not in base.current or policy.package_id not in draft.packages:
            issues.append(
                Issue(
                    (*path, "packageId"),
                    "UNKNOWN_PACKAGE",
                    f"{policy.package_id!r} is not sold both before and after",
                )
            )
        if policy.package_id in seen:
            issues.append(Issue((*path, "packageId"), "DUPLICATE", "one policy for each package"))
        seen.add(policy.package_id)
        if (GrandfatherPolicy.KEEP_UNTIL in named) != (policy.until is not None):
            issues.append(Issue((*path, "until"), "UNTIL", "KEEP_UNTIL, and it alone, has a date"))
        if (GrandfatherPolicy.AT_RENEWAL in named) != (policy.renewals is not None):
            issues.append(
                Issue((*path, "renewals"), "RENEWALS", "AT_RENEWAL, and it alone, counts renewals")
            )
        if policy.renewals is not None and not 1 <= policy.renewals <= 120:
            issues.append(Issue((*path, "renewals"), "OUT_OF_RANGE", "from 1 to 120"))
        if policy.max_increase_percent is not None and policy.max_increase_percent < 0:
            issues.append(
                Issue((*path, "maxIncreasePercent"), "OUT_OF_RANGE", "a cap is not below 0")
            )
        if policy.notice_days is not None and not 0 <= policy.notice_days <= 366:
            issues.append(Issue((*path, "noticeDays"), "OUT_OF_RANGE", "from 0 to 366"))
    return issues


def notes(draft: Draft, base: Catalog) -> list[Issue]:
    """What somebody should know who decides whether `draft` follows `base`.

    What becomes of packages, with `(package id,)` for a path (`RETIRED`, `RETURNED`,
    `SAME_AS_BEFORE`); then, with the path in the document, probable renames, and what is odd about
    that which is new.
    """
    publication = publish(
        draft,
        base,
        revision=base.revision + 1,
        effective_at=base.effective_at,
        published_at=base.effective_at,
    )
    new = {package.id for package in publication.new_versions}
    new |= {id for id in draft.products if id not in base.products}
    new |= {id for id in draft.features if id not in base.features}
    odd = (warning for warning in warnings(draft) if _subject(draft, warning.path) in new)
    return [*publication.notes, *probable_renames(base, draft), *odd]


def _subject(draft: Draft, path: tuple[str, ...]) -> str:
    """The id of the feature, product or package that a path of the document leads to."""
    ids = list(draft.features if path[0] == "features" else draft.products)
    subject = ids[int(path[1])]
    if path[0] == "products" and len(path) > 3:
        packages: Sequence[AnyPackage] = getattr(draft.products[subject], path[2])
        return packages[int(path[3])].id
    return subject
