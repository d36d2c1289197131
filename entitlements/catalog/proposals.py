"""The policies of a proposal: what happens to those who hold an older version of a package."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

import msgspec

from entitlements.catalog.document import Draft
from entitlements.catalog.model import Catalog
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
