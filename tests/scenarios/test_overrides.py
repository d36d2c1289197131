"""What staff grants or takes by hand."""

from typing import Any

import pytest

from entitlements.audit.ledger import Actor
from entitlements.server import keys
from entitlements.services import Services
from tests.api import Api
from tests.conftest import on_sqlite

SET = """mutation ($input: SetOverrideInput!) { setOverride(input: $input) { __typename
  ... on OverridePayload { override { id feature { id } mode reason createdBy createdAt endsAt
      value { enabled limit unlimited number choice } }
    customer { revision overrides { id } entitlements { feature { id } value { enabled limit } } } }
  ... on UserError { code message } ... on ValidationFailed { issues { path code } } } }"""
END = """mutation ($id: ID!, $reason: String!) { endOverride(id: $id, reason: $reason) { __typename
  ... on OverridePayload { override { endsAt } customer { revision overrides { id } } }
  ... on UserError { code message } ... on ValidationFailed { issues { path code } } } }"""


async def as_role(api: Api, services: Services, role: str) -> Api:
    _, key = await keys.create(services.database, Actor("test"), role=role, name=role)
    return api.bound_to(key)


async def override(api: Api, feature_id: str, mode: str, **more: Any) -> Any:
    given = {"customerId": "acme", "featureId": feature_id, "mode": mode, "reason": "Asked for it"}
    return (await api.ask(SET, input=given | more))["setOverride"]


async def end(api: Api, id: str, reason: str = "Not any more") -> Any:
    return (await api.ask(END, id=id, reason=reason))["endOverride"]


@pytest.fixture
async def acme(api: Api, example: Any) -> None:
    await api.create_customer("acme")
    await api.change("start", customerId="acme", planId="starter")


@pytest.mark.usefixtures("acme")
async def test_support_lends_a_feature_which_goes_by_itself_at_its_end(
    api: Api, services: Services
) -> None:
    support = await as_role(api, services, "support")
    before = await api.access("acme", "dashboards")
    assert (before["allowed"], before["reason"]) == (False, "NOT_ENTITLED")

    lent = await override(
        support, "dashboards", "SET", value={"enabled": True}, endsAt="2026-03-11T12:00:00Z"
    )

    assert lent["override"]["createdBy"] == "key:support"
    assert int(lent["customer"]["revision"]) == int(before["revision"]) + 1
    granted = {e["feature"]["id"] for e in lent["customer"]["entitlements"]}
    assert "dashboards" in granted
    assert [o["id"] for o in lent["customer"]["overrides"]] == [lent["override"]["id"]]
    after = await api.access("acme", "dashboards", minRevision=lent["customer"]["revision"])
    assert after["allowed"]
    assert after["sources"] == [{"kind": "OVERRIDE", "quantity": 1, "package": None}]

    await api.advance("2026-03-11T12:00:00Z")
    gone = await api.access("acme", "dashboards")
    assert (gone["allowed"], gone["reason"]) == (False, "NOT_ENTITLED")
    seen = await api.ask('{ customer(id: "acme") { overrides { id } } }')
    assert seen["customer"]["overrides"] == []
    [entry] = await api.audit(action="override.set")
    assert (entry["stream"], entry["reason"]) == ("customer:acme", "Asked for it")
    assert entry["after"]["value"] == {"enabled": True}


@pytest.mark.usefixtures("acme")
async def test_a_replacement_revokes_until_it_is_ended(api: Api) -> None:
    quote = await api.preview(customerId="acme", planId="professional")
    taken = await override(api, "seats", "REPLACE", value={"limit": 0})
    denied = await api.access("acme", "seats")
    assert (denied["allowed"], denied["reason"]) == (False, "REVOKED")
    # It would not have been allowed without the override either.
    assert (await api.access("acme", "seats", quantity="6"))["reason"] != "REVOKED"
    assert (await api.commit(quote["token"], "upgrade"))["__typename"] == "QuoteStale"

    ended = await end(api, taken["override"]["id"])
    assert ended["customer"]["overrides"] == []
    assert ended["override"]["endsAt"] == "2026-03-01T12:00:00Z"
    assert (await api.access("acme", "seats"))["allowed"]

    again = await end(api, taken["override"]["id"])
    assert again["customer"]["revision"] == ended["customer"]["revision"]
    assert len(await api.audit(action="override.ended")) == 1


@on_sqlite
@pytest.mark.usefixtures("acme")
async def test_what_is_added_by_hand_counts_on_top_of_every_plan(api: Api) -> None:
    await override(api, "api-calls", "ADD", value={"limit": 500})
    assert (await api.access("acme", "api-calls"))["value"]["limit"] == "10500"
    quote = await api.preview(customerId="acme", planId="professional")
    await api.commit(quote["token"], "upgrade")
    assert (await api.access("acme", "api-calls"))["value"]["limit"] == "100500"


MISTAKES = [
    ({"reason": " "}, [["reason"]], ["REASON_REQUIRED"]),
    ({"featureId": "nothing"}, [["featureId"]], ["UNKNOWN_FEATURE"]),
    ({"endsAt": "2026-03-01T12:00:00Z"}, [["endsAt"]], ["IN_THE_PAST"]),
    (
        {"mode": "ADD", "value": {"limit": 5}, "reason": ""},
        [["reason"], ["mode"], ["value", "limit"], ["value", "enabled"]],
        ["REASON_REQUIRED", "ADD_NEEDS_METERED", "NOT_FOR_KIND", "MISSING"],
    ),
    (
        {"featureId": "support-channel", "value": {"choice": "fax"}},
        [["value", "choice"]],
        ["NOT_LISTED"],
    ),
    ({"featureId": "seats", "value": {"limit": -1}}, [["value", "limit"]], ["OUT_OF_RANGE"]),
]


@on_sqlite
@pytest.mark.usefixtures("acme")
async def test_every_mistake_is_named_and_changes_nothing(api: Api) -> None:
    before = await api.customer("acme")
    for given, paths, codes in MISTAKES:
        wanted = {"featureId": "sso", "mode": "SET", "value": {"enabled": True}} | given
        refused = await override(api, wanted.pop("featureId"), wanted.pop("mode"), **wanted)
        assert [i["path"] for i in refused["issues"]] == paths, given
        assert [i["code"] for i in refused["issues"]] == codes, given
    missing = await override(api, "sso", "SET", value={"enabled": True}, customerId="nobody")
    assert (missing["__typename"], missing["code"]) == ("NotFound", "NOT_FOUND")
    assert (await end(api, "ovr_nothing"))["__typename"] == "NotFound"
    assert await api.customer("acme") == before


@on_sqlite
@pytest.mark.usefixtures("acme")
async def test_support_is_bound_to_ninety_days_and_others_may_not_at_all(
    api: Api, services: Services
) -> None:
    support = await as_role(api, services, "support")
    on: Any = {"value": {"enabled": True}}
    for ends_at, code in ((None, "END_REQUIRED"), ("2026-05-30T12:00:01Z", "TOO_LATE")):
        refused = await override(support, "sso", "SET", **on, endsAt=ends_at)
        assert [(i["path"], i["code"]) for i in refused["issues"]] == [(["endsAt"], code)]
    good = await override(support, "sso", "SET", **on, endsAt="2026-05-30T12:00:00Z")
    for_good = await override(api, "sso", "REPLACE", value={"enabled": False})
    refused = await end(support, for_good["override"]["id"])
    assert [i["code"] for i in refused["issues"]] == ["NOT_YOURS_TO_END"]
    assert (await end(support, good["override"]["id"]))["__typename"] == "OverridePayload"

    given = {"customerId": "acme", "featureId": "sso", "mode": "SET", "reason": "x"} | on
    for role in ("service", "finance", "pricing"):
        other = await as_role(api, services, role)
        assert await other.refused(SET, input=given) == "FORBIDDEN"
        assert await other.refused(END, id=for_good["override"]["id"], reason="x") == "FORBIDDEN"
    seen = '{ customer(id: "acme") { overrides { reason } } }'
    finance = await as_role(api, services, "finance")
    assert (await finance.ask(seen))["customer"]["overrides"] == [{"reason": "Asked for it"}]
    own = await api.token("acme")
    assert (await own.ask(seen))["customer"]["overrides"] == []


@on_sqlite
@pytest.mark.usefixtures("acme")
async def test_a_customer_has_so_many_in_force_and_those_that_are_over_are_swept(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("entitlements.access.overrides.OVERRIDES_AT_MOST", 2)
    add: Any = {"value": {"limit": 1}}
    first = await override(api, "seats", "ADD", **add)
    await override(api, "seats", "ADD", **add)
    refused = await override(api, "seats", "ADD", **add)
    assert [i["code"] for i in refused["issues"]] == ["TOO_MANY_OVERRIDES"]
    await end(api, first["override"]["id"])
    assert (await override(api, "seats", "ADD", **add))["__typename"] == "OverridePayload"
    assert (await api.access("acme", "seats"))["value"]["limit"] == "7"
    assert (await end(api, first["override"]["id"]))["__typename"] == "NotFound"
