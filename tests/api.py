"""A client of the API for tests: a mutation's answer is what its union says, by `__typename`."""

from typing import Any

import httpx


class Api:
    def __init__(self, client: httpx.AsyncClient, bearer: str) -> None:
        self.client = client
        self.bearer = bearer

    def bound_to(self, bearer: str) -> "Api":
        """The same API, asked with another key or token."""
        return Api(self.client, bearer)

    async def send(self, query: str, **variables: Any) -> httpx.Response:
        return await self.client.post(
            "/graphql",
            json={"query": query, "variables": variables},
            headers={"Authorization": f"Bearer {self.bearer}"},
        )

    async def ask(self, query: str, **variables: Any) -> Any:
        """The data of an answer without errors."""
        response = await self.send(query, **variables)
        body = response.json()
        assert response.status_code == 200, body
        assert "errors" not in body, body["errors"]
        return body["data"]

    async def refused(self, query: str, **variables: Any) -> str:
        """The code of the one error that the answer has."""
        body = (await self.send(query, **variables)).json()
        [error] = body["errors"]
        return str(error["extensions"]["code"])

    # ── what the stories do ──────────────────────────────────────────────────

    async def create_customer(self, id: str, card: str | None = "pm_card_visa") -> Any:
        found = await self.ask(
            """mutation ($input: CreateCustomerInput!) { createCustomer(input: $input) {
                 __typename
                 ... on CustomerPayload { customer { id revision currency } }
                 ... on UserError { code message }
                 ... on ValidationFailed { issues { path code } } } }""",
            input={"id": id, "sandboxPaymentMethod": card},
        )
        return found["createCustomer"]

    async def preview(self, **change: Any) -> Any:
        found = await self.ask(PREVIEW, input=change)
        return found["previewChange"]

    async def commit(self, token: str, key: str) -> Any:
        found = await self.ask(COMMIT, token=token, key=key)
        return found["commitChange"]

    async def change(self, key: str, **change: Any) -> Any:
        """Preview and commit."""
        quote = await self.preview(**change)
        assert quote["__typename"] == "Quote", quote
        return await self.commit(quote["token"], key)

    async def purchase(self, **input: Any) -> Any:
        found = await self.ask(PURCHASE, input=input)
        return found["purchaseAddOn"]

    async def cancel(self, key: str, **input: Any) -> Any:
        """Cancel the product of a customer."""
        found = await self.ask(CANCEL, input={"idempotencyKey": key, **input})
        return found["cancelSubscription"]

    async def start_trial(self, key: str, **input: Any) -> Any:
        found = await self.ask(START_TRIAL, input={"idempotencyKey": key, **input})
        return found["startTrial"]

    async def convert_trial(self, trial_id: str, key: str) -> Any:
        return (await self.ask(CONVERT_TRIAL, id=trial_id, key=key))["convertTrial"]

    async def cancel_trial(self, trial_id: str) -> Any:
        return (await self.ask(CANCEL_TRIAL, id=trial_id))["cancelTrial"]

    async def extend_trial(self, trial_id: str, days: int, reason: str = "more time") -> Any:
        found = await self.ask(EXTEND_TRIAL, id=trial_id, days=days, reason=reason)
        return found["extendTrial"]

    async def trials(self, customer_id: str) -> Any:
        """Of a customer, newest first."""
        found = await self.ask(TRIALS, id=customer_id)
        return found["customer"]["trials"]

    async def take_back(self, change_id: str) -> Any:
        found = await self.ask(TAKE_BACK, id=change_id)
        return found["cancelScheduledChange"]

    async def pay_invoice(self, invoice_id: str, key: str) -> Any:
        return (await self.ask(PAY_INVOICE, id=invoice_id, key=key))["payInvoice"]

    async def set_up_payment_method(self, customer_id: str) -> Any:
        return (await self.ask(SET_UP, id=customer_id))["setUpPaymentMethod"]

    async def erase(self, customer_id: str, reason: str = "asked by letter") -> Any:
        return (await self.ask(ERASE, id=customer_id, reason=reason))["eraseCustomer"]

    async def access(self, customer_id: str | None, feature_id: str, **more: Any) -> Any:
        found = await self.ask(
            """query ($customerId: ID, $featureId: ID!, $quantity: BigInt! = "1",
                      $atLeast: String, $minRevision: BigInt) {
                 access(customerId: $customerId, featureId: $featureId, quantity: $quantity,
                        atLeast: $atLeast, minRevision: $minRevision) {
                   allowed reason revision value { enabled limit unlimited number choice }
                   used remaining resetsAt warning
                   sources { kind quantity package { versionId } } } }""",
            customerId=customer_id,
            featureId=feature_id,
            **more,
        )
        return found["access"]

    async def unlocks(self, customer_id: str | None, feature_id: str, **more: Any) -> Any:
        """What would turn a denial into yes, cheapest first."""
        found = await self.ask(
            f"""query ($customerId: ID, $featureId: ID!, $quantity: BigInt! = "1",
                      $atLeast: String, $first: Int! = 3) {{
                 access(customerId: $customerId, featureId: $featureId, quantity: $quantity,
                        atLeast: $atLeast) {{ allowed {UNLOCKS} }} }}""",
            customerId=customer_id,
            featureId=feature_id,
            **more,
        )
        return found["access"]["unlocks"]

    async def consume(self, feature_id: str, key: str, **more: Any) -> Any:
        found = await self.ask(CONSUME, featureId=feature_id, key=key, **more)
        return found["consume"]

    async def set_level(self, feature_id: str, level: int, key: str, **more: Any) -> Any:
        found = await self.ask(SET_LEVEL, featureId=feature_id, level=level, key=key, **more)
        return found["setLevel"]

    async def record(self, *events: Any) -> Any:
        found = await self.ask(RECORD, events=events)
        return found["recordUsage"]

    async def customer(self, id: str | None = None) -> Any:
        found = await self.ask(CUSTOMER, id=id)
        return found["customer"]

    async def advance(self, to: str) -> None:
        await self.ask("mutation ($to: DateTime!) { advanceSandboxClock(to: $to) { now } }", to=to)

    async def token(self, customer_id: str, *scopes: str) -> "Api":
        """The API as a front end of a customer uses it."""
        found = await self.ask(
            """mutation ($id: ID!, $scopes: [CustomerScope!]!) {
                 createCustomerToken(customerId: $id, scopes: $scopes) {
                   ... on CustomerToken { token } } }""",
            id=customer_id,
            scopes=list(scopes or ("READ",)),
        )
        return self.bound_to(found["createCustomerToken"]["token"])

    async def audit(self, **filter: Any) -> list[Any]:
        found = await self.ask(
            """query ($filter: AuditFilter) { auditEntries(filter: $filter, first: 200) {
                 nodes { stream sequence action actor objectId before after reason
                         mrrDelta { amountMinor } } } }""",
            filter=filter,
        )
        nodes: list[Any] = found["auditEntries"]["nodes"]
        return nodes


_CHANGE = """__typename
  ... on ChangeCommitted { revision
    change { id status direction total { amountMinor } mrrDelta { amountMinor }
             lines { kind chargeId package { versionId } amount { amountMinor } } }
    customer { id revision subscriptions { plan { versionId } } } }
  ... on PaymentActionRequired { clientSecret hostedUrl change { id status } }
  ... on CheckoutRequired { url expiresAt pendingChange { id status } }
  ... on ApprovalRequired { pendingChange { id status decidedBy } }
  ... on PaymentDeclined { declineCode }
  ... on QuoteStale { quote { token dueNow { amountMinor } } }
  ... on QuoteExpired { quote { token dueNow { amountMinor } } }
  ... on UserError { code message }
  ... on ValidationFailed { issues { path code message } }"""

PREVIEW = """mutation ($input: ChangeInput!) { previewChange(input: $input) { __typename
  ... on Quote { token direction prorationDate effectiveAt dueNowExact approvalRequired
    lines { kind chargeId package { versionId } description quantity amount { amountMinor } }
    dueNow { amountMinor } creditApplied { amountMinor } creditBalanceAfter { amountMinor }
    recurringBefore { amountMinor } recurringAfter { amountMinor }
    nextInvoice { at total { amountMinor } lines { amount { amountMinor } } }
    usageViolations { feature { id } used limitAfter }
    entitlementChanges { feature { id } better } removedAddOns { id } warnings }
  ... on UserError { code message }
  ... on ValidationFailed { issues { path code message } } } }"""

COMMIT = f"""mutation ($token: String!, $key: String!) {{
  commitChange(token: $token, idempotencyKey: $key) {{ {_CHANGE} }} }}"""

PURCHASE = f"""mutation ($input: PurchaseAddOnInput!) {{
  purchaseAddOn(input: $input) {{ {_CHANGE} }} }}"""

CANCEL = f"""mutation ($input: CancelSubscriptionInput!) {{
  cancelSubscription(input: $input) {{ {_CHANGE} }} }}"""

_TRIAL = """id status startedAt endsAt atEnd package { versionId } successCriteria
  currentStep { week title }"""

_CONVERSION = """conversion { token dueNow { amountMinor } direction
  lines { kind amount { amountMinor } } recurringAfter { amountMinor } }"""

_FAILED = """... on UserError { code message }
  ... on ValidationFailed { issues { path code } }"""

_PAYLOAD = f"""__typename {_FAILED}
  ... on TrialPayload {{ trial {{ {_TRIAL} }} customer {{ subscriptions {{ status }} }} }}"""

START_TRIAL = f"""mutation ($input: StartTrialInput!) {{ startTrial(input: $input) {{
  __typename {_FAILED}
  ... on TrialStarted {{ trial {{ {_TRIAL} }} revision customer {{ revision
    subscriptions {{ status plan {{ versionId }} trialEndsAt cancelAt }} }} }}
  ... on CheckoutRequired {{ url pendingChange {{ id status total {{ amountMinor }} }} }} }} }}"""

CANCEL_TRIAL = f"""mutation ($id: ID!) {{ cancelTrial(id: $id) {{ {_PAYLOAD} }} }}"""

EXTEND_TRIAL = f"""mutation ($id: ID!, $days: Int!, $reason: String!) {{
  extendTrial(id: $id, days: $days, reason: $reason) {{ {_PAYLOAD} }} }}"""

CONVERT_TRIAL = f"""mutation ($id: ID!, $key: String!) {{
  convertTrial(id: $id, idempotencyKey: $key) {{ {_CHANGE} }} }}"""

TRIALS = f"""query ($id: ID!) {{ customer(id: $id) {{ trials {{ {_TRIAL} {_CONVERSION} }} }} }}"""

TAKE_BACK = f"""mutation ($id: ID!) {{ cancelScheduledChange(id: $id) {{ {_CHANGE} }} }}"""

UNLOCKS = """unlocks(first: $first) { package { id version } quantity
  quantities { feature { id } quantity } dueNow { amountMinor currency }
  recurringDelta { amountMinor } trialDays offerToken expiresAt }"""

_COUNTED = """__typename
  ... on Consumed { duplicate decision { allowed reason overLimit used remaining resetsAt warning
    revision value { limit unlimited overage } sources { kind quantity package { versionId } } } }
  ... on UserError { code message }
  ... on ValidationFailed { issues { path code } }"""

CONSUME = f"""mutation ($customerId: ID, $featureId: ID!, $quantity: BigInt! = "1",
                      $key: String!) {{
  consume(customerId: $customerId, featureId: $featureId, quantity: $quantity,
          idempotencyKey: $key) {{ {_COUNTED} }} }}"""

SET_LEVEL = f"""mutation ($customerId: ID, $featureId: ID!, $level: BigInt!, $key: String!) {{
  setLevel(customerId: $customerId, featureId: $featureId, level: $level,
           idempotencyKey: $key) {{ {_COUNTED} }} }}"""

RECORD = """mutation ($events: [UsageEventInput!]!) { recordUsage(events: $events) { __typename
  ... on UsageRecorded { accepted duplicates rejected { id code } }
  ... on ValidationFailed { issues { path code } } } }"""
PAY_INVOICE = """mutation ($id: ID!, $key: String!) {
  payInvoice(id: $id, idempotencyKey: $key) { __typename
    ... on InvoicePaid { invoice { status amountPaid { amountMinor } }
      customer { subscriptions { status } } }
    ... on PaymentDeclined { declineCode } ... on UserError { code message } } }"""

SET_UP = """mutation ($id: ID!) { setUpPaymentMethod(customerId: $id) { __typename
  ... on CheckoutRequired { url } ... on UserError { code message } } }"""

CUSTOMER = """query ($id: ID) { customer(id: $id) { id revision creditBalance { amountMinor }
  paymentMethod { brand last4 }
  subscriptions { id status interval plan { versionId } recurring { amountMinor }
    mrr { amountMinor } items { package { versionId } quantity recurring { amountMinor } }
    quantities { feature { id } quantity } currentPeriod { start end } cancelAt
    scheduledChanges { id description effectiveAt change { id status } } }
  changes { nodes { id status direction total { amountMinor } failure { code }
    lines { kind amount { amountMinor } } } }
  invoices { nodes { status total { amountMinor } amountDue { amountMinor }
    amountPaid { amountMinor } lines { kind amount { amountMinor } } } } } }"""

ERASE = """mutation ($id: ID!, $reason: String!) { eraseCustomer(id: $id, reason: $reason) {
  __typename ... on CustomerPayload { customer { name email paymentMethod { last4 }
                                                 invoices { nodes { total { amountMinor } } } } }
  ... on UserError { code } ... on ValidationFailed { issues { path code } } } }"""
