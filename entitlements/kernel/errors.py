"""What can go wrong, as types. Each is a `UserError` of the API, or a refusal before it.

ServiceError                      code, message
├── ValidationFailed              every issue with its path
├── NotFound                      also for what belongs to somebody else
├── Conflict                      the state does not allow it now
├── IdempotencyConflict           the key was used for another request
├── QuoteExpired, QuoteStale      carry a fresh quote
├── PaymentDeclined               decline_code
├── PaymentProviderUnavailable    retry_after_seconds
├── TrialNotAvailable
├── Unavailable                   the database cannot be reached now
├── RateLimited                   retry_after_seconds
├── Unauthenticated               no principal
└── Forbidden                     the principal's role may not
"""

import math
from collections.abc import Sequence
from typing import Any

import msgspec


class Issue(msgspec.Struct, frozen=True):
    """One mistake in an input: where (keys and indexes as text), a stable code, and words."""

    path: tuple[str, ...]
    code: str
    message: str


class ServiceError(Exception):
    """Anything that the caller is told about. `code` is stable, `message` is for people."""

    code = "ERROR"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code


class ValidationFailed(ServiceError):
    code = "VALIDATION_FAILED"

    def __init__(self, issues: Sequence[Issue], message: str | None = None) -> None:
        super().__init__(message or "; ".join(i.message for i in issues[:3]))
        self.issues = tuple(issues)

    @classmethod
    def of(cls, path: str | Sequence[str], code: str, message: str) -> "ValidationFailed":
        """A failure with a single issue; `path` may be dotted."""
        keys = path.split(".") if isinstance(path, str) else path
        return cls([Issue(tuple(keys), code, message)])


class NotFound(ServiceError):
    code = "NOT_FOUND"

    def __init__(self, kind: str, id: str) -> None:
        super().__init__(f"there is no {kind} {id!r}")
        self.id = id


class Conflict(ServiceError):
    code = "CONFLICT"


class IdempotencyConflict(ServiceError):
    code = "IDEMPOTENCY_CONFLICT"


class QuoteExpired(ServiceError):
    code = "QUOTE_EXPIRED"

    def __init__(self, message: str, quote: Any = None) -> None:
        super().__init__(message)
        self.quote = quote


class QuoteStale(ServiceError):
    code = "QUOTE_STALE"

    def __init__(self, message: str, quote: Any = None) -> None:
        super().__init__(message)
        self.quote = quote


class PaymentDeclined(ServiceError):
    code = "PAYMENT_DECLINED"

    def __init__(self, message: str, decline_code: str | None = None) -> None:
        super().__init__(message)
        self.decline_code = decline_code


class PaymentProviderUnavailable(ServiceError):
    code = "PAYMENT_PROVIDER_UNAVAILABLE"

    def __init__(self, message: str, retry_after_seconds: int | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class TrialNotAvailable(ServiceError):
    code = "TRIAL_NOT_AVAILABLE"


class Unavailable(ServiceError):
    code = "UNAVAILABLE"


class RateLimited(ServiceError):
    code = "RATE_LIMITED"

    def __init__(self, retry_after_seconds: float) -> None:
        self.retry_after_seconds = max(1, math.ceil(retry_after_seconds))
        super().__init__(f"too many requests: try again in {self.retry_after_seconds} s")


class Unauthenticated(ServiceError):
    code = "UNAUTHENTICATED"


class Forbidden(ServiceError):
    code = "FORBIDDEN"
