"""Customer tokens: short-lived, bound to one customer, with scopes. Front ends carry them.

A token names the generation of its customer: revoking raises that, and all older ones are dead.
It expires by wall time, whatever a sandbox's clock says.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from entitlements.kernel.clock import wall_now
from entitlements.kernel.errors import ValidationFailed
from entitlements.kernel.period import to_second
from entitlements.kernel.signing import InvalidToken, Signer

TTL_SECONDS_AT_MOST = 24 * 3600
_PURPOSE = "customer-token"


class TokenClaims(msgspec.Struct, frozen=True, kw_only=True):
    """`subject` is the person at the customer, for the ledger; `generation` the customer's."""

    customer_id: str
    generation: int
    scopes: tuple[str, ...]
    expires_at: int
    subject: str | None = None


class IssuedToken(msgspec.Struct, frozen=True):
    token: str
    expires_at: datetime


def issue(
    signer: Signer,
    customer_id: str,
    generation: int,
    *,
    scopes: Sequence[str],
    ttl_seconds: int,
    subject: str | None,
) -> IssuedToken:
    """A new token. Raises `ValidationFailed` for a time outside 1 second to 24 hours."""
    if not 1 <= ttl_seconds <= TTL_SECONDS_AT_MOST:
        raise ValidationFailed.of(
            "ttlSeconds", "OUT_OF_RANGE", f"from 1 to {TTL_SECONDS_AT_MOST} seconds"
        )
    if subject is not None and not 1 <= len(subject) <= 200:
        raise ValidationFailed.of("subject", "LENGTH", "a subject has 1 to 200 characters")
    if not scopes:
        raise ValidationFailed.of("scopes", "REQUIRED", "a token needs at least one scope")
    expires_at = to_second(wall_now()) + timedelta(seconds=ttl_seconds)
    claims = TokenClaims(
        customer_id=customer_id,
        generation=generation,
        scopes=tuple(sorted(set(scopes))),
        expires_at=int(expires_at.timestamp()),
        subject=subject,
    )
    return IssuedToken(signer.sign(_PURPOSE, msgspec.to_builtins(claims)), expires_at)


def read(signer: Signer, token: str) -> TokenClaims | None:
    """The claims of a token of ours that has not expired; its generation is the caller's to ask."""
    try:
        claims = msgspec.convert(signer.verify(_PURPOSE, token), TokenClaims)
    except (InvalidToken, msgspec.ValidationError):
        return None
    return claims if wall_now() < datetime.fromtimestamp(claims.expires_at, UTC) else None
