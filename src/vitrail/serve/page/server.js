// What the page asks its server, and how it waits for one that is loading or busy.

const LOADING = "The server is loading the model. Pictures can be picked already, and are answered once it is there.";
const POLL_SECONDS = 1;
const MOST_TRIES = 8;
const MOST_WAIT_SECONDS = 30;

/** An answer that is an error, or none at all; the message is for people. */
export class ServerError extends Error {
  constructor(message, { status = 0, retryAfter = null } = {}) {
    super(message);
    Object.assign(this, { status, retryAfter });
  }
}

/** GET /v1/model, however long the server takes to load it. `waiting` hears a sentence for each reason to wait. */
export async function describedModel(waiting) {
  for (;;) {
    try {
      return await answerOf(await reach("/v1/model"));
    } catch (error) {
      if (error.status !== 503 && error.status !== 0) throw error;
      waiting(error.status === 503 ? LOADING : error.message);
      await untilReady();
    }
  }
}

/**
 * POST /v1/predict: a prediction for each file, in their order.
 *
 * A busy server says when to come again, and is asked again then; `waiting` hears for how many seconds.
 */
export async function predictions(files, options, { signal = null, waiting = () => {} } = {}) {
  const form = new FormData();
  for (const file of files) form.append("pictures", file, file.name);
  const address = `/v1/predict?${new URLSearchParams(options)}`;
  for (let attempt = 1; ; attempt += 1) {
    try {
      const answer = await answerOf(await reach(address, { method: "POST", body: form, signal }));
      return answer.predictions;
    } catch (error) {
      if (!isBusy(error) || attempt === MOST_TRIES) throw error;
      const seconds = Math.min(error.retryAfter ?? attempt, MOST_WAIT_SECONDS);
      waiting(seconds);
      await sleep(seconds, signal);
    }
  }
}

function isBusy(error) {
  return error.status === 429 || error.status === 503;
}

async function reach(address, options = {}) {
  try {
    return await fetch(address, { ...options, headers: { Accept: "application/json" } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("The server cannot be reached. It may have been stopped.");
  }
}

/** The JSON of a response. 422 is an answer as well: that of pictures of which none could be read. */
async function answerOf(response) {
  const content = await response.json().catch(() => null);
  if (content !== null && (response.ok || (response.status === 422 && content.predictions))) return content;
  if (response.status === 401) {
    throw new ServerError("This server asks for its token: load the page again to sign in.", { status: 401 });
  }
  const { message, request_id: request } = content?.error ?? {};
  const said = message ? `The server says: ${message}.` : `The server answered with status ${response.status}.`;
  // Under its id the server's log has more on what failed.
  const found = request && response.status === 500 ? ` Request ${request}.` : "";
  const retryAfter = secondsOf(response.headers.get("Retry-After"));
  throw new ServerError(said + found, { status: response.status, retryAfter });
}

function secondsOf(header) {
  const seconds = Number.parseInt(header ?? "", 10);
  return Number.isFinite(seconds) ? Math.max(seconds, 0.5) : null;
}

async function untilReady() {
  for (;;) {
    await sleep(POLL_SECONDS);
    const response = await fetch("/readyz").catch(() => null);
    if (response?.ok) return;
  }
}

function sleep(seconds, signal = null) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    }, { once: true });
  });
}
