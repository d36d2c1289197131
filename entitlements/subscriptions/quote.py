"""Quotes and offers: a change priced and signed, so that nothing is stored or can be altered.

The token says which customer, at which revision and catalog revision, asks for which change, at
which instant, and what it comes to. It is good for 15 minutes of the service's clock.

An offer is a quote that we made by ourselves, at our engine's figures. It pins the versions that it
brings instead of the catalog's revision: what is published meanwhile does not make it stale.
"""

import contextlib
import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from entitlements.kernel.errors import ValidationFailed
from entitlements.kernel.money import smallest_charge_minor
from entitlements.kernel.period import to_second
from entitlements.kernel.signing import InvalidToken, Signer
from entitlements.subscriptions.change import Authority, ChangePlan
from entitlements.subscriptions.holdings import EntitlementChange
from entitlements.subscriptions.invoice_line import Line
from entitlements.subscriptions.request import ChangeRequest
from entitlements.subscriptions.state import Item, Subscription
from entitlements.subscriptions.violations import UsageViolation

VALID_FOR = timedelta(minutes=15)
_QUOTE, _OFFER = "quote", "offer"


class QuoteClaims(msgspec.Struct, frozen=True, kw_only=True):
    """What a quote's token says. `authority` is the one that it was asked under.

    An offer has no `catalog_revision`: its `request` names the versions. `lines_digest`,
    `total_minor` and `due_now_minor` are then our engine's.
    """

    customer_id: str
    customer_revision: int
    catalog_revision: int | None
    request: ChangeRequest
    authority: Authority
    proration_date: int
    expires_at: int
    total_minor: int
    due_now_minor: int
    lines_digest: str

    @property
    def at(self) -> datetime:
        return datetime.fromtimestamp(self.proration_date, UTC)

    @property
    def is_offer(self) -> bool:
        return self.catalog_revision is None

    def holds_for(self, customer_revision: int, catalog_revision: int) -> bool:
        """Whether it was made of what is so now."""
        same_catalog = self.is_offer or self.catalog_revision == catalog_revision
        return same_catalog and self.customer_revision == customer_revision


class Quote(msgspec.Struct, frozen=True, kw_only=True):
    """What a change would do and cost. `lines` carry the provider's amounts."""

    token: str
    expires_at: datetime
    plan: ChangePlan
    lines: tuple[Line, ...]
    due_now_minor: int
    due_now_exact: bool
    credit_applied_minor: int
    credit_balance_after_minor: int
    entitlement_changes: tuple[EntitlementChange, ...]
    usage_violations: tuple[UsageViolation, ...]
    held: Subscription | None = None  # as it is now
    given_up: tuple[Item, ...] = ()  # held items of older terms that do not go on

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader should know, in sentences."""
        return (*self.plan.warnings, *(violation.words for violation in self.usage_violations))


class Due(msgspec.Struct, frozen=True):
    """What a total means for the card and for the credit held. Credit is positive."""

    due_now_minor: int
    credit_applied_minor: int
    credit_after_minor: int


def due(total_minor: int, credit_minor: int, smallest_charge_minor: int) -> Due:
    """Credit first, then the card; what is below the smallest charge is carried over.

    >>> due(2000, 500, 50), due(-300, 0, 50), due(20, 0, 50)
    ... # doctest: +NORMALIZE_WHITESPACE
    (Due(due_now_minor=1500, credit_applied_minor=500, credit_after_minor=0),
     Due(due_now_minor=0, credit_applied_minor=0, credit_after_minor=300),
     Due(due_now_minor=0, credit_applied_minor=0, credit_after_minor=-20))
    """
    applied = max(0, min(total_minor, credit_minor))
    left = total_minor - credit_minor
    if left < smallest_charge_minor:
        return Due(0, applied, -left)
    return Due(left, applied, 0)


def due_by(plan: ChangePlan, credit_minor: int) -> Due:
    """What a change comes to now as our engine has it, after credit."""
    total = plan.invoice_total_minor if plan.invoiced_now else 0
    return due(total, credit_minor, smallest_charge_minor(plan.currency))


def most_to_accept(quoted_minor: int) -> int:
    """How much a change may come to that begins a new period, and so cannot be pinned.

    >>> most_to_accept(500), most_to_accept(100_000)
    (510, 100100)
    """
    return quoted_minor + max(10, abs(quoted_minor) // 1000)


def sign_quote(signer: Signer, claims: QuoteClaims) -> str:
    """The token of a quote, or of an offer."""
    return signer.sign(_OFFER if claims.is_offer else _QUOTE, msgspec.to_builtins(claims))


def read_quote(signer: Signer, token: str) -> QuoteClaims:
    """The claims of a quote or an offer of ours; `ValidationFailed` on `token` for any other."""
    for purpose in (_QUOTE, _OFFER):
        with contextlib.suppress(InvalidToken, msgspec.ValidationError):
            claims = msgspec.convert(signer.verify(purpose, token), QuoteClaims)
            if claims.is_offer is (purpose == _OFFER):
                return claims
    raise ValidationFailed.of("token", "INVALID_TOKEN", "this is not a quote of this service")


def expiry(now: datetime) -> datetime:
    return to_second(now) + VALID_FOR


def still_says(claims: QuoteClaims, plan: ChangePlan) -> bool:
    """Whether a change, planned anew, has the lines that were quoted; what is offered is had and
    invoiced at once, too, where it was to be."""
    if digest(plan.invoice_lines) != claims.lines_digest:
        return False
    invoiced_minor = plan.invoice_total_minor if plan.invoiced_now else 0
    return not claims.is_offer or (not plan.waits and invoiced_minor == claims.total_minor)


def digest(lines: Sequence[Line]) -> str:
    """What a quote promises of its lines: the engine's kinds, charges, quantities and amounts."""
    said = [
        (x.kind, x.package_id, x.version, x.charge_id, x.quantity, x.amount_minor) for x in lines
    ]
    return hashlib.sha256(msgspec.json.encode(said)).hexdigest()[:32]
