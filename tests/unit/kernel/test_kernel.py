"""Money, periods, ids and signatures."""

from datetime import UTC, datetime, timedelta
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entitlements.kernel.ids import new_id
from entitlements.kernel.money import Money, is_currency, round_half_away, split
from entitlements.kernel.period import Interval, Period, add_months
from entitlements.kernel.signing import InvalidToken, Signer

INSTANTS = st.datetimes(
    min_value=datetime(2000, 1, 1),  # noqa: DTZ001
    max_value=datetime(2100, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)


@given(st.integers(-(10**12), 10**12), st.lists(st.integers(0, 10**6), min_size=1, max_size=20))
def test_the_parts_of_a_split_sum_to_the_whole_and_are_within_one_of_their_share(
    total: int, weights: list[int]
) -> None:
    parts = split(total, weights)
    assert sum(parts) == total
    if sum(weights):
        shares = [Fraction(total * weight, sum(weights)) for weight in weights]
        assert all(abs(p - s) < 1 for p, s in zip(parts, shares, strict=True))


@given(st.fractions())
def test_rounding_is_symmetric_and_never_off_by_more_than_a_half(value: Fraction) -> None:
    assert round_half_away(-value) == -round_half_away(value)
    assert abs(round_half_away(value) - value) <= Fraction(1, 2)


@given(INSTANTS, st.sampled_from(Interval), INSTANTS)
def test_every_instant_lies_in_exactly_one_period_of_an_anchor(
    anchor: datetime, interval: Interval, at: datetime
) -> None:
    period = Period.containing(anchor, interval, at)
    assert at in period
    following = Period.containing(anchor, interval, period.end)
    assert following.start == period.end


def test_a_month_from_the_31st_keeps_the_anchor_day() -> None:
    anchor = datetime(2028, 1, 31, 8, tzinfo=UTC)
    days = [add_months(anchor, n).day for n in range(5)]
    assert days == [31, 29, 31, 30, 31]


def test_a_fraction_counts_whole_seconds_and_stays_within_the_period() -> None:
    period = Period(datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC))
    assert period.fraction_left(period.start - timedelta(days=1)) == 1
    assert period.fraction_left(period.end) == 0
    almost = period.end - timedelta(microseconds=1)
    assert period.fraction_left(almost) == Fraction(1, 2_678_400)


def test_money_of_two_currencies_cannot_be_added() -> None:
    with pytest.raises(ValueError, match="cannot be added"):
        Money(1, "usd") + Money(1, "eur")


@pytest.mark.parametrize(
    ("amount", "locale", "text"),
    [
        (Money(125_050, "usd"), "en_US", "$1,250.50"),
        (Money(125_050, "eur"), "de_DE", "1.250,50\N{NO-BREAK SPACE}€"),
        (Money(1250, "jpy"), "en_US", "¥1,250"),
        (Money(1250, "kwd"), "en_US", "KWD1.250"),
    ],
)
def test_money_is_written_the_way_its_reader_expects(amount: Money, locale: str, text: str) -> None:
    assert amount.formatted(locale) == text


def test_only_known_lower_case_codes_are_currencies() -> None:
    assert [c for c in ("usd", "USD", "us", "xyz", "jpy", "ü€a") if is_currency(c)] == [
        "usd",
        "jpy",
    ]


def test_ids_sort_by_their_creation() -> None:
    ids = [new_id("chg") for _ in range(1000)]
    assert ids == sorted(ids)
    assert len(set(ids)) == 1000
    assert all(len(id) == len("chg_") + 26 for id in ids)


def test_a_token_holds_for_its_purpose_only_and_survives_a_rotation_of_secrets() -> None:
    old, new = Signer(["first-secret"]), Signer(["second-secret", "first-secret"])
    token = old.sign("quote", {"a": 1})
    assert new.verify("quote", token) == {"a": 1}
    for signer, purpose in ((old, "customer-token"), (Signer(["second-secret"]), "quote")):
        with pytest.raises(InvalidToken):
            signer.verify(purpose, token)
    head, body, signature = token.split(".")
    for forged in (f"{head}.{body[:-2]}AA.{signature}", f"{head}.{body}.", "", "a.b.c"):
        with pytest.raises(InvalidToken):
            old.verify("quote", forged)
