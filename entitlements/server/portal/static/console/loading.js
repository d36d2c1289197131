// What is read piece by piece: parts of a page that come later, and lists of which there is more.

import { button, failed, h, say } from "../shared/elements.js";
import { fill, texts as shared } from "../shared/texts.js";
import { texts } from "./texts.js";

/**
 * A place for what takes a while. Where it fails it says why, and can be tried again.
 * @param {() => Promise<any>} load
 */
export function later(load) {
  const place = h("div", { class: "stack" });
  const read = async () => {
    place.setAttribute("aria-busy", "true");
    place.replaceChildren(h("p", { class: "loading" }, shared.loading));
    try {
      place.replaceChildren(...[await load()].flat(Infinity).filter(Boolean));
    } catch (error) {
      place.replaceChildren(failed(error, read));
    }
    place.removeAttribute("aria-busy");
  };
  void read();
  return place;
}

/**
 * A list that goes on page by page (keyset).
 * @param {(after: string | null) => Promise<{nodes: any[], pageInfo: {hasNextPage: boolean, endCursor: string}}>} read
 * @param {(found: any[]) => any} show all that was read so far
 * @returns {Promise<{place: HTMLElement, redraw: () => void, found: any[]}>}
 */
export async function paged(read, show) {
  const found = [];
  const place = h("div", { class: "stack" });
  let next = null;

  function redraw() {
    const more = next && button(shared.more, () => page(next), { kind: "quiet" });
    place.replaceChildren(...[show(found), more].flat(Infinity).filter(Boolean));
  }

  async function page(after) {
    const { nodes, pageInfo } = await read(after);
    found.push(...nodes);
    next = pageInfo.hasNextPage ? pageInfo.endCursor : null;
    redraw();
    if (after === null) return;
    const on = place.querySelectorAll(":scope > .action button, .scroll");
    on[on.length - 1]?.focus(); // where one goes on reading: the button was made anew
    say(fill(texts.shown, { count: found.length }));
  }

  await page(null);
  return { place, redraw, found };
}
