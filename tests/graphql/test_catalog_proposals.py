"""What an approver is told, and what becomes of proposals that were overtaken."""

import asyncio
import copy
from typing import Any

from tests.api import Api

PROPOSE = """mutation ($input: ProposeCatalogInput!) { proposeCatalog(input: $input) { __typename
  ... on CatalogProposal { id baseRevision notes { path code message } diff { path } }
  ... on UserError { code message } } }"""
DECIDED = """__typename ... on CatalogProposal { status publishedRevision }
  ... on UserError { code message }"""
APPROVE = f"mutation ($id: ID!) {{ approveProposal(id: $id) {{ {DECIDED} }} }}"
REJECT = f"""mutation ($id: ID!) {{ rejectProposal(id: $id, note: "No") {{ {DECIDED} }} }}"""


async def propose(api: Api, document: Any, **more: Any) -> Any:
    asked = {"document": document, "reason": "Costs", **more}
    return (await api.ask(PROPOSE, input=asked))["proposeCatalog"]


async def approve(api: Api, proposal: Any) -> Any:
    return (await api.ask(APPROVE, id=proposal["id"]))["approveProposal"]


async def by_status(api: Api, status: str) -> list[str]:
    query = """query ($status: ProposalStatus) { catalogProposals(status: $status) {
      nodes { id status } } }"""
    nodes = (await api.ask(query, status=status))["catalogProposals"]["nodes"]
    assert {node["status"] for node in nodes} <= {status}
    return [node["id"] for node in nodes]


def with_price(document: Any, amount: str) -> Any:
    document = copy.deepcopy(document)
    document["products"][0]["plans"][1]["charges"][0]["prices"]["usd"]["month"] = amount
    return document


async def test_what_is_approved_supersedes_every_other_open_proposal(
    api: Api, other_admin: Api, example: Any
) -> None:
    first, second, third = [
        await propose(api, with_price(example, f"{n}.00")) for n in (110, 120, 130)
    ]
    await other_admin.ask(REJECT, id=third["id"])
    assert (await approve(other_admin, first))["status"] == "PUBLISHED"
    assert await by_status(api, "SUPERSEDED") == [second["id"]]
    assert await by_status(api, "PROPOSED") == []
    assert await by_status(api, "REJECTED") == [third["id"]]
    refused = await approve(other_admin, second)
    assert (refused["__typename"], refused["code"]) == ("Conflict", "STALE_BASE")
    assert "revision 2 has been approved since (1 changed, in professional)" in refused["message"]
    refused = (await other_admin.ask(REJECT, id=second["id"]))["rejectProposal"]
    assert refused["code"] == "STALE_BASE"
    [entry] = await api.audit(stream="catalog", action="proposal.superseded")
    assert entry["objectId"] == second["id"]
    assert entry["after"] == {"status": "superseded", "superseded_by": first["id"]}


async def test_of_those_approved_at_the_same_time_one_is_published(
    api: Api, other_admin: Api, example: Any
) -> None:
    proposals = await asyncio.gather(
        *(propose(api, with_price(example, f"{n}.00")) for n in (110, 120, 130))
    )
    assert {proposal["baseRevision"] for proposal in proposals} == {1}
    answers = await asyncio.gather(*(approve(other_admin, proposal) for proposal in proposals))
    said = sorted(answer.get("code") or answer["status"] for answer in answers)
    assert said == ["PUBLISHED", "STALE_BASE", "STALE_BASE"]
    assert (await api.ask("{ catalog { revision } }"))["catalog"]["revision"] == 2


async def test_a_document_written_on_an_older_revision_undoes_nothing_unseen(
    api: Api, other_admin: Api, example: Any
) -> None:
    await approve(other_admin, await propose(api, with_price(example, "110.00"), baseRevision=1))
    stale = await propose(api, with_price(example, "120.00"), baseRevision=1)
    assert (stale["__typename"], stale["code"]) == ("Conflict", "STALE_BASE")
    assert "1 changed, in professional" in stale["message"]
    again = await propose(api, with_price(example, "120.00"), baseRevision=2)
    assert again["baseRevision"] == 2
    ahead = await propose(api, example, baseRevision=9)
    assert (ahead["code"], ahead["message"]) == ("STALE_BASE", "there is no revision 9 yet")


async def test_the_ledger_says_from_which_revision_to_which_and_what_changed(
    api: Api, other_admin: Api, example: Any
) -> None:
    await approve(other_admin, await propose(api, with_price(example, "110.00")))
    approved, proposed = (await api.audit(stream="catalog"))[:2]
    changes = {
        "added": 0,
        "removed": 0,
        "changed": 1,
        "packages": ["professional"],
        "more_packages": 0,
    }
    assert proposed["after"]["changes"] == changes
    assert approved["before"] == {"status": "proposed", "revision": 1}
    assert approved["after"] == {
        "status": "approved",
        "revision": 2,
        "effective_at": "2026-03-01T12:00:00Z",
        "changes": changes,
        "new_versions": ["professional@2"],
    }


async def test_an_approver_is_told_of_renames_returns_and_what_is_odd_about_what_is_new(
    api: Api, other_admin: Api, example: Any
) -> None:
    await approve(other_admin, await propose(api, with_price(example, "110.00")))
    document = with_price(example, "99.00")  # as it was at first
    workspace = document["products"][0]
    analytics = next(a for a in workspace["add_ons"] if a["id"] == "advanced-analytics")
    analytics["id"] = "insights"
    workspace["bundles"][0]["components"][0]["id"] = "insights"
    workspace["plans"][0]["charges"][0]["prices"]["usd"]["year"] = "999.00"
    proposal = await propose(api, document)
    notes = {(note["code"], ".".join(note["path"])) for note in proposal["notes"]}
    # Nothing of the volume prices whose totals fall: they are odd, but as they were.
    assert notes == {
        ("SAME_AS_BEFORE", "professional"),
        ("RETIRED", "advanced-analytics"),
        ("PROBABLE_RENAME", "products.workspace.add_ons.insights"),
        ("YEAR_DEARER", "products.0.plans.0.charges.0.prices.usd.year"),
    }


async def test_a_decided_proposal_shows_what_was_decided_on(
    api: Api, other_admin: Api, example: Any
) -> None:
    rejected = await propose(api, with_price(example, "120.00"))
    await other_admin.ask(REJECT, id=rejected["id"])
    approved = await propose(api, with_price(example, "110.00"))
    await approve(other_admin, approved)
    query = "query ($id: ID!) { catalogProposal(id: $id) { diff { path before after } } }"
    path = "products.workspace.plans.professional.charges.base.prices.usd.month"
    for proposal, after in ((rejected, "120.00"), (approved, "110.00")):
        found = (await api.ask(query, id=proposal["id"]))["catalogProposal"]["diff"]
        assert found == [{"path": path, "before": "99.00", "after": after}]


async def test_nothing_takes_effect_before_what_it_changes(
    api: Api, other_admin: Api, example: Any
) -> None:
    later, sooner = "2026-06-01T00:00:00Z", "2026-05-01T00:00:00Z"
    planned = await propose(api, with_price(example, "110.00"), effectiveAt=later)
    assert (await approve(other_admin, planned))["status"] == "APPROVED"
    refused = await propose(api, with_price(example, "120.00"), effectiveAt=sooner)
    assert refused["code"] == "VALIDATION_FAILED"
    at_once = await propose(api, with_price(example, "120.00"))
    answer = await approve(other_admin, at_once)
    assert answer["code"] == "BEFORE_BASE"
    assert later in answer["message"]
    of = "query ($at: DateTime) { catalog(asOf: $at) { revision } }"
    assert (await api.ask(of, at=sooner))["catalog"]["revision"] == 1
    assert (await api.ask(of, at=later))["catalog"]["revision"] == 2
