"""Amounts, periods and billing intervals of the contract."""

from datetime import datetime
from typing import Annotated

import strawberry

from entitlements.kernel import money as kernel
from entitlements.kernel import period as time
from entitlements.kernel.errors import ValidationFailed
from entitlements.kernel.period import Interval as Interval
from graphql_schema.types.enums import describe_enum
from graphql_schema.types.scalars import BigInt

describe_enum(
    Interval,
    "How often a subscription is billed.",
    MONTH="Every month, on the day of the month on which it began, or else the month's last.",
    YEAR="Every twelve months.",
)


@strawberry.type(description="An exact amount of one currency.")
class Money:
    amount_minor: BigInt = strawberry.field(
        description="The amount in the currency's minor units: 1250 is 12.50 USD, and 1250 JPY."
    )
    currency: str = strawberry.field(description="ISO 4217 code, lower case.")

    @strawberry.field(
        description="The amount for people, in the way of a locale. "
        "A locale that is not known is BAD_USER_INPUT."
    )
    def formatted(
        self,
        locale: Annotated[
            str, strawberry.argument(description="Language and region, such as de_DE or de-DE.")
        ] = "en_US",
    ) -> str:
        try:
            return kernel.Money(self.amount_minor, self.currency).formatted(locale)
        except ValueError:
            words = f"{locale[:40]!r} is not a locale that is known, such as en_US"
            raise ValidationFailed.of("locale", "UNKNOWN_LOCALE", words) from None


def money(amount_minor: int, currency: str) -> Money:
    return Money(amount_minor=BigInt(amount_minor), currency=currency)


def money_type(amount: kernel.Money) -> Money:
    return money(amount.amount_minor, amount.currency)


@strawberry.type(description="A span of time: from its start, up to and without its end.")
class Period:
    start: datetime = strawberry.field(description="The first instant within.")
    end: datetime = strawberry.field(description="The first instant after: exclusive.")


def period_type(period: time.Period) -> Period:
    return Period(start=period.start, end=period.end)
