"""The contract's failures, each a type, and how the service's exceptions become them."""

from typing import Any

import strawberry
from strawberry.types.field import StrawberryField

from entitlements.kernel import errors


@strawberry.interface(description="Why a mutation did nothing.")
class UserError:
    code: str = strawberry.field(description="Stable, upper case: what programs look at.")
    message: str = strawberry.field(description="One sentence for people.")


@strawberry.type(description="One mistake in the input.")
class Issue:
    path: list[str] = strawberry.field(description="Where in the input: keys and indexes.")
    code: str = strawberry.field(description="Stable, upper case.")
    message: str = strawberry.field(description="One sentence for people.")


@strawberry.type(description="The input is wrong. Every mistake is listed; nothing was changed.")
class ValidationFailed(UserError):
    issues: list[Issue] = strawberry.field(description="Every mistake, with its path.")


@strawberry.type(description="There is no such thing, or it belongs to somebody else.")
class NotFound(UserError):
    id: strawberry.ID = strawberry.field(description="The id that was asked for.")


@strawberry.type(description="The present state does not allow it; `code` says why.")
class Conflict(UserError):
    pass


@strawberry.type(description="The idempotency key was used for another request.")
class IdempotencyConflict(UserError):
    pass


@strawberry.type(description="The card was declined. What is held is as it was.")
class PaymentDeclined(UserError):
    decline_code: str | None = strawberry.field(description="The provider's reason.")


@strawberry.type(description="The payment provider cannot be reached. Try again with the same key.")
class PaymentProviderUnavailable(UserError):
    retry_after_seconds: int | None = strawberry.field(description="How long to wait, in seconds.")


@strawberry.type(description="It cannot be tried, or is not tried any more; `code` says why.")
class TrialNotAvailable(UserError):
    pass


class _Handle:
    """An exception of the kernel becomes the contract's type where the field's union has it."""

    def __init__(self, exception_type: type[errors.ServiceError], error_type: type) -> None:
        self.exception_type = exception_type
        self.error_type = error_type

    def handle(self, exception: Any, *, field: StrawberryField, info: Any) -> Any:
        extra: dict[str, Any] = {}
        if isinstance(exception, errors.ValidationFailed):
            extra["issues"] = [
                Issue(path=list(i.path), code=i.code, message=i.message) for i in exception.issues
            ]
        elif isinstance(exception, errors.NotFound):
            extra["id"] = exception.id
        elif isinstance(exception, errors.PaymentDeclined):
            extra["decline_code"] = exception.decline_code
        elif isinstance(exception, errors.PaymentProviderUnavailable):
            extra["retry_after_seconds"] = exception.retry_after_seconds
        return self.error_type(code=exception.code, message=exception.message, **extra)


HANDLERS = [
    _Handle(errors.ValidationFailed, ValidationFailed),
    _Handle(errors.NotFound, NotFound),
    _Handle(errors.Conflict, Conflict),
    _Handle(errors.IdempotencyConflict, IdempotencyConflict),
    _Handle(errors.PaymentDeclined, PaymentDeclined),
    _Handle(errors.PaymentProviderUnavailable, PaymentProviderUnavailable),
    _Handle(errors.TrialNotAvailable, TrialNotAvailable),
]
