"""Checks from memory, at once: nothing is waited for, and nothing is put together twice.

What an answer shows of a check follows from the customer's snapshot, except for what is counted. So
it is written as JSON when it is first asked for, and kept with the snapshot: it goes when that one
goes. Whatever is not a plain answer is `NotHere`, before anything was counted: the executor and its
compiled twin say it.
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec

from entitlements.access.service import MAX_CHECKS, Check, answered
from entitlements.access.signals import Key
from entitlements.access.snapshots import Known
from entitlements.access.usage import NOT_USED
from entitlements.catalog.model import FeatureKind
from entitlements.kernel.errors import ServiceError
from graphql_schema.coercion import Arguments, NotHere
from graphql_schema.permissions import customer_of, is_open
from graphql_schema.remembered import Asked
from graphql_schema.types.access import AccessDecision, AccessInput

SHOWN_AT_MOST: Final = 128
"""So many checks are kept with one snapshot, of all documents together: some 400 bytes each."""

LISTED: Final = "[AccessInput!]!"
"""The type of a variable whose JSON is looked at as it came: it can only be `checks`."""

_encode = msgspec.json.Encoder().encode


class Shown(NamedTuple):
    """What is shown of one check, and what a denial of it counts as."""

    text: msgspec.Raw
    denied: Key | None


class Checks:
    """The root field `access` or `accessMany` of one plan: called, it answers.

    `listed` is the variable that has the checks of `accessMany`, and `read` makes one of them of
    its JSON. `is_plain`: what is shown depends on the check and the snapshot alone.
    """

    def __init__(
        self,
        field: str,
        arguments: Arguments,
        show: Callable[[AccessDecision, Asked], Any],
        *,
        is_plain: bool,
        listed: str = "",
        read: Callable[[Any], AccessInput] | None = None,
    ) -> None:
        self._field = field
        self._arguments = arguments
        self._show = show
        self._is_plain = is_plain
        self._listed = listed
        self._read = read

    def __call__(self, info: Asked) -> Any:
        principal, services = info.context.principal, info.context.services
        if not is_open("Query", self._field, principal):
            raise NotHere
        asked = self._arguments(info.variables)
        try:
            customer_id = customer_of(principal, asked.get("customer_id"))
        except ServiceError:
            raise NotHere from None
        least = asked.get("min_revision") or 0
        known = services.snapshots.known_now(customer_id, min_revision=least)
        if known is None or known.snapshot.state is None:
            raise NotHere
        if self._read is None:
            check = Check(asked["feature_id"], asked["quantity"], asked.get("at_least"))
            shown = [self._one(known, check, info)]
        else:
            shown = self._every(known, info.variables[self._listed], info)
        for one in shown:
            if one.denied is not None:
                services.signals.denied(one.denied)
        return shown[0].text if self._read is None else [one.text for one in shown]

    def _every(self, known: Known, listed: Any, info: Asked) -> list[Shown]:
        if type(listed) is not list or not 1 <= len(listed) <= MAX_CHECKS:
            raise NotHere
        assert self._read is not None
        kept, found = known.snapshot.shown, []
        for item in listed:
            one = None
            if type(item) is dict and len(item) == 1:  # what is asked most
                feature_id = item.get("featureId")
                if type(feature_id) is str:
                    one = kept.get((self, feature_id, None))
            found.append(one or self._one(known, self._read(item).domain(), info))
        return found

    def _one(self, known: Known, check: Check, info: Asked) -> Shown:
        kept = known.snapshot.shown
        key = self, check.feature_id, check.at_least
        found: Shown | None = kept.get(key) if check.quantity > 0 else None
        if found is not None:
            return found
        feature = known.catalog.features.get(check.feature_id)
        if feature is None or feature.kind is FeatureKind.METERED:
            raise NotHere
        try:
            answer = answered(known, check, NOT_USED)
        except ServiceError:
            raise NotHere from None
        assert known.snapshot.state is not None
        customer_id = known.snapshot.state.id
        decision = AccessDecision.of(answer, customer_id, check)
        reason = answer.decision.reason
        shown = Shown(
            msgspec.Raw(_encode(self._show(decision, info))),
            None if reason is None else (customer_id, check.feature_id, reason),
        )
        is_one_of_few = check.at_least is None or feature.kind is FeatureKind.ENUM
        if self._is_plain and is_one_of_few and len(kept) < SHOWN_AT_MOST:
            kept[key] = shown
        return shown
