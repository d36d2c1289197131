"""Whether this process traces: only where the environment says where to, as OpenTelemetry has it.

Whatever begins a process asks (each worker of `serve`, `worker`, `demo`). Where no endpoint is set
nothing of OpenTelemetry is imported.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import structlog
from starlette.types import ASGIApp

if TYPE_CHECKING:
    from entitlements.server.spans import Spans

log = structlog.get_logger()

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


def is_wanted() -> bool:
    said = os.environ
    return (
        any(said.get(name) for name in ENDPOINTS)
        and said.get("OTEL_SDK_DISABLED", "").strip().lower() != "true"
        and said.get("OTEL_TRACES_EXPORTER", "otlp") == "otlp"
    )


def _begun() -> "Spans | None":
    if not is_wanted():
        return None
    try:
        from entitlements.server.spans import Spans, exporting_provider
    except ImportError:
        log.warning("traces_not_installed", install="pip install 'entitlements[otel]'")
        return None
    spans = Spans(exporting_provider())
    spans.listen()
    return spans


def traced_application(app: ASGIApp) -> ASGIApp:
    """The application with a span for each request, where traces are wanted; else as it is."""
    spans = _begun()
    if spans is None:
        return app
    from entitlements.server.spans import TracedApplication

    return TracedApplication(app, spans)


@contextmanager
def tracing() -> Iterator[None]:
    """For as long as the block runs, where traces are wanted."""
    spans = _begun()
    try:
        yield
    finally:
        if spans is not None:
            spans.close()
