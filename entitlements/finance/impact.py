"""What a proposal is worth: who holds what it changes, and their MRR once its policies have moved
them. PURE.

It goes by what is held and known now: nobody buys, cancels or changes anything until then, but for
those who have cancelled already, who are not moved. Holders come one after the other, so that any
number of them fits.
"""

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from fractions import Fraction
from itertools import count

import msgspec

from entitlements.catalog.model import AnyPackage, Catalog
from entitlements.catalog.proposals import GrandfatherPolicy, Policy
from entitlements.pricing.charges import licensed, sold_in
from entitlements.pricing.mrr import mrr_minor
from entitlements.subscriptions.grandfathering import (
    LIST,
    Calendar,
    Destination,
    PublishedPolicy,
    Terms,
    arrived,
    destination,
    next_move_at,
    renewals_after,
    rises,
    terms_of,
)
from entitlements.subscriptions.holders import HeldItem, Holder
from entitlements.subscriptions.standing import STILL, HeldUp, Policies

MOST_AFFECTED = 20
HORIZON = timedelta(days=5 * 366)
"""How far a prediction looks: what rises by a small cap for longer is told up to there."""

_MOMENT = timedelta(microseconds=1)

Amounts = Mapping[str, int]
"""Minor units by currency."""


class VersionImpact(msgspec.Struct, frozen=True, kw_only=True):
    """Those who hold one version of a package that changes. `mrr_delta` is of their first move,
    under the cap, `uncapped_mrr_delta` as it would be without: nothing where nobody moves."""

    package_id: str
    version: int
    to_version: int
    customers: int
    price: GrandfatherPolicy
    entitlements: GrandfatherPolicy
    mrr_delta: Amounts
    uncapped_mrr_delta: Amounts


class CustomerImpact(msgspec.Struct, frozen=True, kw_only=True):
    """What a customer pays per month now, and once all moves are over."""

    customer_id: str
    currency: str
    mrr_before_minor: int
    mrr_after_minor: int
    moves_at: datetime | None


class MrrStep(msgspec.Struct, frozen=True):
    """The MRR after the last move of a day, in UTC."""

    at: datetime
    mrr: Amounts


class PackageImpact(msgspec.Struct, frozen=True):
    """All that is paid for one package, now and once all moves are over."""

    package_id: str
    mrr_now: Amounts
    mrr_after: Amounts


class Impact(msgspec.Struct, frozen=True, kw_only=True):
    """`customers_affected` hold an older version of what changes; `stays_grandfathered` of these
    keep the price of one, as far as is known. `mrr_now` and the steps are of everything sold."""

    computed_at: datetime
    customers_affected: int = 0
    stays_grandfathered: int = 0
    most_affected: tuple[CustomerImpact, ...] = ()
    versions: tuple[VersionImpact, ...] = ()
    packages: tuple[PackageImpact, ...] = ()
    mrr_now: Amounts = {}
    mrr_steps: tuple[MrrStep, ...] = ()


class Proposed(msgspec.Struct, frozen=True, kw_only=True):
    """A proposal as it would be published: the packages that it gives a new version, and when."""

    catalog: Catalog  # with every version that is held
    new_versions: Mapping[str, AnyPackage]
    policies: Mapping[str, Policy]
    effective_at: datetime

    def policy(self, package_id: str) -> Policy:
        return self.policies.get(package_id, Policy(package_id=package_id))

    def package(self, item: HeldItem, version: int) -> AnyPackage:
        """What an item would be at a version: the proposal's own for those who hold less."""
        new = self.new_versions.get(item.package_id)
        if new is not None and item.version < new.version == version:
            return new
        return self.catalog.version(item.package_id, version)


class _Sums:
    def __init__(self) -> None:
        self.customers = 0
        self.capped: Counter[str] = Counter()
        self.uncapped: Counter[str] = Counter()


class _Day:
    def __init__(self, first: datetime) -> None:
        self.last = first
        self.moved: Counter[str] = Counter()


class _Ladder:
    """What a package costs on any terms: worked out once for all who hold it alike."""

    def __init__(self, proposed: Proposed, held: Holder, item: HeldItem) -> None:
        self._proposed, self._held, self._item = proposed, held, item
        self._at_list: dict[int, Fraction] = {}
        self._mrr: dict[Terms, int] = {}
        self._after: dict[tuple[Terms, Destination], Terms] = {}
        self._risen: dict[Terms, list[tuple[Terms, int]]] = {}

    def at_list(self, version: int) -> Fraction:
        """Per interval on a version, in exact minor units; nothing where it is not sold so."""
        if version not in self._at_list:
            held, item = self._held, self._item
            package = self._proposed.package(item, version)
            charges = (
                licensed(package, item.quantity, held.quantities, held.currency, held.interval)
                if sold_in(package, held.currency, held.interval)
                else []
            )
            self._at_list[version] = sum((charge.exact for charge in charges), Fraction(0))
        return self._at_list[version]

    def mrr_minor(self, terms: Terms) -> int:
        if terms not in self._mrr:
            exact = self.at_list(terms.version) * Fraction(terms.price_factor)
            self._mrr[terms] = mrr_minor(exact, self._held.interval)
        return self._mrr[terms]

    def arrived(self, terms: Terms, to: Destination) -> Terms:
        if (terms, to) not in self._after:
            self._after[terms, to] = arrived(terms, to, self.at_list)
        return self._after[terms, to]

    def rising(self, terms: Terms) -> Iterator[int]:
        """The MRR after each renewal that nothing but the cap decides on, until it is at list."""
        risen = self._risen.setdefault(terms, [])
        for n in count():
            if n == len(risen):
                terms = risen[-1][0] if risen else terms
                if not rises(terms):
                    return
                to = Destination(
                    version=terms.version,
                    entitlements_version=terms.entitlements_version,
                    cap_percent=terms.cap_percent,
                    rises=True,
                )
                then = arrived(terms, to, self.at_list)
                risen.append((then, self.mrr_minor(then)))
            yield risen[n][1]


class Prediction:
    """Adds up holders, each subscription once. Memory goes with versions and days, and with the ids
    of the customers of what changes."""

    def __init__(
        self, proposed: Proposed, published: Policies, now: datetime, *, held_up: HeldUp = ()
    ) -> None:
        """`published` are the policies that are in force or approved already; `held_up` the
        migrations by them that move nobody for now."""
        self._proposed = proposed
        self._now = now
        self._held_up = held_up
        self._policies = {id: list(known) for id, known in published.items()}
        for id, package in proposed.new_versions.items():
            said = PublishedPolicy(
                version=package.version,
                published_at=max(proposed.effective_at, now),
                policy=proposed.policy(id),
            )
            self._policies.setdefault(id, []).append(said)
        self._ladders: dict[object, _Ladder] = {}
        self._known: dict[tuple[str, int], list[PublishedPolicy]] = {}
        self._mrr_now: Counter[str] = Counter()
        self._packages: dict[str, tuple[Counter[str], Counter[str]]] = {}
        self._days: dict[date, _Day] = {}
        self._versions: dict[tuple[str, int], _Sums] = {}
        self._affected: set[str] = set()
        self._stays: set[str] = set()
        self._most: list[tuple[int, str, CustomerImpact]] = []

    def add(self, holders: Iterable[Holder]) -> None:
        for holder in holders:
            self._add(holder)

    def _add(self, holder: Holder) -> None:
        currency, levels = holder.currency, frozenset(holder.quantities.items())
        before_minor, after_minor, first_at, touched = 0, 0, None, False
        for item in holder.items:
            terms, ladder = terms_of(item), self._ladder(holder, item, levels)
            paid_minor = now_minor = 0 if holder.on_trial else ladder.mrr_minor(terms)
            path = list(self._path(holder, item, terms, ladder))
            for at, minor in path:
                self._step(at, currency, minor - paid_minor)
                paid_minor = minor
            if path:
                first_at = min(first_at or path[0][0], path[0][0])
            sums = self._packages.get(item.package_id)
            if sums is None:
                sums = self._packages[item.package_id] = (Counter(), Counter())
            sums[0][currency] += now_minor
            sums[1][currency] += paid_minor
            before_minor += now_minor
            after_minor += paid_minor
            touched |= self._touch(holder, item, ladder, now_minor, path)
        self._mrr_now[currency] += before_minor
        if touched and after_minor != before_minor:
            found = CustomerImpact(
                customer_id=holder.customer_id,
                currency=currency,
                mrr_before_minor=before_minor,
                mrr_after_minor=after_minor,
                moves_at=first_at,
            )
            moved_minor = abs(after_minor - before_minor)
            heapq.heappush(self._most, (moved_minor, holder.subscription_id, found))
            if len(self._most) > MOST_AFFECTED:
                heapq.heappop(self._most)

    def _touch(
        self,
        holder: Holder,
        item: HeldItem,
        ladder: _Ladder,
        now_minor: int,
        path: Sequence[tuple[datetime, int]],
    ) -> bool:
        """Count a holder of what the proposal changes; whether they are one."""
        new = self._proposed.new_versions.get(item.package_id)
        if new is None or item.version >= new.version:
            return False
        sums = self._versions.get((item.package_id, item.version))
        if sums is None:
            sums = self._versions[item.package_id, item.version] = _Sums()
        sums.customers += 1
        self._affected.add(holder.customer_id)
        if not path:
            self._stays.add(holder.customer_id)
            return True
        sums.capped[holder.currency] += path[0][1] - now_minor
        listed = Terms(version=new.version, entitlements_version=new.version)
        sums.uncapped[holder.currency] += ladder.mrr_minor(listed) - now_minor
        return True

    def _step(self, at: datetime, currency: str, delta_minor: int) -> None:
        on = at.date()
        day = self._days.get(on)
        if day is None:
            day = self._days[on] = _Day(at)
        elif day.last < at:
            day.last = at
        day.moved[currency] += delta_minor

    def _path(
        self, holder: Holder, item: HeldItem, terms: Terms, ladder: _Ladder
    ) -> Iterator[tuple[datetime, int]]:
        """When the price of an item moves, and its MRR from then on."""
        known = self._in_force(item.package_id, item.version)
        if not _moves(holder) or not (known or terms.price_factor < LIST):
            return
        calendars, last = holder.calendars, self._now + HORIZON
        at = self._now - _MOMENT  # what is published now moves now
        while _moves_from(terms.version, known):
            at = _next(terms, known, calendars, at)
            renews = rises(terms) and next(renewals_after(calendars, at - _MOMENT)) == at
            to, _ = destination(terms, known, calendars, at, renewal=renews)
            moved = ladder.arrived(terms, to)
            if moved == terms or at > last:
                return
            terms = moved
            yield at, ladder.mrr_minor(terms)
        renewals = renewals_after(calendars, at)
        for renewal, minor in zip(renewals, ladder.rising(terms), strict=False):
            if renewal > last:
                return
            yield renewal, minor

    def _in_force(self, package_id: str, version: int) -> list[PublishedPolicy]:
        known = self._known.get((package_id, version))
        if known is None:
            known = self._known[package_id, version] = [
                one
                for one in self._policies.get(package_id, ())
                if (one.proposal_id, package_id, version) not in self._held_up
            ]
        return known

    def _ladder(self, held: Holder, item: HeldItem, levels: frozenset[tuple[str, int]]) -> _Ladder:
        alike = (item.package_id, item.version, item.quantity, levels, held.interval, held.currency)
        found = self._ladders.get(alike)
        if found is None:
            found = self._ladders[alike] = _Ladder(self._proposed, held, item)
        return found

    def result(self) -> Impact:
        mrr = Counter(self._mrr_now)
        steps = []
        for day in sorted(self._days):
            mrr.update(self._days[day].moved)
            steps.append(MrrStep(self._days[day].last, dict(mrr)))
        most = sorted(self._most, key=lambda each: (-each[0], each[1]))
        return Impact(
            computed_at=self._now,
            customers_affected=len(self._affected),
            stays_grandfathered=len(self._stays),
            most_affected=tuple(each[2] for each in most),
            versions=tuple(self._version(*name) for name in sorted(self._versions)),
            packages=tuple(
                PackageImpact(id, dict(now), dict(then))
                for id, (now, then) in sorted(self._packages.items())
            ),
            mrr_now=dict(self._mrr_now),
            mrr_steps=tuple(steps),
        )

    def _version(self, package_id: str, version: int) -> VersionImpact:
        sums, policy = self._versions[package_id, version], self._proposed.policy(package_id)
        return VersionImpact(
            package_id=package_id,
            version=version,
            to_version=self._proposed.new_versions[package_id].version,
            customers=sums.customers,
            price=policy.price,
            entitlements=policy.entitlements,
            mrr_delta=dict(sums.capped),
            uncapped_mrr_delta=dict(sums.uncapped),
        )


def _next(
    terms: Terms,
    known: Sequence[PublishedPolicy],
    calendars: Sequence[Calendar],
    at: datetime,
) -> datetime:
    """When the price moves next: by a policy that is there, or nearer to list by a renewal."""
    found = next_move_at(
        terms, known, calendars, at, lambda policy: policy.price, version=terms.version
    )
    assert found is not None
    return min(found, next(renewals_after(calendars, at))) if rises(terms) else found


def _moves_from(version: int, known: Iterable[PublishedPolicy]) -> bool:
    """Whether a policy moves the price of a version at some time."""
    keep = GrandfatherPolicy.KEEP
    return any(one.version > version and one.policy.price is not keep for one in known)


def _moves(holder: Holder) -> bool:
    """Whether policies move what is held: it is paid for, and goes on."""
    return holder.cancel_at is None and not holder.on_trial and holder.status not in STILL
