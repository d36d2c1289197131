"""The worked examples in the docstrings of what decides money and access are true."""

import doctest
import importlib

import pytest

MODULES = [
    "entitlements.catalog.values",
    "entitlements.pricing.charges",
    "entitlements.pricing.discounts",
    "entitlements.pricing.mrr",
    "entitlements.pricing.proration",
    "entitlements.pricing.quantities",
    "entitlements.pricing.selection",
    "entitlements.grants.decide",
    "entitlements.grants.merge",
    "entitlements.grants.overrides",
]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_are_true(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0
