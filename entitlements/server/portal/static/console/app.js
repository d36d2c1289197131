// The finance console: staff sign in with their key or token, and see what is proposed.

import { Api } from "../shared/api.js";
import { badge, button, h, uniqueId } from "../shared/elements.js";
import { Router } from "../shared/router.js";
import { texts as shared } from "../shared/texts.js";
import { proposals } from "./proposals.js";
import { texts } from "./texts.js";

const api = new Api("console", signIn);

const router = new Router("/console", texts.name, [
  { path: "", title: texts.proposals.title, inNav: true, show: (context) => proposals(api, context) },
]);

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
  document.getElementById("account").replaceChildren(
    badge(texts.roles[viewer.role] ?? viewer.role),
    button(shared.signOut, () => api.signOut(), { kind: "quiet" }),
  );
  if (started) return router.go(location.pathname.slice("/console/".length), { replace: true });
  started = true;
  return router.start();
}

enter().catch((error) => {
  if (error.code !== "UNAUTHENTICATED") router.end(texts.name, h("p", { class: "card", role: "alert" }, error.words ?? String(error)));
});
