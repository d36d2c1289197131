// Asking the service: GraphQL by the names of trusted documents, signed in by the cookie.

import { fill, texts } from "./texts.js";

const FIRST_PAUSE_MS = 1000;
const PAUSE_AT_MOST_MS = 30000;

/** Why something was not answered: a stable code, and words for people. */
export class Failure extends Error {
  /**
   * @param {string} code such as `PAYMENT_DECLINED`
   * @param {string} message
   * @param {object} [result] the whole answer of a mutation: `issues`, a fresh `quote`, …
   */
  constructor(code, message, result) {
    super(message);
    this.code = code;
    this.result = result;
  }

  /** What to tell people, and what they can do. */
  get words() {
    const issues = this.result?.issues?.map((issue) => issue.message).join("; ");
    const known = texts.failures[this.code];
    return known
      ? fill(known, { requestId: "", ...this.result })
      : issues || (this.code === "UNKNOWN" ? fill(texts.failures.UNKNOWN, this) : this.message);
  }
}

/**
 * The result of a mutation, if it is one of these types; else it is thrown as a `Failure`.
 * @param {{__typename: string}} result needs `__typename`, and `... on UserError { code message }`
 * @param {...string} wanted
 */
export function expected(result, ...wanted) {
  if (wanted.includes(result.__typename)) return result;
  throw new Failure(result.code ?? "UNKNOWN", result.message ?? result.__typename, result);
}

/** A key by which a change that is asked for again is made once. Keep it until the answer is there. */
export function idempotencyKey() {
  return crypto.randomUUID?.() ?? Array.from(crypto.getRandomValues(new Uint32Array(4))).join("-");
}

/** How one app asks. `onSignedOut` is called whenever the session turns out to have ended. */
export class Api {
  /**
   * @param {"portal" | "console"} app
   * @param {() => void} onSignedOut
   */
  constructor(app, onSignedOut) {
    this.app = app;
    this.onSignedOut = onSignedOut;
  }

  /**
   * The data of one operation of the app's documents. Throws a `Failure`.
   * @param {string} operation its name, such as `Overview`
   * @param {object} [variables]
   */
  async ask(operation, variables = {}) {
    const response = await this.#send(operation, variables, "application/json");
    return this.#data(response.status, await answerOf(response));
  }

  /**
   * Hear of changes until `stop` is called: connects again by itself, from the last revision on.
   * @param {string} operation a subscription with `$afterRevision`
   * @param {(data: any) => string | undefined} heard is given the data; answers its revision
   * @param {(connected: boolean) => void} [state]
   * @returns {() => void} stop
   */
  listen(operation, heard, state = () => {}) {
    const stopped = new AbortController();
    let afterRevision = null;
    const connect = async () => {
      let pause = FIRST_PAUSE_MS;
      while (!stopped.signal.aborted) {
        try {
          const variables = { afterRevision };
          const response = await this.#send(operation, variables, "text/event-stream", stopped.signal);
          if (!response.ok || !response.headers.get("content-type")?.startsWith("text/event-stream")) {
            this.#data(response.status, await answerOf(response));
          }
          state(true);
          for await (const { event, data } of events(response.body)) {
            if (event !== "next") continue;
            pause = FIRST_PAUSE_MS;
            afterRevision = heard(this.#data(200, JSON.parse(data))) ?? afterRevision;
          }
        } catch (error) {
          if (error.code === "UNAUTHENTICATED" || error.code === "FORBIDDEN") return;
        }
        if (stopped.signal.aborted) return;
        state(false);
        await new Promise((resume) => setTimeout(resume, pause * (0.5 + Math.random() / 2)));
        pause = Math.min(2 * pause, PAUSE_AT_MOST_MS);
      }
    };
    void connect();
    return () => stopped.abort();
  }

  /** Begin a session: a link's `{code}`, or a `{bearer}` of staff. Throws a `Failure`. */
  async signIn(given) {
    const response = await sent(`/${this.app}/session`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(given),
    });
    if (response.ok) return;
    const problem = await answerOf(response);
    throw new Failure(`SIGN_IN_${problem.code ?? response.status}`, problem.detail ?? problem.title);
  }

  async signOut() {
    await sent(`/${this.app}/session`, { method: "DELETE" });
    this.onSignedOut();
  }

  #send(operation, variables, accept, signal) {
    return sent(`/${this.app}/graphql`, {
      method: "POST",
      headers: { "content-type": "application/json", accept },
      body: JSON.stringify({ documentId: `${this.app}.${operation}`, variables }),
      signal,
    });
  }

  #data(status, answer) {
    const [error] = answer.errors ?? [];
    if (!error && answer.data) return answer.data;
    const code = status === 401 ? "UNAUTHENTICATED" : (error?.extensions?.code ?? "UNKNOWN");
    if (code === "UNAUTHENTICATED") this.onSignedOut();
    throw new Failure(code, error?.message ?? String(status), error?.extensions);
  }
}

async function sent(path, options) {
  try {
    return await fetch(path, { ...options, credentials: "same-origin", cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("OFFLINE", error.message);
  }
}

async function answerOf(response) {
  try {
    return await response.json();
  } catch {
    throw new Failure(response.status >= 500 ? "UNAVAILABLE" : "UNKNOWN", String(response.status));
  }
}

/** The events of a stream (server-sent events), as they come. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      waiting = (waiting + value).replaceAll("\r\n", "\n");
      const parts = waiting.split("\n\n");
      waiting = parts.pop();
      for (const part of parts) {
        const lines = part.split("\n");
        const said = (name) =>
          lines
            .filter((line) => line.startsWith(`${name}:`))
            .map((line) => line.slice(name.length + 1).trimStart())
            .join("\n");
        yield { event: said("event") || "message", data: said("data") };
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
