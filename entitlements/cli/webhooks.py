"""`entitlements webhooks`: endpoints that are told what happens, and what they were told."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

import typer
from rich.table import Column, Table

from entitlements.audit.ledger import Actor
from entitlements.cli.terminal import out, with_services
from entitlements.notices.events import EVERY, KINDS
from entitlements.notices.service import Delivery
from entitlements.notices.tables import WebhookEndpointRow

app = typer.Typer(help="Endpoints for notices, and their deliveries.", no_args_is_help=True)

_CLI = Actor("cli")
_EVENTS = "; ".join(f"{event}: {kind.description}" for event, kind in KINDS.items())
EndpointId = Annotated[str, typer.Argument(help="The endpoint's id, `whe_…`.")]


@app.command("create")
def webhooks_create(
    url: Annotated[str, typer.Argument(help="Where notices are posted to, over https.")],
    event: Annotated[
        list[str], typer.Option(help=f"May be repeated; {EVERY} for every one. {_EVENTS}")
    ],
) -> None:
    """Make an endpoint. What it verifies with, its secret, is printed as the last word."""
    row, secret = with_services(lambda services: services.notices.create(_CLI, url, event))
    print(f"{row.id} {row.url} {','.join(row.events)}: {secret}")


@app.command("list")
def webhooks_list(
    deliveries: Annotated[
        bool, typer.Option(help="What they were told, the newest first, instead of them.")
    ] = False,
    failed: Annotated[
        bool, typer.Option(help="Only deliveries that were tried and have not arrived.")
    ] = False,
    first: Annotated[int, typer.Option(min=1, max=200, help="How many deliveries.")] = 50,
) -> None:
    """List the endpoints, or what is on its way to them."""
    if deliveries or failed:
        found = with_services(
            lambda services: services.notices.deliveries(
                None, failed or None, first=first, after=None
            )
        )
        out.print(_deliveries_table(found))
    else:
        out.print(_endpoints_table(with_services(lambda services: services.notices.endpoints())))


@app.command("delete")
def webhooks_delete(id: EndpointId) -> None:
    """Send nothing to an endpoint any more."""
    row = with_services(lambda services: services.notices.delete(_CLI, id))
    out.print(f"{row.id} is deleted.")


@app.command("resend")
def webhooks_resend(
    id: Annotated[str, typer.Argument(help="The delivery's id, `whd_…`.")],
) -> None:
    """Have a delivery tried again at once, by the worker, under the same webhook-id."""
    delivery = with_services(lambda services: services.notices.resend(_CLI, id))
    out.print(f"{delivery.row.id} is due.")


@app.command("secret")
def webhooks_secret(id: EndpointId) -> None:
    """Print the secret by the signing key in use, after the keys were changed. Recorded."""
    print(with_services(lambda services: services.notices.secret(_CLI, id)))


def _endpoints_table(rows: Sequence[WebhookEndpointRow]) -> Table:
    ids, events = [row.id for row in rows], [event for row in rows for event in row.events]
    table = Table(_whole("id", ids), "URL", _whole("events", events), "created", "state")
    for row in rows:
        state = ""
        if row.failing_since is not None:
            state = f"failing since {_minute(row.failing_since)}"
        if row.disabled_at is not None:
            state = f"gone since {_minute(row.disabled_at)}"
        table.add_row(row.id, row.url, "\n".join(row.events), _minute(row.created_at), state)
    return table


def _deliveries_table(found: Sequence[Delivery]) -> Table:
    whole = _whole("id", [delivery.row.id for delivery in found])
    table = Table(whole, "event", "endpoint", "created", "attempts", "last", "delivered", "next")
    for delivery in found:
        row = delivery.row
        table.add_row(
            row.id,
            row.event,
            delivery.endpoint.url,
            _minute(row.created_at),
            str(row.attempts),
            str(row.last_status or row.last_error or ""),
            _minute(row.delivered_at),
            _minute(row.next_attempt_at),
        )
    return table


def _whole(header: str, words: Sequence[str]) -> Column:
    """A column that breaks none of its words, on a narrow terminal either."""
    return Column(header, min_width=max((len(word) for word in words), default=0))


def _minute(at: datetime | None) -> str:
    return "" if at is None else f"{at:%Y-%m-%d %H:%M}"
