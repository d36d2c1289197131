// Pages of an app by their paths: each is built anew when it is come to, its heading gets the focus.

import { failed, h, say, skeleton } from "./elements.js";
import { texts } from "./texts.js";

/**
 * @typedef {object} Page
 * @property {string} path below the app's own: "", "plans", "locked/:feature"
 * @property {string} title
 * @property {boolean} [inNav] whether the navigation names it
 * @property {(context: Context) => Promise<any> | any} show what stands below the heading
 *
 * @typedef {object} Context
 * @property {Record<string, string>} params of the path
 * @property {URLSearchParams} query
 * @property {(title: string) => void} setTitle where the page knows a better one
 * @property {(path: string, options?: {replace?: boolean}) => void} go to another page
 * @property {() => void} reload build the page anew; a focus within it goes to the heading
 * @property {(act: () => void) => void} onLeave
 */

export class Router {
  #base;
  #pages;
  #name;
  #leaving = [];
  #turn = 0;
  #shown = "";

  /**
   * @param {string} base "/portal"
   * @param {string} name of the app, for the window's title
   * @param {Page[]} pages the first whose path fits is shown
   */
  constructor(base, name, pages) {
    this.#base = base;
    this.#name = name;
    this.#pages = pages;
  }

  start() {
    document.addEventListener("click", (event) => this.#followed(event));
    addEventListener("popstate", () => {
      if (this.#shown !== location.pathname + location.search) void this.#show({ moved: true });
    }); // else it is a place within the page that is shown: the browser goes there
    return this.#show({ moved: false });
  }

  /** A page's address: `href("plans")`. */
  href(path) {
    return path ? `${this.#base}/${path}` : this.#base;
  }

  /** Go to a page. `replace` leaves no way back to where one was. */
  go(path, { replace = false } = {}) {
    history[replace ? "replaceState" : "pushState"](null, "", this.href(path));
    return this.#show({ moved: true });
  }

  reload() {
    return this.#show({ moved: false });
  }

  /** Leave the page that is shown, and show nothing of the app: whoever signs out. */
  end(title, ...content) {
    this.#turn += 1;
    this.#leave();
    document.getElementById("nav").replaceChildren();
    document.getElementById("account").replaceChildren();
    this.#put(title, content, { moved: true });
  }

  #followed(event) {
    const link = event.target.closest?.("a[href]");
    const plain = event.button === 0 && !(event.metaKey || event.ctrlKey || event.shiftKey || event.altKey);
    if (!link || !plain || event.defaultPrevented || link.target || link.hasAttribute("download")) return;
    const to = new URL(link.href);
    const inside = to.pathname === this.#base || to.pathname.startsWith(`${this.#base}/`);
    if (to.origin !== location.origin || !inside) return;
    if (to.hash && to.pathname === location.pathname) return;
    event.preventDefault();
    history.pushState(null, "", to);
    void this.#show({ moved: true });
  }

  async #show({ moved }) {
    const turn = ++this.#turn;
    this.#shown = location.pathname + location.search;
    this.#leave();
    const main = document.getElementById("main");
    main.setAttribute("aria-busy", "true");
    const { page, params } = this.#found();
    this.#nav(page);
    if (moved) {
      for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
      main.replaceChildren(skeleton());
      scrollTo(0, 0);
    }
    let title = page.title;
    const context = {
      params,
      query: new URLSearchParams(location.search),
      setTitle: (better) => (title = better),
      reload: () => this.reload(),
      go: (path, options) => this.go(path, options),
      onLeave: (act) => (turn === this.#turn ? this.#leaving.push(act) : act()),
    };
    let content;
    try {
      content = await page.show(context);
    } catch (error) {
      if (error.code === "UNAUTHENTICATED") return;
      content = failed(error, () => this.reload());
    }
    if (turn === this.#turn) this.#put(title, [content], { moved });
  }

  #put(title, content, { moved }) {
    const main = document.getElementById("main");
    const heading = h("h1", { tabindex: "-1" }, title);
    const within = document.activeElement !== main && main.contains(document.activeElement);
    main.replaceChildren(heading, ...content.flat(Infinity).filter(Boolean));
    main.removeAttribute("aria-busy");
    document.title = title === this.#name ? title : `${title} · ${this.#name}`;
    if (moved || within) heading.focus({ preventScroll: true });
    say("");
  }

  #found() {
    const asked = location.pathname.slice(this.#base.length).split("/").filter(Boolean).map(decoded);
    for (const page of this.#pages) {
      const wanted = page.path.split("/").filter(Boolean);
      const fits = wanted.length === asked.length && wanted.every((part, i) => part.startsWith(":") || part === asked[i]);
      if (!fits) continue;
      const named = wanted.map((part, i) => [part.slice(1), asked[i], part.startsWith(":")]).filter(([, , is]) => is);
      return { page, params: Object.fromEntries(named) };
    }
    return { page: { path: "?", title: texts.notFound, show: () => h("p", {}, texts.notFoundWay) }, params: {} };
  }

  #nav(shown) {
    const items = this.#pages.filter((page) => page.inNav).map((page) =>
      h("li", {}, h("a", { href: this.href(page.path), "aria-current": page === shown ? "page" : null }, page.title)),
    );
    const nav = document.getElementById("nav");
    nav.replaceChildren(h("ul", {}, items));
    const current = nav.querySelector("[aria-current]");
    if (current) nav.scrollLeft = current.getBoundingClientRect().left - nav.getBoundingClientRect().left - current.offsetWidth;
  }

  #leave() {
    for (const act of this.#leaving.splice(0)) act();
  }
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}
