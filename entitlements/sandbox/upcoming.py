"""The invoice of the next renewal, before it is made."""

from entitlements.sandbox import changes, customers, invoice_items, invoices
from entitlements.sandbox.changes import Plan, Wanted
from entitlements.sandbox.errors import Json, invalid
from entitlements.sandbox.store import Transaction


def unchanged(sub: Json) -> Plan:
    """A subscription that goes on as it is, in copies."""
    return Plan(
        items=[dict(item) for item in sub["_items"]],
        prorations=[],
        charges=[],
        anchor=sub["billing_cycle_anchor"],
        trial_start=sub["trial_start"],
        trial_end=sub["trial_end"],
    )


def upcoming(
    tx: Transaction,
    sub: Json,
    plan: Plan | None = None,
    details: Json | None = None,
    *,
    recurring: bool = False,
    wanted: Wanted | None = None,
) -> Json:
    """The next renewal's invoice, after a change: what waits, prorations, usage, next periods."""
    plan = plan or unchanged(sub)
    details = details or {}
    customer = customers.customer_of(tx, sub["customer"])
    items = [dict(item) for item in plan.items]
    at = min(item["current_period_end"] for item in items)
    after = dict(sub) | {"billing_cycle_anchor": plan.anchor, "_items": items}
    left = _enter_phase(tx, after, at)
    items = after["_items"]
    trialing = bool(plan.trial_end and plan.trial_end >= at and sub["status"] == "trialing")
    ends = _ends_by(sub, details, at)
    lines: list[Json] = []
    if not recurring:
        waiting = invoice_items.pending_items(tx, customer["id"], sub["id"])
        lines = [invoice_items.line_of(item) for item in waiting] + plan.prorations
        lines += changes.usage_so_far(tx, after, left, at)
    if ends and not trialing:
        lines += changes.usage_so_far(tx, after, items, at)
    elif not ends:
        lines += changes.renewal_lines(
            tx, after, items, at, bills_usage=not trialing and not recurring
        )
    if not lines:
        raise invalid(
            f"No upcoming invoices for customer: {customer['id']}", code="invoice_upcoming_none"
        )
    return invoices.compose(
        tx,
        customer,
        sub,
        lines,
        "upcoming",
        at,
        preview=True,
        proration_date=wanted.at if wanted and plan.prorations else None,
        next_payment_attempt=at,
    )


def _enter_phase(tx: Transaction, sub: Json, at: int) -> list[Json]:
    """Put a schedule's next phase in place if it begins at the renewal; answers what left."""
    schedule = tx.get(sub["schedule"]) if sub["schedule"] else None
    phase = changes.phase_after(schedule, at) if schedule else None
    if phase is None or any(item["current_period_end"] != at for item in sub["_items"]):
        return []
    if phase["billing_cycle_anchor"] == "phase_start":
        sub["billing_cycle_anchor"] = at
    sub["_items"], left = changes.items_at_boundary(tx, sub["_items"], phase["items"], at)
    return left


def _ends_by(sub: Json, details: Json, at: int) -> bool:
    """Whether the subscription will have ended by an instant, as asked or as it stands."""
    if "cancel_at_period_end" in details:
        return bool(details["cancel_at_period_end"])
    when = details.get("cancel_at", sub["cancel_at"])
    return isinstance(when, int) and when <= at
