"""The worked examples in the room's docstrings are right."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize("module", ["bundles", "diff", "prices", "schema", "source"])
def test_the_worked_examples_of_a_module_are_right(module: str) -> None:
    found = doctest.testmod(importlib.import_module(f"entitlements.catalog.{module}"))
    assert found.attempted
    assert not found.failed
