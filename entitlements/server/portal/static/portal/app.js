// The customer portal: who comes by a link is signed in, and sees what they hold.

import { Api, Failure } from "../shared/api.js";
import { button, h, say } from "../shared/elements.js";
import { Router } from "../shared/router.js";
import { texts as shared } from "../shared/texts.js";
import { addOn, addOns } from "./addons.js";
import { cancel } from "./cancel.js";
import { change } from "./change.js";
import { feature } from "./feature.js";
import { invoices } from "./invoices.js";
import { toTell } from "./live.js";
import { overview } from "./overview.js";
import { payment } from "./payment.js";
import { plans } from "./plans.js";
import { texts } from "./texts.js";
import { trials } from "./trials.js";

const SAY_AFTER_MS = 500;

Object.assign(shared.failures, texts.failures);

const api = new Api("portal", () => ended(texts.ended.title, texts.ended.way));

/** @returns {import("../shared/router.js").Page} */
const page = (path, title, build, inNav = false) => ({ path, title, inNav, show: async (context) => [news(context), await build(api, context)] });

const router = new Router("/portal", texts.name, [
  page("", texts.overview.title, overview, true),
  page("plans", texts.plans.title, plans, true),
  page("add-ons", texts.addOns.title, addOns, true),
  page("add-ons/:id", texts.addOns.title, addOn),
  page("trials", texts.trials.title, trials, true),
  page("invoices", texts.invoices.title, invoices, true),
  page("payment-method", texts.payment.title, payment, true),
  page("features/:feature", texts.feature.title, feature),
  page("changes/:id", texts.change.title, change),
  page("cancel/:product", texts.cancel.heading, cancel),
]);

/** What was just done: seen on top of the page, and said once it is there. */
function news(context) {
  const told = toTell(location.pathname);
  if (!told) return null;
  const timer = setTimeout(() => say(told.words), SAY_AFTER_MS);
  context.onLeave(() => clearTimeout(timer));
  return h("div", { class: `card notice ${told.tone}` }, h("p", {}, told.words));
}

function ended(title, words) {
  router.end(title, h("p", { class: "card" }, words));
}

const codeHere = () => new URLSearchParams(location.hash.slice(1)).get("code");

// A new link that is opened where the portal is open already only changes the fragment.
addEventListener("hashchange", () => {
  if (codeHere() !== null) location.reload();
});

/** A link's code is good once: it leaves the address before anything else, also when it is refused. */
async function redeemed() {
  const code = codeHere();
  if (code === null) return;
  history.replaceState(null, "", location.pathname + location.search);
  await api.signIn({ code });
}

async function start() {
  try {
    await redeemed();
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    ended(texts.ended.title, error.code === "SIGN_IN_UNAUTHENTICATED" ? texts.ended.used : error.words);
    return;
  }
  const leave = async () => {
    await api.signOut();
    ended(texts.ended.signedOut, texts.ended.signedOutWay);
  };
  document.getElementById("account").append(button(shared.signOut, leave, { kind: "quiet" }));
  await router.start();
}

void start();
