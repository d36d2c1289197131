"""What somebody asks for: a change in the terms of what is wanted, stored as it was asked."""

from collections.abc import Mapping

import msgspec

from entitlements.catalog.model import ChangeTiming, ProrationMode
from entitlements.kernel.period import Interval


class ChangeRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is wanted, not what is to be added. What is not named stays as it is; 0 removes.

    `versions` pins packages that are new to a version that was promised (an offer, the terms of a
    trial), by package id; without it they are bought at the latest.
    """

    product_id: str | None = None
    plan_id: str | None = None
    interval: Interval | None = None
    quantities: Mapping[str, int] = {}
    add_ons: Mapping[str, int] = {}
    bundles: Mapping[str, int] = {}
    timing: ChangeTiming | None = None
    proration: ProrationMode | None = None
    reason: str | None = None
    to_latest_versions: bool = False
    versions: Mapping[str, int] = {}
    cancel: bool = False
