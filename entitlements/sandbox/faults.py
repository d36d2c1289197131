"""Misbehaviour on request: slow or failing API calls, and webhooks that go astray.

Kept in memory only: a restarted sandbox behaves.
"""

from typing import Literal

import msgspec

from entitlements.kernel.ids import new_id

Kind = Literal[
    "latency",
    "rate_limit",
    "error_before",
    "error_after",
    "kept_error_before",
    "kept_error_after",
    "cut_before",
    "cut_after",
    "webhook_drop",
    "webhook_duplicate",
    "webhook_delay",
    "webhook_reorder",
]


class Fault(msgspec.Struct, forbid_unknown_fields=True):
    """One fault: what goes wrong, for which calls or events, how often.

    `method` and `path` (a prefix) choose API calls, `types` (names, or groups such as
    `invoice.*`) choose events; left out they choose all. `after` calls or events of these pass
    first. `seconds` is for latency and delay.
    `error_before` fails without an effect, `error_after` and `cut_after` once it was stored. The
    `kept_` ones are kept under the idempotency key, too: it is answered so from then on.
    """

    kind: Kind
    times: int = 1
    after: int = 0
    method: str | None = None
    path: str = "/v1/"
    types: list[str] = []
    seconds: float = 1.0
    id: str = msgspec.field(default_factory=lambda: new_id("fault"))

    def chooses_call(self, method: str, path: str) -> bool:
        return self.method in (None, method) and path.startswith(self.path)

    def chooses_event(self, type: str) -> bool:
        return not self.types or any(
            type == t or (t.endswith("*") and type.startswith(t[:-1])) for t in self.types
        )


class Faults:
    def __init__(self) -> None:
        self.active: list[Fault] = []

    def for_call(self, method: str, path: str) -> list[Fault]:
        """The faults that hit this call; each is used up once."""
        hit = [
            f
            for f in self.active
            if not f.kind.startswith("webhook_") and f.chooses_call(method, path)
        ]
        return self._use(hit)

    def for_event(self, type: str) -> list[Fault]:
        hit = [f for f in self.active if f.kind.startswith("webhook_") and f.chooses_event(type)]
        return self._use(hit)

    def _use(self, chosen: list[Fault]) -> list[Fault]:
        hit = [fault for fault in chosen if fault.after <= 0]
        for fault in chosen:
            fault.after -= 1
        for fault in hit:
            fault.times -= 1
        self.active = [f for f in self.active if f.times > 0]
        return hit
