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
from entitlements.subscriptions.holders import Holder
from entitlements.subscriptions.standing import STILL, HeldUp, Policies, calendars_of
from entitlements.subscriptions.state import Item, Subscription

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

    def package(self, item: Item, version: int) -> AnyPackage:
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


class _Ladder:
    """What a package costs on any terms: worked out once for all who hold it alike."""

    def __init__(self, proposed: Proposed, held: Subscription, item: Item) -> None:
        self._proposed, self._held, self._item = proposed, held, item
        self._at_list: dict[int, Fraction] = {}
        self._mrr: dict[Terms, int] = {}
        self._after: dict[tuple[Terms, Destination], Terms] = {}

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
        self._mrr_now: Counter[str] = Counter()
        self._packages: dict[str, tuple[Counter[str], Counter[str]]] = {}
        self._days: dict[date, tuple[datetime, Counter[str]]] = {}
        self._versions: dict[tuple[str, int], _Sums] = {}
        self._affected: set[str] = set()
        self._stays: set[str] = set()
        self._most: list[tuple[int, str, CustomerImpact]] = []

    def add(self, holders: Iterable[Holder]) -> None:
        for holder in holders:
            self._add(holder)

    def _add(self, holder: Holder) -> None:
        held = holder.held
        before_minor, after_minor, first_at, touched = 0, 0, None, False
        for item in held.items:
            terms, ladder = terms_of(item), self._ladder(held, item)
            paid_minor = now_minor = 0 if held.on_trial else ladder.mrr_minor(terms)
            path = list(self._path(held, item, terms, ladder))
            for at, minor in path:
                self._step(at, held.currency, minor - paid_minor)
                paid_minor = minor
            if path:
                first_at = min(first_at or path[0][0], path[0][0])
            sums = self._packages.setdefault(item.package_id, (Counter(), Counter()))
            sums[0][held.currency] += now_minor
            sums[1][held.currency] += paid_minor
            before_minor += now_minor
            after_minor += paid_minor
            touched |= self._touch(holder, item, ladder, now_minor, path)
        self._mrr_now[held.currency] += before_minor
        if touched and after_minor != before_minor:
            found = CustomerImpact(
                customer_id=holder.customer_id,
                currency=held.currency,
                mrr_before_minor=before_minor,
                mrr_after_minor=after_minor,
                moves_at=first_at,
            )
            heapq.heappush(self._most, (abs(after_minor - before_minor), held.id, found))
            if len(self._most) > MOST_AFFECTED:
                heapq.heappop(self._most)

    def _touch(
        self,
        holder: Holder,
        item: Item,
        ladder: _Ladder,
        now_minor: int,
        path: Sequence[tuple[datetime, int]],
    ) -> bool:
        """Count a holder of what the proposal changes; whether they are one."""
        new = self._proposed.new_versions.get(item.package_id)
        if new is None or item.version >= new.version:
            return False
        held = holder.held
        sums = self._versions.setdefault((item.package_id, item.version), _Sums())
        sums.customers += 1
        self._affected.add(holder.customer_id)
        if not path:
            self._stays.add(holder.customer_id)
            return True
        sums.capped[held.currency] += path[0][1] - now_minor
        listed = Terms(version=new.version, entitlements_version=new.version)
        sums.uncapped[held.currency] += ladder.mrr_minor(listed) - now_minor
        return True

    def _step(self, at: datetime, currency: str, delta_minor: int) -> None:
        last, sums = self._days.setdefault(at.date(), (at, Counter()))
        sums[currency] += delta_minor
        self._days[at.date()] = (max(last, at), sums)

    def _path(
        self, held: Subscription, item: Item, terms: Terms, ladder: _Ladder
    ) -> Iterator[tuple[datetime, int]]:
        """When the price of an item moves, and its MRR from then on."""
        known = [
            one
            for one in self._policies.get(item.package_id, ())
            if (one.proposal_id, item.package_id, item.version) not in self._held_up
        ]
        if not _moves(held) or not (known or terms.price_factor < LIST):
            return
        calendars = calendars_of(held)
        at = self._now - _MOMENT  # what is published now moves now
        while (moves_at := _next(terms, known, calendars, at)) is not None:
            at = moves_at
            renews = next(renewals_after(calendars, at - _MOMENT)) == at
            to, _ = destination(terms, known, calendars, at, renewal=renews)
            moved = ladder.arrived(terms, to)
            if moved == terms or at > self._now + HORIZON:
                return
            terms = moved
            yield at, ladder.mrr_minor(terms)

    def _ladder(self, held: Subscription, item: Item) -> _Ladder:
        levels = frozenset(held.quantities.items())
        alike = (item.package_id, item.version, item.quantity, levels, held.interval, held.currency)
        found = self._ladders.get(alike)
        if found is None:
            found = self._ladders[alike] = _Ladder(self._proposed, held, item)
        return found

    def result(self) -> Impact:
        mrr = Counter(self._mrr_now)
        steps = []
        for day in sorted(self._days):
            at, sums = self._days[day]
            mrr.update(sums)
            steps.append(MrrStep(at, dict(mrr)))
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
) -> datetime | None:
    """When the price moves next: by a policy, or nearer to list by a renewal."""
    found = next_move_at(
        terms, known, calendars, at, lambda policy: policy.price, version=terms.version
    )
    if rises(terms):
        rises_at = next(renewals_after(calendars, at))
        found = min(found or rises_at, rises_at)
    return found


def _moves(held: Subscription) -> bool:
    """Whether policies move what is held: it is paid for, and goes on."""
    return held.cancel_at is None and not held.on_trial and held.status not in STILL
