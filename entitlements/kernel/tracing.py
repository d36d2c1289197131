"""Spans: what a piece of work is called, for those who follow it through the house.

Nothing is traced here, and a span costs next to nothing, unless a process has been given something
that traces (`server.tracing`). A name is one of few, written in the code; an attribute says nothing
of what somebody sent.
"""

import functools
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from typing import ParamSpec, Protocol, TypeVar

Given = ParamSpec("Given")
Found = TypeVar("Found")


class Span(Protocol):
    def set_attribute(self, key: str, value: str | int) -> None: ...


class _Unseen:
    def set_attribute(self, key: str, value: str | int) -> None:
        pass


class Tracing(Protocol):
    def span(self, name: str, *, remote: bool) -> AbstractContextManager[Span]: ...


_NOTHING = nullcontext(_Unseen())
_tracing: Tracing | None = None


def trace_with(tracing: Tracing | None) -> None:
    """Have every span of this process go there from now on; None: nowhere."""
    global _tracing
    _tracing = tracing


def span(name: str, *, remote: bool = False) -> AbstractContextManager[Span]:
    """A span for as long as the block runs; `remote`: somebody else is asked to do it."""
    return _NOTHING if _tracing is None else _tracing.span(name, remote=remote)


def traced(
    name: str,
) -> Callable[[Callable[Given, Awaitable[Found]]], Callable[Given, Awaitable[Found]]]:
    """Have an async function run in a span."""

    def decorate(work: Callable[Given, Awaitable[Found]]) -> Callable[Given, Awaitable[Found]]:
        @functools.wraps(work)
        async def run(*args: Given.args, **kwargs: Given.kwargs) -> Found:
            with span(name):
                return await work(*args, **kwargs)

        return run

    return decorate
