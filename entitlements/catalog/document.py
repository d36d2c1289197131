"""The catalog document, from text to the resolved model: all that it says, or all its mistakes.

`read` takes the text apart (`source.py`). `parse` checks its form (`structure.py`, `schema.py`) and
its meaning (`rules.py`, `prices.py`, `relations.py`, `bundles.py`), and resolves it
(`resolution.py`): inherited entitlements, computed prices, what a bundle consists of.
"""

from typing import Any

import msgspec

from entitlements.catalog.model import AnyPackage, Feature, Product
from entitlements.catalog.report import Report
from entitlements.catalog.resolution import Resolution
from entitlements.catalog.source import Source, read
from entitlements.catalog.structure import decode

__all__ = ["Draft", "Source", "parse", "read"]


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """A whole catalog as a document says it, resolved; no package has a version yet (0)."""

    currencies: tuple[str, ...]  # the first is the default
    features: dict[str, Feature]
    products: dict[str, Product]

    @property
    def packages(self) -> dict[str, AnyPackage]:
        return {p.id: p for product in self.products.values() for p in product.packages}


def parse(raw: Any) -> Draft:
    """Check and resolve a document: JSON-like data, from `read` or from a JSON decoder.

    Raises `ValidationFailed` with every mistake found, each with its path and a stable code (this
    room's README lists them). A mistake hides another only where a part is not well formed.
    """
    structure = decode(raw)
    report = Report(structure)
    draft = None
    if structure.document is not None:
        resolution = Resolution(structure.document, structure.data, report)
        products = resolution.products()
        draft = Draft(
            currencies=resolution.currencies, features=resolution.features, products=products
        )
    if (failure := report.failure()) is not None:
        raise failure
    assert draft is not None
    return draft
