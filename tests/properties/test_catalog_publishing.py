"""Publishing: the same terms make no version, whatever the order in which they are written."""

import copy
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from entitlements.catalog.document import parse, read
from entitlements.catalog.model import Catalog
from entitlements.catalog.versions import content, publish

GOLDEN = Path(__file__).parents[1] / "golden" / "catalog_format.yaml"
DOCUMENT = read(GOLDEN.read_text(encoding="utf-8")).document
NOW = datetime(2026, 1, 1, tzinfo=UTC)

# Lists whose order means something: tiers, tiers of plans, warnings, guides, the first currency.
ORDERED = frozenset(["plans", "month", "year", "values", "warn_at_percent", "guide", "currencies"])


def published(document: Any, base: Catalog = Catalog.EMPTY) -> Catalog:
    draft = parse(document)
    revision = base.revision + 1
    return publish(draft, base, revision=revision, effective_at=NOW, published_at=NOW).catalog


@st.composite
def shuffled(draw: st.DrawFn, node: Any = DOCUMENT, key: str = "") -> Any:
    if isinstance(node, dict):
        order = draw(st.permutations(list(node)))
        return {k: draw(shuffled(node[k], k)) for k in order}
    if isinstance(node, list):
        items = [draw(shuffled(item)) for item in node]
        return items if key in ORDERED else draw(st.permutations(items))
    return node


@settings(max_examples=40)
@given(shuffled())
def test_the_order_of_things_makes_no_version(document: Any) -> None:
    first = published(DOCUMENT)
    second = published(document, first)
    assert second.versions.keys() == first.versions.keys()
    assert [p.id for p in second.products["workspace"].plans] == [
        *("starter", "professional", "enterprise")
    ]


prices = st.decimals(min_value=1, max_value=30, places=2)


@settings(max_examples=60)
@given(st.lists(st.tuples(prices, st.booleans()), min_size=1, max_size=6))
def test_versions_count_the_changes_and_never_change_themselves(steps: list[Any]) -> None:
    """Publish a row of prices of one add-on: a version per change, old ones as they were."""
    catalog = published(DOCUMENT)
    seen = dict(catalog.versions)
    history: list[Decimal] = [Decimal("15.00")]
    for amount, twice in steps:
        document = copy.deepcopy(DOCUMENT)
        fee = document["products"][0]["add_ons"][1]["charges"][0]
        fee["prices"]["usd"]["month"] = str(amount)
        for _ in range(1 + twice):
            catalog = published(document, catalog)
        history += [amount] if amount != history[-1] else []
        assert all(content(catalog.versions[id]) == content(old) for id, old in seen.items())
        seen = dict(catalog.versions)
    found = [catalog.version("extra-calls", n + 1).charges[0].prices for n in range(len(history))]
    assert [price[0].flat_amount for price in found] == history
    assert catalog.latest_versions["extra-calls"] == len(history)
    assert catalog.latest_versions["growth-pack"] == len(history)
    assert catalog.latest_versions["starter"] == 1
