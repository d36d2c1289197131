"""The operator's commands: `entitlements --help` lists them."""

import importlib
from typing import Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

from entitlements.server.logging import configure_logging

COMMANDS: Final = {
    "demo": ("running", "Serve everything on this machine, with a sandbox instead of Stripe."),
    "serve": ("running", "Serve the API. Settings come from ENTITLEMENTS_… variables."),
    "worker": ("running", "Do what is due: webhooks, changes whose process died, notices. "
                          "Any number may run."),
    "migrate": ("running", "Bring the database to the newest shape. "
                           "The first time stamps it sandbox or live."),
    "sandbox": ("running", "Serve a local Stripe. "
                           "Point the SDK at it with ENTITLEMENTS_STRIPE_API_BASE."),
    "reconcile": ("reconcile", "Compare every customer with the payment provider, and show each "
                               "difference."),
    "catalog": ("catalog", "Check, compare and publish catalog files."),
    "keys": ("keys", "Make, list and revoke API keys."),
    "usage": ("usage", "Bring in use that was counted elsewhere."),
    "audit": ("audit", "Prove, seal and export the ledger."),
    "finance": ("finance", "Export what finance needs."),
    "webhooks": ("webhooks", "Endpoints for notices, and their deliveries."),
    "portal": ("portal", "Links to the customer portal."),
    "stripe": ("stripe", "Lay products and prices out at Stripe."),
}  # fmt: skip
"""Each with its module, in which it is a function of its name or a group `app`, and its help."""


class _Commands(TyperGroup):
    """Imports a command when it is run: to import them all takes some seconds of a core."""

    def list_commands(self, _ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, _ctx: Any, name: str) -> Any:
        """As far as `--help` shows it."""
        return TyperCommand(name, help=COMMANDS[name][1]) if name in COMMANDS else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, _, rest = super().resolve_command(ctx, args)
        return name, name and loaded(name), rest


def loaded(name: str) -> Any:
    """A command, ready to run."""
    module = importlib.import_module(f"entitlements.cli.{COMMANDS[name][0]}")
    if hasattr(module, "app"):
        command: Any = typer.main.get_group(module.app)
    else:
        alone = typer.Typer(add_completion=False)
        alone.command(name)(getattr(module, name))
        command = typer.main.get_command(alone)
    command.name = name
    return command


app = typer.Typer(
    cls=_Commands,
    help="Pricing, packaging and entitlements: serve the API, operate it, publish catalogs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def _entitlements() -> None:
    """Pricing, packaging and entitlements: serve the API, operate it, publish catalogs."""


def main() -> None:
    configure_logging()
    app()
