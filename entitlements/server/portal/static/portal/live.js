// The page hears of changes, but is not built anew while somebody acts on it or reads what went wrong.

let acting = 0;
const news = { path: "", words: "", tone: "good" };

/** Something is done: until it is answered, and while there are words to read, nothing is rebuilt. */
export async function act(doing) {
  acting += 1;
  try {
    return await doing();
  } finally {
    acting -= 1;
  }
}

const occupied = () =>
  acting > 0 || document.querySelector("dialog[open], main .trouble, main .problem:not(:empty), main :is(input, select):focus") !== null;

/**
 * Build the page anew once the customer is at a later revision than the one that it shows.
 * @param {string} revision of the customer, as the page shows them
 */
export function live(api, context, revision) {
  let missed = false;
  const refresh = () => {
    missed = occupied();
    if (!missed) context.reload();
  };
  const looked = () => missed && refresh();
  document.addEventListener("close", looked, { capture: true });
  document.addEventListener("focusout", looked);
  const stop = api.listen("EntitlementsChanged", ({ entitlementsChanged }) => {
    if (BigInt(entitlementsChanged.revision) > BigInt(revision)) refresh();
    return entitlementsChanged.revision;
  });
  context.onLeave(() => {
    document.removeEventListener("close", looked, { capture: true });
    document.removeEventListener("focusout", looked);
    stop();
  });
}

/** Words that the next page shown at `path` has on top, for as long as one stays there. */
export function tell(path, words, tone = "good") {
  Object.assign(news, { path, words, tone });
}

/** What there is to tell at this path. */
export function toTell(path) {
  if (news.path !== path) news.words = "";
  return news.words ? news : null;
}
