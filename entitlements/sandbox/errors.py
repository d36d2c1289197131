"""What the sandbox answers when it refuses: Stripe's body `{"error": {type, code, param, …}}`.

StripeError                 any refusal; the request's transaction is rolled back
└── CardError               402; what the attempt changed may stay (`keeps_effects`)
"""

from typing import Any

Json = dict[str, Any]

DOC_URL = "https://docs.stripe.com/error-codes/"


class StripeError(Exception):
    """A refusal in Stripe's shape. `status` is the HTTP status, `keeps_effects` whether the
    transaction is committed all the same (a failed payment is a fact, not a rolled-back wish)."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        keeps_effects: bool = False,
        **details: Any,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.keeps_effects = keeps_effects
        body: Json = {"message": message, "type": type}
        if code:
            body |= {"code": code, "doc_url": DOC_URL + code.replace("_", "-")}
        if param:
            body["param"] = param
        self.body = body | {k: v for k, v in details.items() if v is not None}


class CardError(StripeError):
    """A payment or a card that its bank refused."""

    def __init__(
        self, message: str, *, code: str, decline_code: str | None = None, **details: Any
    ) -> None:
        super().__init__(
            402, message, type="card_error", code=code, decline_code=decline_code, **details
        )


def invalid(message: str, param: str | None = None, code: str | None = None) -> StripeError:
    return StripeError(400, message, param=param, code=code)


def missing(kind: str, id: str, param: str = "id") -> StripeError:
    """No such object. Stripe answers 404 where the URL names it, 400 where a parameter does."""
    return StripeError(
        404 if param == "id" else 400,
        f"No such {kind}: '{id}'",
        code="resource_missing",
        param=param,
    )


def not_covered(what: str, param: str | None = None) -> StripeError:
    """Stripe knows it and this sandbox doesn't: said aloud, never ignored."""
    return StripeError(
        400, f"This sandbox does not cover {what}.", code="sandbox_not_covered", param=param
    )
