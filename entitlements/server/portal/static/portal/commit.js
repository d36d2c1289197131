// What is asked of the service to be done, once, and what came of it.

import { expected, Failure, idempotencyKey } from "../shared/api.js";
import { fill } from "../shared/texts.js";
import * as format from "../shared/format.js";
import { act, tell } from "./live.js";
import { texts } from "./texts.js";

const said = texts.outcomes;
const keys = new Map();
const UNANSWERED = ["OFFLINE", "UNAVAILABLE", "TIMEOUT", "INTERNAL", "UNKNOWN", "PAYMENT_PROVIDER_UNAVAILABLE"];

/** Where the provider's pages lead back to. */
const back = (path) => `${location.origin}/portal/${path}`;
export const CHANGE = "changes/latest";

/**
 * Do something under one idempotency key, which is kept until there is an answer: whoever asks
 * again after a connection broke asks for the same thing.
 * @param {string} intent names what is wanted, wherever on the pages it is asked for
 * @param {(key: string) => Promise<{__typename: string}>} doing
 */
export function once(intent, doing) {
  return act(async () => {
    if (!keys.has(intent)) keys.set(intent, idempotencyKey());
    let answered = true;
    try {
      const result = await doing(keys.get(intent));
      answered = !UNANSWERED.includes(result.code);
      return result;
    } catch (error) {
      answered = !UNANSWERED.includes(error.code);
      throw error;
    } finally {
      if (answered) keys.delete(intent);
    }
  });
}

/** A mutation's result, if it is one of these; else a `Failure`, with where to do something about it. */
export function wanted(result, ...types) {
  try {
    return expected(result, ...types);
  } catch (failure) {
    const why = texts.declines[result.declineCode] ?? "";
    throw refused(failure.code, failure.message, { ...result, why: why && ` ${why}` });
  }
}

function refused(code, message, result) {
  const failure = new Failure(code, message, result);
  failure.way = texts.ways[code];
  return failure;
}

/** Commit a quote's or an offer's token. Answers the union as it is. */
export function commit(api, token) {
  return once(`commit:${token}`, async (idempotencyKey) => {
    const { commitChange } = await api.ask("Commit", { token, idempotencyKey, returnUrl: back(CHANGE) });
    return commitChange;
  });
}

/**
 * Go on as a change went: to the provider's page, to the change that waits, or to where it is seen.
 * Throws a `Failure` where nothing was done.
 * @param {string} path where what was bought is seen
 * @param {string} words for when it is done at once
 */
export async function goOn(context, result, path, words) {
  const done = wanted(result, "ChangeCommitted", "PaymentActionRequired", "CheckoutRequired", "ApprovalRequired");
  if (done.__typename === "CheckoutRequired") return toProvider(done.url);
  if (done.__typename === "PaymentActionRequired") return context.go(`changes/${done.change.id}`);
  if (done.__typename === "ApprovalRequired") return context.go(`changes/${done.pendingChange?.id ?? "latest"}`);
  return finished(context, path, done.change.status === "SCHEDULED" ? fill(said.scheduled, { what: done.change.description, at: format.date(done.change.effectiveAt) }) : words);
}

/** Show a page, with words of what was done. */
export function finished(context, path, words, tone = "good") {
  const there = path ? `/portal/${path}` : "/portal";
  tell(there, words, tone);
  return location.pathname === there ? context.reload() : context.go(path);
}

/** Leave for a page of the payment provider. The button that led there stays as it is until then. */
export function toProvider(url) {
  location.assign(url);
  return new Promise(() => {});
}

/** Take a change back that waits, or give up one that waits for something. */
export function takeBack(api, context, id, words) {
  return act(async () => {
    const { cancelScheduledChange } = await api.ask("TakeBack", { id });
    wanted(cancelScheduledChange, "ChangeCommitted");
    await finished(context, "", words);
  });
}

export async function startTrial(api, context, { id, name, interval, path = "trials" }) {
  const result = await once(`try:${id}`, async (idempotencyKey) => {
    const input = { packageId: id, idempotencyKey, returnUrl: back(CHANGE), ...(interval && { interval }) };
    return (await api.ask("StartTrial", { input })).startTrial;
  });
  const started = wanted(result, "TrialStarted", "CheckoutRequired");
  if (started.__typename === "CheckoutRequired") return toProvider(started.url);
  return finished(context, path, fill(said.trialStarted, { name, at: format.date(started.trial.endsAt) }));
}

export function convertTrial(api, id) {
  return once(`convert:${id}`, async (idempotencyKey) => {
    const { convertTrial } = await api.ask("ConvertTrial", { id, idempotencyKey, returnUrl: back(CHANGE) });
    return convertTrial;
  });
}

export function cancelTrial(api, context, { id, name }) {
  return act(async () => {
    const { cancelTrial } = await api.ask("CancelTrial", { id });
    wanted(cancelTrial, "TrialPayload");
    await finished(context, "trials", fill(said.trialCancelled, { name }));
  });
}

/** Pay an open invoice. Answers the provider's page where the bank asks the customer; else null. */
export async function payInvoice(api, id) {
  const result = await once(`pay:${id}`, async (idempotencyKey) => (await api.ask("PayInvoice", { id, idempotencyKey })).payInvoice);
  return wanted(result, "InvoicePaid", "InvoicePaymentRequired").payment?.hostedUrl ?? null;
}

export async function saveCard(api) {
  const result = await act(async () => (await api.ask("SetUpPaymentMethod", { returnUrl: back("payment-method?returned=1") })).setUpPaymentMethod);
  return toProvider(wanted(result, "CheckoutRequired").url);
}

/** Whether the bearer may buy, or only look. */
export const mayBuy = (viewer) => viewer.scopes.includes("BUY");
