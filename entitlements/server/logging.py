"""Logs: one line an event, for people on a terminal and as JSON elsewhere. No secrets in them.

Whatever begins a process (the command line, each worker of `serve`) configures them first: what
structlog does by itself shows the local variables of a traceback, and so a bearer or a card.
"""

import logging
import sys
from contextvars import ContextVar

import structlog
from structlog.typing import EventDict

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The request that whatever is logged belongs to."""


def _name_request(_logger: object, _method: str, event: EventDict) -> EventDict:
    if (id := request_id.get()) is not None:
        event["request_id"] = id
    return event


def configure_logging(level: str = "INFO") -> None:
    """Send everything to standard error, so that standard output stays for answers."""
    on_terminal = sys.stderr.isatty()
    render = (
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        if on_terminal
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            _name_request,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
