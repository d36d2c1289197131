"""`entitlements stripe`: lay the catalog out at the provider."""

import json
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from entitlements.billing.push import Action, Kind, Plan, Refusal
from entitlements.cli.terminal import FOUND_SOMETHING, err, out, with_services
from entitlements.services import Services

app = typer.Typer(help="Lay products and prices out at Stripe.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Makes `push` a command of a group, though it is the only one."""


@app.command()
def push(
    dry_run: Annotated[bool, typer.Option(help="Only show what would be done.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="For programs: catalog_revision, unchanged, actions.")
    ] = False,
) -> None:
    """Make Stripe's products and prices those of the catalog that is sold now.

    It is never needed: what is not there is made at its first purchase. It may be stopped and run
    again at any time. Prices that somebody holds are not archived. Ends with 0 if all is done (or
    there was nothing to do), 1 if something was refused, or with --dry-run if something would be
    done, 2 if it could not run.
    """

    async def run(services: Services) -> tuple[Plan, Sequence[Refusal]]:
        catalog_push = services.payments.catalog_push
        with _progress() as progress:
            looking = progress.add_task("Looking", total=None)
            plan = await catalog_push.plan()
            progress.remove_task(looking)
            if not as_json:
                _print_plan(plan)
            if dry_run:
                return plan, ()
            pushing = progress.add_task("Pushing", total=len(plan.actions))
            return plan, await catalog_push.carry_out(plan, lambda _: progress.advance(pushing))

    plan, refused = with_services(run)
    if as_json:
        _print_json(plan, refused, dry_run=dry_run)
    elif plan.actions and not dry_run:
        done = len(plan.actions) - len(refused)
        out.print(f"Done: {done} of {len(plan.actions)}.", highlight=False)
    for refusal in refused:
        said = f"refused: {refusal.action.words}: {refusal.message}"
        err.print(Text(said, style="red"), soft_wrap=True)
    if refused or (dry_run and plan.actions):
        raise typer.Exit(FOUND_SOMETHING)


def _progress() -> Progress:
    """On a terminal only, and gone afterwards."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(
        *columns, TimeRemainingColumn(), console=err, transient=True, disable=not err.is_terminal
    )


def _print_plan(plan: Plan) -> None:
    if not plan.actions:
        out.print(
            f"Nothing to do: all {plan.unchanged} products and prices are as they should be.",
            highlight=False,
        )
        return
    table = Table("", Column("product or price", overflow="fold"), "from", "to")
    for action in plan.actions:
        words = action.kind.replace("_", " ") + (" (edited there)" if action.drift else "")
        cells = (words, action.name, action.before or "", action.after or "")
        table.add_row(*(Text(cell) for cell in cells))
    out.print(table)
    counts = {kind: sum(a.kind is kind for a in plan.actions) for kind in Kind}
    said = ", ".join(f"{kind.replace('_', ' ')} {n}" for kind, n in counts.items() if n)
    out.print(
        f"Revision {plan.revision}: {said}; unchanged {plan.unchanged}.",
        highlight=False,
        soft_wrap=True,
    )


def _print_json(plan: Plan, refused: Sequence[Refusal], *, dry_run: bool) -> None:
    errors = {refusal.action: refusal.message for refusal in refused}

    def shown(action: Action) -> dict[str, object]:
        status = "planned" if dry_run else "refused" if action in errors else "done"
        return {
            "kind": action.kind,
            "name": action.name,
            "provider_id": action.provider_id,
            "before": action.before,
            "after": action.after,
            "drift": action.drift,
            "status": status,
            "error": errors.get(action),
        }

    actions = [shown(action) for action in plan.actions]
    found = {
        "catalog_revision": plan.revision,
        "unchanged": plan.unchanged,
        "actions": actions,
    }
    print(json.dumps(found, indent=2, ensure_ascii=False))
