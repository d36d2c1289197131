"""Where the rules of the catalog leave the mistakes that they find."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from entitlements.catalog.schema import DROPPED
from entitlements.catalog.source import Path
from entitlements.catalog.structure import Structure
from entitlements.kernel.errors import Issue, ValidationFailed

ISSUES_MAX = 1000  # of a document that is wrong from end to end, the first thousand will do

T = TypeVar("T")


class Report:
    """Every mistake of one document, each said once.

    A mistake of meaning is kept quiet where the part at its path, or one inside or around it, is
    not even well formed: that has been said, and what follows from it helps nobody.
    """

    def __init__(self, structure: Structure) -> None:
        self._issues = dict.fromkeys(structure.issues)
        self._lost = structure.lost
        self._around_lost = {path[:n] for path in structure.lost for n in range(len(path))}
        self._dirty = set(structure.lost)
        for path in structure.lost:
            self._mark(path)

    def failure(self) -> ValidationFailed | None:
        """All mistakes, in the order of the paths; None where there is none."""
        if not self._issues:
            return None
        count, first = len(self._issues), self._sorted()[:ISSUES_MAX]
        more = f"{count:,} mistakes, of which the first {ISSUES_MAX:,} are listed"
        return ValidationFailed(first, more if count > ISSUES_MAX else None)

    def _sorted(self) -> list[Issue]:
        return sorted(self._issues, key=lambda issue: [_place(key) for key in issue.path])

    def add(self, path: Path, code: str, message: str) -> None:
        if not self.is_lost(path):
            self._issues[Issue(path, code, message)] = None
        self._mark(path)

    def is_lost(self, path: Path) -> bool:
        """Whether the part at a path, or one inside or around it, was not well formed."""
        inside = any(path[:n] in self._lost for n in range(len(path) + 1))
        return inside or path in self._around_lost

    def is_clean(self, *paths: Path) -> bool:
        """Whether nothing is wrong at or inside these paths."""
        return not any(path in self._dirty for path in paths)

    def unique(self, keyed: Iterable[tuple[Path, str]], what: str) -> None:
        """Report each name that an earlier path has already."""
        first: dict[str, Path] = {}
        for path, name in keyed:
            if name in first:
                where = ".".join(first[name])
                self.add(path, "DUPLICATE", f"the {what} {name!r} is there already: {where}")
            else:
                first[name] = path

    def _mark(self, path: Path) -> None:
        self._dirty.update(path[:n] for n in range(len(path) + 1))


def _place(key: str) -> tuple[int, int, str]:
    return (0, int(key), "") if key.isdecimal() and key.isascii() else (1, 0, key)


def present(items: Iterable[T] | None, path: Path) -> Iterator[tuple[Path, T]]:
    """The well-formed items of a list, each with its own path."""
    for i, item in enumerate(items or ()):
        if item is not DROPPED:
            yield (*path, str(i)), item
