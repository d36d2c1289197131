"""A bounded memory: what was used longest ago goes first."""

from collections.abc import Iterator
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Lru(Generic[K, V]):
    """At most so many entries, for one event loop.

    >>> two = Lru[str, int](2)
    >>> two["a"], two["b"] = 1, 2
    >>> two.get("a")
    1
    >>> two["c"] = 3
    >>> list(two)
    ['a', 'c']
    """

    def __init__(self, at_most: int) -> None:
        self._at_most = at_most
        self._entries: dict[K, V] = {}  # the one used last stands last

    def get(self, key: K) -> V | None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._entries[key] = entry
        return entry

    def peek(self, key: K) -> V | None:
        """The entry, without counting as a use of it."""
        return self._entries.get(key)

    def __setitem__(self, key: K, value: V) -> None:
        self._entries.pop(key, None)
        self._entries[key] = value
        if len(self._entries) > self._at_most:
            del self._entries[next(iter(self._entries))]

    def pop(self, key: K) -> V | None:
        return self._entries.pop(key, None)

    def clear(self) -> None:
        self._entries.clear()

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[K]:
        return iter(self._entries)
