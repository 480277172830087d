// The server: one request at a time, the latest input wins, and a token where one is asked for.

const KEY = "softmaxnet-token";
let token = sessionStorage.getItem(KEY);

/** An answer other than 200: `message` is the server's own sentence. */
export class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** Return the answer of a path as JSON; `body` makes it a POST. */
export async function ask(path, body) {
  const headers = { Accept: "application/json" };
  if (token) headers.Authorization = `Bearer ${token}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let answer;
  try {
    const options = { headers, cache: "no-store", method: body === undefined ? "GET" : "POST" };
    answer = await fetch(path, body === undefined ? options : { ...options, body: JSON.stringify(body) });
  } catch {
    throw new Refused("The server does not answer. Is it still running?", 0);
  }
  if (answer.status === 401) {
    await askForToken();
    return ask(path, body);
  }
  const data = await answer.json().catch(() => null);
  if (!answer.ok) throw new Refused(data?.detail ?? data?.error ?? `The server says ${answer.status}.`, answer.status);
  return data;
}

/** Let the person type the token; resolves when there is one to try. */
async function askForToken() {
  const dialog = document.getElementById("token");
  const field = document.getElementById("token-value");
  document.getElementById("token-problem").hidden = token === null;
  field.value = "";
  if (!dialog.open) dialog.showModal();
  field.focus();
  await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  token = field.value;
  sessionStorage.setItem(KEY, token);
}

/** What lines share: one request is under way at a time, and those that were made first go first. */
export class Gate {
  busy = false;
  lines = [];

  next() {
    for (const line of this.lines) {
      if (this.busy) return;
      line.next();
    }
  }
}

/**
 * A line to /predict in which only the newest question waits.
 *
 * `send(question)` goes out at once where nothing is under way, else later; what waited before is dropped.
 */
export class Line {
  #waiting = null;
  #wanted = 0;

  constructor(gate, onAnswer, onProblem) {
    this.gate = gate;
    this.onAnswer = onAnswer;
    this.onProblem = onProblem;
    gate.lines.push(this);
  }

  send(question) {
    this.#wanted += 1;
    this.#waiting = { question, number: this.#wanted };
    this.gate.next();
  }

  /** Forget what waits, and the answer to what is under way. */
  drop() {
    this.#wanted += 1;
    this.#waiting = null;
  }

  /** Send what waits; the gate is open. */
  async next() {
    if (this.#waiting === null) return;
    const { question, number } = this.#waiting;
    this.#waiting = null;
    this.gate.busy = true;
    try {
      const answer = await ask("/predict", question());
      // While one draws, an answer to a moment ago is worth showing; after `drop` none is.
      if (number === this.#wanted || this.#waiting !== null) this.onAnswer(answer);
    } catch (error) {
      if (number === this.#wanted) this.onProblem(error);
    } finally {
      this.gate.busy = false;
      this.gate.next();
    }
  }
}

/** Return a function that calls `action` once nothing has called it for so many milliseconds. */
export function calmed(action, milliseconds) {
  let timer = 0;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => action(...values), milliseconds);
  };
}
