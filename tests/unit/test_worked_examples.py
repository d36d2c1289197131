"""The worked examples in docstrings hold."""

import doctest
import importlib
import pkgutil

import pytest

import entitlements

MODULES = [
    module.name
    for module in pkgutil.walk_packages(entitlements.__path__, "entitlements.")
    if not module.name.endswith("__main__") and "_migrations" not in module.name
]


@pytest.mark.parametrize("name", MODULES)
def test_worked_examples_hold(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0
