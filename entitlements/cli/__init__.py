"""The operator's commands: `entitlements --help` lists them."""

import typer

from entitlements.cli import (
    audit,
    catalog,
    finance,
    keys,
    portal,
    reconcile,
    running,
    stripe,
    usage,
    webhooks,
)
from entitlements.server.logging import configure_logging

app = typer.Typer(
    help="Pricing, packaging and entitlements: serve the API, operate it, publish catalogs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (running.demo, running.serve, running.worker, running.migrate, running.sandbox):
    app.command()(command)
app.command()(reconcile.reconcile)
app.add_typer(catalog.app, name="catalog")
app.add_typer(keys.app, name="keys")
app.add_typer(portal.app, name="portal")
app.add_typer(usage.app, name="usage")
app.add_typer(audit.app, name="audit")
app.add_typer(finance.app, name="finance")
app.add_typer(webhooks.app, name="webhooks")
app.add_typer(stripe.app, name="stripe")


def main() -> None:
    configure_logging()
    app()
