// The finance console: staff sign in with their key or token, and see what their role may.

import { Api } from "../shared/api.js";
import { badge, button, h, uniqueId } from "../shared/elements.js";
import { Router } from "../shared/router.js";
import { texts as shared } from "../shared/texts.js";
import { customer } from "./customer.js";
import { customers } from "./customers.js";
import { grandfathered } from "./grandfathered.js";
import { ledger } from "./ledger.js";
import { priceHistory, prices } from "./prices.js";
import { proposal } from "./proposal.js";
import { proposals } from "./proposals.js";
import { revenue } from "./revenue.js";
import { may } from "./roles.js";
import { texts } from "./texts.js";
import { waiting } from "./waiting.js";

const api = new Api("console", signIn);
let role = "";

/** `what`: those whose role may it see the page in the navigation. */
const page = (path, { title }, what, show) => ({
  path,
  title,
  what,
  show: (context) => show(api, { ...context, href: (to) => router.href(to), may: (wanted) => may(role, wanted) }),
});

const pages = [
  page("", texts.proposals, "staff", proposals),
  page("proposals/:id", texts.proposal, null, proposal),
  page("prices", texts.prices, "prices", prices),
  page("prices/:package", texts.prices, null, priceHistory),
  page("grandfathered", texts.grandfathered, "staff", grandfathered),
  page("revenue", texts.revenue, "revenue", revenue),
  page("customers", texts.customers, "customers", customers),
  page("customers/:id", texts.customer, null, customer),
  page("waiting", texts.waiting, "customers", waiting),
  page("ledger", texts.ledger, "ledger", ledger),
];

const router = new Router("/console", texts.name, pages);

function signIn() {
  const id = uniqueId("bearer");
  const bearer = h("input", { id, type: "password", required: true, autocomplete: "current-password", spellcheck: "false", autocapitalize: "off" });
  const act = async () => {
    await api.signIn({ bearer: bearer.value.trim() });
    bearer.value = "";
    await enter();
  };
  const form = h(
    "form",
    { class: "card narrow" },
    h("p", {}, texts.signIn.way),
    h("label", { for: id }, texts.signIn.bearer),
    bearer,
    button(texts.signIn.act, act, { type: "submit" }),
  );
  router.end(texts.signIn.title, form);
}

let started = false;

async function enter() {
  const { viewer } = await api.ask("Viewer");
  role = viewer.role;
  for (const each of pages) each.inNav = each.what !== null && may(role, each.what);
  document.getElementById("account").replaceChildren(
    badge(texts.roles[role] ?? role),
    button(shared.signOut, () => api.signOut(), { kind: "quiet" }),
  );
  if (started) return router.go(location.pathname.slice("/console/".length) + location.search, { replace: true });
  started = true;
  return router.start();
}

enter().catch((error) => {
  if (error.code !== "UNAUTHENTICATED") router.end(texts.name, h("p", { class: "card", role: "alert" }, error.words ?? String(error)));
});
