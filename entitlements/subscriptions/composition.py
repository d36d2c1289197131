"""Which packages a request comes to: the plan, bundles, and what is held beside them.

An add-on that is named says how many of it are wanted in all, those inside bundles included. Fewer
than the bundles give dissolve a bundle: the rest of it is bought singly. What a bundle newly brings
takes the place of the same thing held singly.
"""

from collections import Counter
from collections.abc import Collection, Iterable
from decimal import Decimal
from functools import partial

import msgspec

from entitlements.catalog.model import AddOn, AnyPackage, Bundle, Catalog, Plan
from entitlements.kernel.errors import Issue, ValidationFailed
from entitlements.pricing.selection import Part, parts_of
from entitlements.subscriptions.grandfathering import LIST, Move, arrived, terms_of
from entitlements.subscriptions.lines import HeldPackage, list_recurring
from entitlements.subscriptions.request import ChangeRequest
from entitlements.subscriptions.state import Item, Subscription, held_package


class TargetItem(msgspec.Struct, frozen=True, kw_only=True):
    """A package as it is to be held; `item_id` names the held item that it continues."""

    package_id: str
    version: int
    entitlements_version: int
    quantity: int
    item_id: str | None = None
    price_factor: Decimal = LIST
    cap_percent: Decimal | None = None
    migration_id: str | None = None


def continued(item: Item, quantity: int | None = None) -> TargetItem:
    """A held item that goes on, on its own terms, as many as are held or wanted."""
    return TargetItem(
        package_id=item.package_id,
        version=item.version,
        entitlements_version=item.entitlements_version,
        quantity=item.quantity if quantity is None else quantity,
        item_id=item.id,
        price_factor=item.price_factor,
        cap_percent=item.cap_percent,
        migration_id=item.migration_id,
    )


def parts_held(catalog: Catalog, items: Iterable[HeldPackage]) -> list[Part]:
    """The plan and the add-ons of everything held, components of bundles included."""
    return [
        part
        for item in items
        for part in parts_of(catalog, catalog.version(item.package_id, item.version), item.quantity)
    ]


def add_ons_held(catalog: Catalog, items: Iterable[HeldPackage]) -> Counter[str]:
    """How many of each add-on are held in all."""
    return _count(parts_held(catalog, items))


def _count(parts: Iterable[Part]) -> Counter[str]:
    counted: Counter[str] = Counter()
    for part in parts:
        if isinstance(part.package, AddOn):
            counted[part.package.id] += part.quantity
    return counted


class Composer:
    """One request against one subscription. `issues` collects what it contradicts itself in."""

    def __init__(self, catalog: Catalog, held: Subscription | None, request: ChangeRequest) -> None:
        self.issues: list[Issue] = []
        self._catalog = catalog
        self._held = held
        self._request = request
        self._plan_item: Item | None = None
        self._bundles: dict[str, Item] = {}
        self._add_ons: dict[str, Item] = {}
        for item in held.items if held else ():
            match held_package(catalog, item):
                case Plan():
                    self._plan_item = item
                case Bundle():
                    self._bundles[item.package_id] = item
                case AddOn():
                    self._add_ons[item.package_id] = item

    def items(self, dropped: Collection[str]) -> list[TargetItem]:
        """What is to be held, without the add-ons `dropped`, wherever they come from."""
        self.issues.clear()
        named = {**self._request.add_ons, **dict.fromkeys(dropped, 0)}
        bundles = self._wanted_bundles()
        dissolved = self._dissolve(bundles, named)
        plan = self._plan(bundles, dissolved)
        return [*plan, *self._singles(bundles, dissolved, named), *bundles.values()]

    def _wanted_bundles(self) -> dict[str, TargetItem]:
        wanted = {bundle_id: item.quantity for bundle_id, item in self._bundles.items()}
        wanted |= self._request.bundles
        return {
            bundle_id: self._held_on(self._bundles.get(bundle_id), bundle_id, quantity)
            for bundle_id, quantity in wanted.items()
            if quantity > 0
        }

    def _dissolve(self, bundles: dict[str, TargetItem], named: dict[str, int]) -> dict[str, Item]:
        """Take out every bundle that gives more of something, or another plan, than is wanted."""
        dissolved: dict[str, Item] = {}
        while (bundle_id := self._at_odds(bundles, named)) is not None:
            del bundles[bundle_id]
            if bundle_id in self._request.bundles:
                words = "it brings what the same request does not want"
                self.issues.append(Issue(("bundles", bundle_id), "CONTRADICTION", words))
            else:
                dissolved[bundle_id] = self._bundles[bundle_id]
        return dissolved

    def _at_odds(self, bundles: dict[str, TargetItem], named: dict[str, int]) -> str | None:
        given = self._given(bundles.values())
        for bundle_id, target in bundles.items():
            for part in parts_held(self._catalog, [target]):
                wanted = named.get(part.package.id)
                if isinstance(part.package, Plan):
                    if self._request.plan_id not in (None, part.package.id):
                        return bundle_id
                elif wanted is not None and wanted < given[part.package.id]:
                    return bundle_id
        return None

    def _plan(
        self, bundles: dict[str, TargetItem], dissolved: dict[str, Item]
    ) -> Iterable[TargetItem]:
        """The plan by itself, unless a bundle brings it."""
        if self._plan_in(bundles.values()) is not None:
            return []
        held = self._plan_item
        wanted = self._request.plan_id or (held.package_id if held else None)
        wanted = wanted or self._plan_in(dissolved.values())
        if wanted is None:
            raise ValidationFailed.of("planId", "PLAN_REQUIRED", "choose a plan first")
        same = held is not None and held.package_id == wanted
        return self._bought(("planId",), held if same else None, wanted, 1)

    def _plan_in(self, bundles: Iterable[HeldPackage]) -> str | None:
        plans = (p.package.id for p in parts_held(self._catalog, bundles) if _is_plan(p.package))
        return next(plans, None)

    def _singles(
        self,
        bundles: dict[str, TargetItem],
        dissolved: dict[str, Item],
        named: dict[str, int],
    ) -> Iterable[TargetItem]:
        kept = [item for bundle_id, item in self._bundles.items() if bundle_id in bundles]
        given = self._given(bundles.values())
        newly_given = given - self._given(kept)
        there = self._given(dissolved.values())
        for add_on_id, item in self._add_ons.items():
            there[add_on_id] += item.quantity
        for add_on_id in dict.fromkeys([*self._add_ons, *there, *named]):
            if add_on_id in named:
                quantity = named[add_on_id] - given[add_on_id]
            else:
                quantity = there[add_on_id] - newly_given[add_on_id]
            if quantity > 0:
                path = ("addOns", add_on_id)
                yield from self._bought(path, self._add_ons.get(add_on_id), add_on_id, quantity)

    def _given(self, bundles: Iterable[HeldPackage]) -> Counter[str]:
        return add_ons_held(self._catalog, bundles)

    def _bought(
        self, path: tuple[str, ...], held: Item | None, package_id: str, quantity: int
    ) -> Iterable[TargetItem]:
        if held is None and self._latest(package_id) is None:
            words = f"{package_id!r} is not sold by itself any more"
            self.issues.append(Issue(path, "UNKNOWN_PACKAGE", words))
            return []
        return [self._held_on(held, package_id, quantity)]

    def _held_on(self, held: Item | None, package_id: str, quantity: int) -> TargetItem:
        """What is held goes on at its version where that is priced, unless the request gives it up
        or a policy moves it."""
        move = self._request.move
        if held is not None and move is not None and move.package_id == package_id:
            return self._moved(held, move)
        latest = self._latest(package_id)
        given_up = self._request.to_latest_versions or not self._is_priced(held)
        if held is None or (given_up and latest is not None):
            assert latest is not None
            return TargetItem(
                package_id=package_id,
                version=latest,
                entitlements_version=latest,
                quantity=quantity,
                item_id=held.id if held else None,
            )
        return continued(held, quantity)

    def _is_priced(self, item: Item | None) -> bool:
        """Whether what is held can go on by the interval that is asked for: an older version may
        have no price in it."""
        interval = self._request.interval
        if item is None or interval is None or self._held is None:
            return True
        currency = self._held.currency
        charges = held_package(self._catalog, item).charges
        licensed = (charge for charge in charges if not charge.metered)
        return all(charge.price(currency, interval) is not None for charge in licensed)

    def _moved(self, item: Item, move: Move) -> TargetItem:
        assert self._held is not None
        at_list = partial(list_recurring, self._catalog, self._held, item)
        terms = arrived(terms_of(item), move.to, at_list)
        returns = move.to.price_factor is not None
        return msgspec.structs.replace(
            continued(item),
            version=terms.version,
            entitlements_version=terms.entitlements_version,
            price_factor=terms.price_factor,
            cap_percent=terms.cap_percent,
            migration_id=move.migration_before if returns else move.migration_id,
        )

    def _latest(self, package_id: str) -> int | None:
        """At which version it is bought now; None if it is not sold any more."""
        current = self._catalog.current.get(package_id)
        return self._request.versions.get(package_id, current.version if current else None)


def _is_plan(package: AnyPackage) -> bool:
    return isinstance(package, Plan)
