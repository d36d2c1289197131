"""The catalog document, from text to the resolved model: all that it says, or all its mistakes.

`read` takes the text apart (`source.py`). `parse` checks its form (`structure.py`, `schema.py`) and
its meaning (`rules.py`, `prices.py`, `relations.py`, `bundles.py`), and resolves it
(`resolution.py`): inherited entitlements, computed prices, what a bundle consists of. `write` is
the way back to text.
"""

import re
from typing import Any, Final

import msgspec
import yaml

from entitlements.catalog.model import AnyPackage, Feature, Product
from entitlements.catalog.report import Report
from entitlements.catalog.resolution import Resolution
from entitlements.catalog.schema import KEY_ORDER
from entitlements.catalog.source import Source, read
from entitlements.catalog.structure import decode

__all__ = ["Draft", "Source", "parse", "read", "write"]


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


_dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_WHOLE: Final = re.compile(r"0|[1-9][0-9]{0,18}")
_PLACES: Final = {key: place for place, key in enumerate(KEY_ORDER)}


class _Dumper(_dumper):  # type: ignore[misc]
    pass


def _text(dumper: Any, value: str) -> Any:
    """Whole numbers stand without quotes: as `read` takes them, they are the same text."""
    tag = "int" if _WHOLE.fullmatch(value) else "str"
    return dumper.represent_scalar(f"tag:yaml.org,2002:{tag}", value)


_Dumper.add_representer(str, _text)


def write(document: Any) -> str:
    """A document as YAML, its keys in the order of the format; `read` gives the same data.

    >>> print(write({"name": "Pro", "trial": {"days": "14"}, "id": "pro"}), end="")
    id: pro
    name: Pro
    trial: {days: 14}
    """
    return str(
        yaml.dump(
            _in_order(document),
            Dumper=_Dumper,
            sort_keys=False,
            allow_unicode=True,
            default_flow_style=None,
            width=110,
        )
    )


def _in_order(node: Any) -> Any:
    if isinstance(node, list):
        return [_in_order(item) for item in node]
    if not isinstance(node, dict):
        return node
    keys = sorted(node, key=lambda key: _PLACES.get(key, len(_PLACES)))
    return {key: _in_order(node[key]) for key in keys}
