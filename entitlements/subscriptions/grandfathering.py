"""Grandfathering: when somebody who holds an older version moves to a newer one, and to what price.

A published policy speaks to all who hold a lower version of its package, of the price and of the
entitlements apart. Nothing here reads a clock or a database: what is due follows from the policies,
the terms held and the billing calendar.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import count, islice, takewhile
from typing import Protocol

import msgspec

from entitlements.catalog.proposals import GrandfatherPolicy, Policy
from entitlements.catalog.proposals import PublishedPolicy as PublishedPolicy
from entitlements.kernel.money import round_rate
from entitlements.kernel.period import Interval, add_months

LIST = Decimal(1)


class Calendar(msgspec.Struct, frozen=True, gc=False):
    """How a subscription is billed from `anchor` on, until it began another calendar."""

    anchor: datetime
    interval: Interval
    until: datetime | None = None


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What an item is on. Every amount of `version` counts times `price_factor`, 1 being list;
    while it is below, each renewal raises it by at most `cap_percent`."""

    version: int
    entitlements_version: int
    price_factor: Decimal = LIST
    cap_percent: Decimal | None = None


class OnTerms(Protocol):
    """What says on which terms a package is held, or is to be."""

    @property
    def version(self) -> int: ...
    @property
    def entitlements_version(self) -> int: ...
    @property
    def price_factor(self) -> Decimal: ...
    @property
    def cap_percent(self) -> Decimal | None: ...


def terms_of(item: OnTerms) -> Terms:
    return Terms(
        version=item.version,
        entitlements_version=item.entitlements_version,
        price_factor=item.price_factor,
        cap_percent=item.cap_percent,
    )


ListRecurring = Callable[[int], Fraction]
"""What a version costs per interval at list, at the quantity held; in minor units, exact."""


def renewals_after(calendars: Iterable[Calendar], at: datetime) -> Iterator[datetime]:
    """The renewals later than an instant, in order. A period that a change begins is none.

    >>> from datetime import UTC
    >>> monthly = Calendar(datetime(2026, 1, 31, tzinfo=UTC), Interval.MONTH)
    >>> [r.day for r in islice(renewals_after([monthly], monthly.anchor), 3)]
    [28, 31, 30]
    """
    for calendar in calendars:
        months = calendar.interval.months
        elapsed = (at.year - calendar.anchor.year) * 12 + at.month - calendar.anchor.month
        for k in count(max(1, elapsed // months)):  # in the month of `at`, or before
            renewal = add_months(calendar.anchor, k * months)
            if calendar.until is not None and renewal >= calendar.until:
                break
            if renewal > at:
                yield renewal


def due_at(
    kind: GrandfatherPolicy, published: PublishedPolicy, calendars: Sequence[Calendar]
) -> datetime | None:
    """When a policy moves a holder; None: never.

    AT_RENEWAL 2 with 45 days of notice, published on January 15 and billed on the 1st, would move
    on March 1, and may, since March 1 is 45 days later:

    >>> from datetime import UTC
    >>> policy = Policy(package_id="pro", price=GrandfatherPolicy.AT_RENEWAL, renewals=2,
    ...     notice_days=45)
    >>> said = PublishedPolicy(
    ...     version=2, published_at=datetime(2026, 1, 15, tzinfo=UTC), policy=policy)
    >>> first = [Calendar(datetime(2025, 6, 1, tzinfo=UTC), Interval.MONTH)]
    >>> due_at(policy.price, said, first).isoformat()
    '2026-03-01T00:00:00+00:00'
    """
    policy, published_at = published.policy, published.published_at
    noticed_at = published_at + timedelta(days=policy.notice_days or 0)
    match kind:
        case GrandfatherPolicy.KEEP:
            return None
        case GrandfatherPolicy.NOW if calendars[0].anchor <= published_at == noticed_at:
            return published_at  # who began to pay later is at the end of the first period
        case GrandfatherPolicy.AT_RENEWAL:
            nth = islice(renewals_after(calendars, published_at), (policy.renewals or 1) - 1, None)
            return next(renewal for renewal in nth if renewal >= noticed_at)
        case GrandfatherPolicy.KEEP_UNTIL:
            assert policy.until is not None
            noticed_at = max(noticed_at, policy.until)
    renewals = renewals_after(calendars, published_at)
    return next(renewal for renewal in renewals if renewal >= noticed_at)


def terms_at(
    terms: Terms,
    policies: Sequence[PublishedPolicy],
    calendars: Sequence[Calendar],
    at: datetime,
    list_recurring: ListRecurring,
    *,
    renewal: bool,
) -> Terms:
    """What an item is on once everything that is due by `at` has moved, the highest version last.

    `renewal` says that a period begins then: what is below list rises by its cap.

    From $100 to $150 at no more than 20 % a renewal takes three: $120, $144, $150.

    >>> from datetime import UTC
    >>> from entitlements.kernel.money import round_half_away
    >>> policy = Policy(package_id="pro", price=GrandfatherPolicy.AT_RENEWAL, renewals=1,
    ...     max_increase_percent=Decimal(20))
    >>> said = [PublishedPolicy(
    ...     version=2, published_at=datetime(2026, 1, 15, tzinfo=UTC), policy=policy)]
    >>> first = [Calendar(datetime(2025, 6, 1, tzinfo=UTC), Interval.MONTH)]
    >>> held, paid = Terms(version=1, entitlements_version=1), []
    >>> price = {1: Fraction(10000), 2: Fraction(15000)}
    >>> for renewal in islice(renewals_after(first, said[0].published_at), 4):
    ...     held = terms_at(held, said, first, renewal, price.__getitem__, renewal=True)
    ...     paid.append(round_half_away(price[held.version] * Fraction(held.price_factor)))
    >>> paid
    [12000, 14400, 15000, 15000]
    """
    to, _ = destination(terms, policies, calendars, at, renewal=renewal)
    return arrived(terms, to, list_recurring)


class Destination(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where terms go: to another version under a cap or, where `rises`, nearer to the list price of
    the one held; the entitlements with the price or apart. `price_factor` says exactly where, once
    a migration is rolled back."""

    version: int
    entitlements_version: int
    cap_percent: Decimal | None = None
    rises: bool = False
    price_factor: Decimal | None = None


class Move(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A package that goes from the terms it is on to others, as far as it still is on those.

    `migration_id` is the migration that moves it; `migration_before` the one that did before.
    """

    package_id: str
    before: Terms
    to: Destination
    migration_id: str | None = None
    migration_before: str | None = None


def destination(
    terms: Terms,
    policies: Sequence[PublishedPolicy],
    calendars: Sequence[Calendar],
    at: datetime,
    *,
    renewal: bool,
) -> tuple[Destination, PublishedPolicy | None]:
    """Where everything that is due by `at` takes an item, the highest version last, and the policy
    that says so: of the price, else of the entitlements.

    `renewal` says that a period begins then: what is below list rises.
    """
    price = _due(terms.version, policies, calendars, at, lambda policy: policy.price)
    features = _due(
        terms.entitlements_version, policies, calendars, at, lambda policy: policy.entitlements
    )
    version = price.version if price else terms.version
    to = Destination(
        version=version,
        entitlements_version=max(
            version, terms.entitlements_version, features.version if features else 0
        ),
        cap_percent=price.policy.max_increase_percent if price else terms.cap_percent,
        rises=renewal and price is None and rises(terms),
    )
    return to, price or features


def at_once(policies: Iterable[PublishedPolicy]) -> list[PublishedPolicy]:
    """Of the policies only what moves somebody within a period: NOW, without notice."""
    now = GrandfatherPolicy.NOW
    return [
        msgspec.structs.replace(
            one,
            policy=msgspec.structs.replace(
                one.policy,
                price=now if one.policy.price is now else GrandfatherPolicy.KEEP,
                entitlements=now if one.policy.entitlements is now else GrandfatherPolicy.KEEP,
            ),
        )
        for one in policies
        if not one.policy.notice_days
    ]


def arrived(terms: Terms, to: Destination, list_recurring: ListRecurring) -> Terms:
    """The terms once they have gone there, at the quantity held.

    >>> held = Terms(version=1, entitlements_version=1)
    >>> to = Destination(version=2, entitlements_version=2, cap_percent=Decimal(20))
    >>> price = {1: Fraction(10000), 2: Fraction(15000)}
    >>> arrived(held, to, price.__getitem__).price_factor
    Decimal('0.8')
    """
    factor, cap = terms.price_factor, to.cap_percent
    if to.price_factor is not None:
        factor = to.price_factor
    elif to.version != terms.version:
        before = list_recurring(terms.version) * Fraction(terms.price_factor)
        factor = _capped(before, list_recurring(to.version), cap)
    elif to.rises and terms.cap_percent is not None:
        factor = _raised(terms.price_factor, terms.cap_percent)
    return Terms(
        version=to.version,
        entitlements_version=to.entitlements_version,
        price_factor=factor,
        cap_percent=None if factor == LIST else cap,
    )


def rises(terms: OnTerms) -> bool:
    """Whether a price is below list and each renewal raises it: not by a cap of 0, nor from 0."""
    if terms.price_factor == LIST or terms.cap_percent is None:
        return False
    return _raised(terms.price_factor, terms.cap_percent) > terms.price_factor


def _raised(factor: Decimal, cap_percent: Decimal) -> Decimal:
    return _factor(Fraction(factor) * _rise(cap_percent))


def next_move_at(
    terms: Terms,
    policies: Sequence[PublishedPolicy],
    calendars: Sequence[Calendar],
    at: datetime,
    kind: Callable[[Policy], GrandfatherPolicy],
    *,
    version: int,
) -> datetime | None:
    """When the price (or, by `kind`, the entitlements) moves next from `version`; None: never.

    What is overdue (its migration was paused) moves at the next renewal; NOW moves now.
    """
    found = next_policy(policies, calendars, at, kind, version=version)
    return found[0] if found else None


def next_policy(
    policies: Sequence[PublishedPolicy],
    calendars: Sequence[Calendar],
    at: datetime,
    kind: Callable[[Policy], GrandfatherPolicy],
    *,
    version: int,
) -> tuple[datetime, PublishedPolicy] | None:
    """The same, with the policy that moves it: of several at one instant the highest version's."""
    waiting = [
        (due, one)
        for one in policies
        if one.version > version and (due := due_at(kind(one.policy), one, calendars)) is not None
    ]
    if not waiting:
        return None

    def moves_at(due: datetime, one: PublishedPolicy) -> datetime:
        if due > at:
            return due
        return at if due == one.published_at else next(renewals_after(calendars, at))

    moves = [(moves_at(due, one), one) for due, one in waiting]
    return min(moves, key=lambda move: (move[0], -move[1].version))


def look_again_at(
    terms: Terms,
    policies: Sequence[PublishedPolicy],
    calendars: Sequence[Calendar],
    at: datetime,
) -> datetime | None:
    """When the period begins at whose end the next move is due; None: nothing ever moves.

    A move at the third renewal is told to the provider once the second is over:

    >>> from datetime import UTC
    >>> policy = Policy(package_id="pro", price=GrandfatherPolicy.AT_RENEWAL, renewals=3)
    >>> said = PublishedPolicy(
    ...     version=2, published_at=datetime(2026, 1, 15, tzinfo=UTC), policy=policy)
    >>> first = [Calendar(datetime(2025, 6, 1, tzinfo=UTC), Interval.MONTH)]
    >>> held = Terms(version=1, entitlements_version=1)
    >>> look_again_at(held, [said], first, said.published_at).isoformat()
    '2026-03-01T00:00:00+00:00'
    """
    kinds: list[tuple[Callable[[Policy], GrandfatherPolicy], int]] = [
        (lambda policy: policy.price, terms.version),
        (lambda policy: policy.entitlements, terms.entitlements_version),
    ]
    instants = [
        found[0]
        for kind, version in kinds
        if (found := next_policy(policies, calendars, at, kind, version=version)) is not None
    ]
    renewals = list(
        takewhile(lambda renewal: renewal < min(instants), renewals_after(calendars, at))
        if instants
        else ()
    )
    if rises(terms):
        return at
    return renewals[-1] if renewals else at if instants else None


def _due(
    version: int,
    policies: Sequence[PublishedPolicy],
    calendars: Sequence[Calendar],
    at: datetime,
    kind: Callable[[Policy], GrandfatherPolicy],
) -> PublishedPolicy | None:
    """The highest version that somebody on `version` is to be on by an instant."""
    due = [
        one
        for one in policies
        if one.version > version
        and (when := due_at(kind(one.policy), one, calendars)) is not None
        and when <= at
    ]
    return max(due, key=lambda one: one.version, default=None)


def _capped(before: Fraction, list_price: Fraction, cap_percent: Decimal | None) -> Decimal:
    """min(1, (1 + cap) × old ÷ new), to 12 decimals (DESIGN 9)."""
    if cap_percent is None or not list_price:
        return LIST
    return _factor(before * _rise(cap_percent) / list_price)


def _rise(cap_percent: Decimal) -> Fraction:
    return 1 + Fraction(cap_percent) / 100


def _factor(exact: Fraction) -> Decimal:
    return min(LIST, round_rate(exact))
