// The customer portal: who comes by a link is signed in, and sees what they hold.

import { Api, Failure } from "../shared/api.js";
import { button, h } from "../shared/elements.js";
import { Router } from "../shared/router.js";
import { texts as shared } from "../shared/texts.js";
import { overview } from "./overview.js";
import { texts } from "./texts.js";

const api = new Api("portal", () => ended(texts.ended.title, texts.ended.way));

const router = new Router("/portal", texts.name, [
  { path: "", title: texts.overview.title, inNav: true, show: (context) => overview(api, context) },
]);

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
