// Every text of the shared parts. Each app has its own beside its pages. To translate, replace the
// values: what stands in braces is filled in by `fill`.

export const texts = {
  loading: "Loading…",
  working: "Working…",
  tryAgain: "Try again",
  close: "Close",
  more: "Show more",
  nothing: "Nothing here yet.",
  notFound: "There is no such page",
  notFoundWay: "The address may be mistyped, or the page has moved. Choose one of the pages above.",
  signOut: "Sign out",
  live: "Connected: changes appear by themselves",
  notLive: "Not connected: changes may appear late",
  none: "–",
  failures: {
    OFFLINE: "The service cannot be reached. Check your connection, then try again.",
    UNAUTHENTICATED: "Your session has ended.",
    FORBIDDEN: "You may not do this. Ask somebody who may.",
    RATE_LIMITED: "Too many requests at once. Wait a moment, then try again.",
    TIMEOUT: "This took too long. Try again, or ask for less.",
    UNAVAILABLE: "The service is busy right now. Nothing was changed. Try again in a moment.",
    INTERNAL: "Something went wrong on our side. Try again; if it stays so, tell support the request {requestId}.",
    UNKNOWN: "Something went wrong: {message}",
  },
};

/**
 * A text with its `{names}` filled in.
 * @param {string} text
 * @param {Record<string, unknown>} [values]
 */
export function fill(text, values = {}) {
  return text.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));
}
