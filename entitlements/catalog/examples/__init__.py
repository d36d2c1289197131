"""Example catalogs, shipped with the service: what `entitlements demo` sells."""

from importlib.resources import files

NAMES = ("workspace-2025", "workspace")
"""Oldest first: the second is a later revision of the first."""


def text(name: str) -> str:
    """The document of an example, as YAML. `FileNotFoundError` where there is none."""
    return (files(__name__) / f"{name}.yaml").read_text(encoding="utf-8")
