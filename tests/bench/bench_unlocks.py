"""What the remedy of a denial costs: 500 packages of which many help, and a customer with ten.

`make bench` prints it, and writes it to the README; it ends with 1 where it takes longer than is
promised. Nothing is read: it is the search alone, as a denial whose `unlocks` are selected pays it.
"""

import statistics
import sys
import time
from collections.abc import Callable
from datetime import timedelta

from rich.console import Console
from rich.table import Table

from entitlements.access.service import Check
from entitlements.access.unlocks import UNLOCKS_AT_MOST, sold_by_feature, unlocks
from entitlements.catalog.model import Catalog
from entitlements.subscriptions.change import Authority, plan_change
from entitlements.subscriptions.request import ChangeRequest
from entitlements.subscriptions.state import CustomerState
from entitlements.subscriptions.violations import Used
from tests.bench.readme import write_table
from tests.unit.pricing.catalogs import AT, add_on, catalog, flat, grants, plan
from tests.unit.subscriptions.test_change import after

PACKAGES = 500
HELPING = (25, 100, 500)
"""How many of the packages add to the limit that is asked about."""
ROUNDS = 20
FOUND_WITHIN_SECONDS = 1.0
"""What is promised, with room for a slow machine."""

NOBODY = CustomerState(id="acme", currency="usd", revision=1)
USED = {"calls": Used(90, None)}


def sold(helping: int, *, equally_dear: bool = False) -> Catalog:
    """Five tiers, and add-ons between $5 and $101, or all at $5: then each is planned."""
    every = PACKAGES // helping
    plans = [plan(f"plan-{n}", flat(str(10 + n)), rank=n, gives=grants(calls=100)) for n in (0, 1)]
    adding, other = grants(calls=("add", 10)), grants(dashboards=True)
    add_ons = [
        add_on(
            f"add-{n}",
            flat("5" if equally_dear else str(5 + n % 97)),
            gives=other if n % every else adding,
        )
        for n in range(PACKAGES - len(plans))
    ]
    return catalog(*plans, *add_ons)


def customer(catalog: Catalog) -> CustomerState:
    request = ChangeRequest(plan_id="plan-0", add_ons={f"add-{n}": 1 for n in range(10)})
    return after(NOBODY, plan_change(catalog, NOBODY, request, AT, authority=Authority.CUSTOMER))


def seconds(work: Callable[[], object]) -> float:
    """The median of some rounds."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measured(first: int, **of: bool) -> list[float]:
    return [_measured(sold(helping, **of), first) for helping in HELPING]


def _measured(catalog: Catalog, first: int) -> float:
    state, index = customer(catalog), sold_by_feature(catalog)
    check, at = Check("calls", 300), AT + timedelta(days=9)

    def search() -> None:
        assert len(unlocks(catalog, state, check, USED, at, first=first, sold=index)) == first

    return seconds(search)


def main() -> int:
    rows = {
        "the three cheapest": measured(3),
        f"the {UNLOCKS_AT_MOST} cheapest": measured(UNLOCKS_AT_MOST),
        "the three cheapest, all at one price": measured(3, equally_dear=True),
    }
    headings = ["milliseconds", *(f"{n} of {PACKAGES} help" for n in HELPING)]
    cells = [[name, *(f"{1000 * s:.1f}" for s in times)] for name, times in rows.items()]
    table = Table(*headings)
    for row in cells:
        table.add_row(*row)
    Console(width=110).print(table)
    write_table("unlocks", headings, cells)
    worst = max(max(times) for times in rows.values())
    kept = worst <= FOUND_WITHIN_SECONDS
    print(f"{'kept' if kept else 'BROKEN'}: within {FOUND_WITHIN_SECONDS} s; it took {worst:.2f} s")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
