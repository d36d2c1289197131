"""What is asked for, in terms of what is wanted; and what of it waits."""

from collections.abc import Mapping
from datetime import datetime

import msgspec

from entitlements.catalog.model import ChangeTiming, ProrationMode
from entitlements.kernel.period import Interval
from entitlements.subscriptions.grandfathering import Move

REASON_LENGTH_AT_MOST = 2000


class TrialRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A package to try. `again`: also if it was tried before, which is for staff to allow."""

    package_id: str
    success_criteria: tuple[str, ...] = ()
    again: bool = False


class ChangeRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is wanted, not what is to be added. What is not named stays as it is; 0 removes.

    `versions` pins packages that are new to a version that was promised (an offer, the terms of a
    trial), by package id; without it they are bought at the latest.

    `trial` asks for one alone, with the interval and the levels that it converts at; `end_trial`
    for the end of the trial that the whole subscription is on, paid from now on. `move` is no
    customer's: a policy takes one package that is held to other terms.
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
    trial: TrialRequest | None = None
    end_trial: bool = False
    move: Move | None = None

    @property
    def touches(self) -> frozenset[str]:
        """What it is about: of two requests about the same thing the later one holds.

        >>> sorted(ChangeRequest(plan_id="pro", quantities={"seats": 5}).touches)
        ['plan', 'quantity:seats']
        """
        keys = {f"quantity:{feature_id}" for feature_id in self.quantities}
        keys |= {f"package:{package_id}" for package_id in (*self.add_ons, *self.bundles)}
        named = {
            "plan": self.plan_id is not None,
            "interval": self.interval is not None,
            "versions": self.to_latest_versions,
        }
        return frozenset(keys | {key for key, is_named in named.items() if is_named})


class Queued(msgspec.Struct, frozen=True, kw_only=True):
    """A change that waits: what it changes, and on which terms.

    The request's `versions` pin all that it brings, and `levels` are the levels bought afterwards,
    both fixed when it was quoted: what is sold or used in the meantime does not alter it.
    """

    change_id: str
    description: str
    effective_at: datetime
    request: ChangeRequest
    levels: Mapping[str, int] = {}
