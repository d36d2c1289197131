"""Money: an integer count of minor units and a currency. No float ever touches it.

One rounding function (`round_half_away`) and one way to split an amount (`split`) serve the
whole service, so that two rooms cannot round differently.
"""

from collections.abc import Iterable, Sequence
from decimal import Decimal
from fractions import Fraction
from functools import cache, lru_cache

import msgspec
from babel import Locale, UnknownLocaleError
from babel.numbers import format_currency

# Digits after the point, where they are not two. Minor units are counted as the payment
# provider counts them (https://docs.stripe.com/currencies), which for these equals ISO 4217.
_ZERO_DECIMALS = frozenset("bif clp djf gnf jpy kmf krw mga pyg rwf vnd vuv xaf xof xpf".split())
_THREE_DECIMALS = frozenset("bhd jod kwd omr tnd".split())

RATE_DECIMALS = 12
"""Unit rates carry at most this many decimals."""


def is_currency(code: str) -> bool:
    """Whether `code` is a lower-case ISO 4217 code that is known.

    >>> is_currency("usd"), is_currency("USD"), is_currency("zzz")
    (True, False, False)
    """
    return code in _currencies()


@cache
def _currencies() -> frozenset[str]:
    return frozenset(str(code).lower() for code in Locale("en", "US").currencies)


def decimals_of(currency: str) -> int:
    """Digits after the point of a currency's major unit.

    >>> decimals_of("usd"), decimals_of("jpy"), decimals_of("kwd")
    (2, 0, 3)
    """
    return 0 if currency in _ZERO_DECIMALS else 3 if currency in _THREE_DECIMALS else 2


def round_half_away(value: Fraction | Decimal | int) -> int:
    """The nearest integer; a tie goes away from zero.

    >>> [round_half_away(Fraction(n, 2)) for n in (1, 3, -1, -3)], round_half_away(Fraction(7, 3))
    ([1, 2, -1, -2], 2)
    """
    exact = Fraction(value)
    doubled = 2 * abs(exact.numerator) + exact.denominator
    rounded = doubled // (2 * exact.denominator)
    return rounded if exact >= 0 else -rounded


def round_rate(value: Fraction) -> Decimal:
    """A rate cut to 12 decimals, a tie going away from zero.

    >>> round_rate(Fraction(2, 3))
    Decimal('0.666666666667')
    """
    scaled = round_half_away(value * 10**RATE_DECIMALS)
    digits = tuple(int(d) for d in str(abs(scaled)))
    exact = Decimal((0 if scaled >= 0 else 1, digits, -RATE_DECIMALS))
    return plain(exact)


def plain(value: Decimal) -> Decimal:
    """The same number without trailing zeros or an exponent, whatever its length.

    >>> plain(Decimal("12.500")), plain(Decimal("1E+3")), plain(Decimal("0.00"))
    (Decimal('12.5'), Decimal('1000'), Decimal('0'))
    """
    text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return Decimal("0") if text in ("-0", "") else Decimal(text)


def minor_from_major(amount: Decimal | Fraction, currency: str) -> Fraction:
    """The exact count of minor units, not yet rounded.

    >>> minor_from_major(Decimal("12.345"), "usd")
    Fraction(2469, 2)
    """
    return Fraction(amount) * Fraction(10 ** decimals_of(currency))


def split(total_minor: int, weights: Sequence[Fraction | int]) -> list[int]:
    """Split a whole over parts by weight so that the parts sum to it: largest remainders.

    Ties go to the earlier part. Weights are not negative; if all are zero the split is even.

    >>> split(100, [1, 1, 1]), split(-100, [1, 1, 1]), split(5, [0, 0])
    ([34, 33, 33], [-34, -33, -33], [3, 2])
    """
    if not weights:
        raise ValueError("nothing to split over")
    if total_minor < 0:
        return [-part for part in split(-total_minor, weights)]
    exact = [Fraction(w) for w in weights]
    if any(w < 0 for w in exact):
        raise ValueError("weights must not be negative")
    whole = sum(exact, Fraction(0))
    if whole == 0:
        exact, whole = [Fraction(1)] * len(exact), Fraction(len(exact))
    shares = [total_minor * w / whole for w in exact]
    parts = [share.numerator // share.denominator for share in shares]
    left = total_minor - sum(parts)
    by_remainder = sorted(range(len(parts)), key=lambda i: (parts[i] - shares[i], i))
    for i in by_remainder[:left]:
        parts[i] += 1
    return parts


class Money(msgspec.Struct, frozen=True, gc=False):
    """An amount of one currency.

    `amount_minor` counts minor units (1250 is 12.50 USD, 1250 JPY, 1.250 KWD); `currency` is a
    lower-case ISO 4217 code. Adding two currencies raises `ValueError`.
    """

    amount_minor: int
    currency: str

    def __add__(self, other: "Money") -> "Money":
        return Money(self.amount_minor + self._same(other).amount_minor, self.currency)

    def __sub__(self, other: "Money") -> "Money":
        return Money(self.amount_minor - self._same(other).amount_minor, self.currency)

    def __neg__(self) -> "Money":
        return Money(-self.amount_minor, self.currency)

    def _same(self, other: "Money") -> "Money":
        if other.currency != self.currency:
            raise ValueError(f"{self.currency} and {other.currency} cannot be added")
        return other

    @classmethod
    def total(cls, amounts: Iterable["Money"], currency: str) -> "Money":
        """The sum of amounts of one currency, zero of it where there are none."""
        return sum(amounts, cls(0, currency))

    @property
    def major(self) -> Decimal:
        """The amount in major units, exact.

        >>> Money(1250, "usd").major
        Decimal('12.50')
        """
        digits = tuple(int(d) for d in str(abs(self.amount_minor)))
        return Decimal((int(self.amount_minor < 0), digits, -decimals_of(self.currency)))

    def formatted(self, locale: str = "en_US") -> str:
        """The amount for people, by a locale such as `de_DE` (`ValueError` where it is unknown).

        >>> Money(-125000, "usd").formatted(), Money(1250, "jpy").formatted()
        ('-$1,250.00', '¥1,250')
        """
        return format_currency(
            self.major,
            self.currency.upper(),
            locale=locale.replace("-", "_"),
            currency_digits=False,
            decimal_quantization=False,
            format=_pattern(locale.replace("-", "_"), decimals_of(self.currency)),
        )


@lru_cache(maxsize=1024)  # callers name the locale, and may add any variant to one
def _pattern(locale: str, decimals: int) -> str:
    """The locale's own currency pattern with the currency's own number of digits."""
    try:
        pattern = str(Locale.parse(locale).currency_formats["standard"].pattern)
    except UnknownLocaleError as error:
        raise ValueError(str(error)) from error
    return pattern.replace("0.00", "0" if decimals == 0 else "0." + "0" * decimals)


# The least that a card can be charged (https://docs.stripe.com/currencies, minimum amounts).
_SMALLEST_CHARGES = {
    "usd": 50, "aed": 200, "aud": 50, "bgn": 100, "brl": 50, "cad": 50, "chf": 50, "czk": 1500,
    "dkk": 250, "eur": 50, "gbp": 30, "hkd": 400, "huf": 17500, "inr": 50, "jpy": 50, "mxn": 1000,
    "myr": 200, "nok": 300, "nzd": 50, "pln": 200, "ron": 200, "sek": 300, "sgd": 50, "thb": 1000,
}  # fmt: skip


def smallest_charge_minor(currency: str) -> int:
    """The least that can be charged at once; what is less is carried over. 0 where none is known.

    >>> smallest_charge_minor("usd"), smallest_charge_minor("kwd")
    (50, 0)
    """
    return _SMALLEST_CHARGES.get(currency, 0)
