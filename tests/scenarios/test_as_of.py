"""What somebody held and might do at an instant is what was answered then."""

import copy
from typing import Any

from entitlements.services import Services
from tests.api import Api
from tests.conftest import on_sqlite, publish

_VALUE = "{ enabled number choice limit unlimited overage warnAtPercent }"
HELD = f"""
  subscriptions {{ id status interval startedAt trialEndsAt cancelAt graceEndsAt
    currentPeriod {{ start end }} plan {{ versionId name }} recurring {{ amountMinor }}
    mrr {{ amountMinor }} quantities {{ feature {{ id }} quantity }}
    items {{ id quantity startedAt entitlementsVersion package {{ versionId name }} }}
    scheduledChanges {{ id effectiveAt description createdAt }} }}
  entitlements {{ feature {{ id name }} value {_VALUE}
    sources {{ kind quantity mode endsAt package {{ versionId }} value {_VALUE} }} }}"""
NOW = f"query ($id: ID!) {{ customer(id: $id) {{ {HELD} }} }}"
THEN = f"""query ($id: ID!, $at: DateTime!) {{
  customer(id: $id) {{ asOf(at: $at) {{ {HELD} }} }} }}"""
CATALOG = """{ revision effectiveAt products { id plans { versionId name
  charges { id prices { currency interval flatAmount } } } } }"""


class Recorder:
    """Keeps what is answered, and looks at all of it again."""

    def __init__(self, api: Api, services: Services) -> None:
        self.api, self.services = api, services
        self.answers: dict[str, tuple[Any, Any]] = {}

    async def look(self) -> None:
        at = self.services.clock.now().isoformat()
        catalog = await self.api.ask(f"{{ catalog {CATALOG} }}")
        customer = await self.api.ask(NOW, id="acme")
        self.answers[at] = (catalog["catalog"], customer["customer"])

    async def to(self, at: str) -> None:
        """Time passes, and it is looked before and after."""
        await self.look()
        await self.api.advance(at)
        await self.look()

    async def look_back(self) -> None:
        for at, (catalog, customer) in self.answers.items():
            then = f"query ($at: DateTime!) {{ catalog(asOf: $at) {CATALOG} }}"
            assert (await self.api.ask(then, at=at))["catalog"] == catalog
            assert (await self.api.ask(THEN, id="acme", at=at))["customer"]["asOf"] == customer


async def test_every_instant_of_a_life_is_answered_as_it_was_then(
    api: Api, services: Services, example: dict[str, Any]
) -> None:
    recorder = Recorder(api, services)
    await api.create_customer("acme")
    await recorder.look()
    await api.advance("2026-03-02T12:00:00Z")
    await api.change("1", customerId="acme", planId="starter")
    trial = await api.start_trial("try", customerId="acme", packageId="advanced-analytics")
    assert trial["__typename"] == "TrialStarted"
    await recorder.to("2026-03-10T12:00:00Z")

    dearer = copy.deepcopy(example)
    dearer["products"][0]["plans"][0]["name"] = "Beginner"
    dearer["products"][0]["plans"][0]["charges"][0]["prices"]["usd"]["month"] = "39.00"
    await publish(services, dearer)
    override = """mutation { setOverride(input: {customerId: "acme", featureId: "sso", mode: SET,
      value: {enabled: true}, reason: "promised", endsAt: "2026-03-25T00:00:00Z"}) {
      __typename } }"""
    await api.ask(override)
    await recorder.to("2026-03-16T12:00:01Z")  # the trial has become a purchase
    await recorder.to("2026-03-26T00:00:00Z")  # the override is over
    await api.change("2", customerId="acme", planId="professional")
    await recorder.to("2026-03-28T00:00:00Z")
    await api.change("3", customerId="acme", planId="starter")  # at the period's end
    await recorder.to("2026-04-02T12:00:00Z")
    await api.cancel("4", customerId="acme", productId="workspace")
    await recorder.to("2026-05-02T12:00:00Z")
    await recorder.to("2026-06-01T00:00:00Z")
    await recorder.look_back()

    before = await api.ask(THEN, id="acme", at="2026-02-01T00:00:00Z")
    assert before["customer"]["asOf"] == {"subscriptions": [], "entitlements": []}
    used = """query ($id: ID!, $at: DateTime!) { customer(id: $id) {
      asOf(at: $at) { entitlements { used remaining resetsAt } } } }"""
    then = await api.ask(used, id="acme", at="2026-03-10T12:00:00Z")
    assert {tuple(e.values()) for e in then["customer"]["asOf"]["entitlements"]} == {
        (None, None, None)
    }


@on_sqlite
async def test_the_future_and_what_was_not_recorded_are_refused(
    api: Api, services: Services, example: Any
) -> None:
    await api.create_customer("acme")
    assert await api.refused(THEN, id="acme", at="2026-03-02T00:00:00Z") == "BAD_USER_INPUT"
