"""Connections: newest first, continued after the last row that was seen (keyset), never by offset.

New rows appear before the first page, so that going on neither repeats nor skips any.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Protocol, TypeVar

import strawberry

from entitlements.kernel.errors import ValidationFailed

LARGEST_PAGE = 200
_CURSOR_MAX_LENGTH = 300

Row = TypeVar("Row")
Row_co = TypeVar("Row_co", covariant=True)

First = Annotated[
    int, strawberry.argument(description=f"How many at most, from 1 to {LARGEST_PAGE}.")
]
After = Annotated[
    str | None, strawberry.argument(description="The `endCursor` of the page before this one.")
]


@strawberry.type(description="Whether and where a list goes on.")
class PageInfo:
    has_next_page: bool = strawberry.field(description="Whether there is more after this page.")
    end_cursor: str | None = strawberry.field(
        description="What to give as `after` for the next page; null where this one is empty."
    )


class Load(Protocol[Row_co]):
    """Reads up to `first` rows, newest first, older than the row of the cursor `after`."""

    def __call__(self, *, first: int, after: str | None) -> Awaitable[Sequence[Row_co]]: ...


def check_first(first: int) -> None:
    """Raises `ValidationFailed` for a size that is not from 1 to 200."""
    if not 1 <= first <= LARGEST_PAGE:
        words = f"a page has from 1 to {LARGEST_PAGE}"
        raise ValidationFailed.of("first", "OUT_OF_RANGE", words)


async def page(
    load: Load[Row], first: int, after: str | None, *, cursor: Callable[[Row], str]
) -> tuple[Sequence[Row], PageInfo]:
    """One page of rows, and whether there is another. `cursor` names a row for `after`.

    Raises `ValidationFailed` for a size that is not from 1 to 200, or what is no cursor.
    """
    check_first(first)
    if after is not None and not (after.isprintable() and 1 <= len(after) <= _CURSOR_MAX_LENGTH):
        raise ValidationFailed.of("after", "NO_CURSOR", "give the endCursor of an earlier page")
    rows = await load(first=first + 1, after=after)
    shown = rows[:first]
    end = cursor(shown[-1]) if shown else None
    return shown, PageInfo(has_next_page=len(rows) > first, end_cursor=end)
