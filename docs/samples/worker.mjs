// A consumer of a queue that is opened over HTTP: counts the words of notes. Node.js 18 or newer, no packages.
//   QUEUE_URL=http://127.0.0.1:8000/desk/notes COUNTS_URL=http://127.0.0.1:8000/desk/counts API_KEY=hw_… node worker.mjs
const { QUEUE_URL, COUNTS_URL, API_KEY, VISIBILITY_S = "30" } = process.env;
const stop = new AbortController();
for (const signal of ["SIGTERM", "SIGINT"]) process.once(signal, () => stop.abort());

class Unusable extends Error {}

async function call(method, url, body, { signal, ...more } = {}) {
  const headers = { "content-type": "application/json", "x-api-key": API_KEY, ...more };
  const answer = await fetch(url, { method, headers, body: JSON.stringify(body), signal });
  const text = await answer.text();
  if (!answer.ok) throw new Error(`${method} ${url}: ${answer.status} ${text}`);
  return JSON.parse(text);
}

async function count({ event, idempotency_key, traceparent }) {
  const { id, text } = event.data;
  if (!text) throw new Unusable("the note has no text");
  const words = text.split(/\s+/).filter(Boolean).length;
  const once = { "idempotency-key": idempotency_key, traceparent };
  await call("PUT", `${COUNTS_URL}/${encodeURIComponent(id)}`, { id, words }, once);
}

async function result(delivery) {
  const { receipt } = delivery;
  try {
    await count(delivery);
    return { receipt, outcome: "ack" };
  } catch (error) {
    const outcome = error instanceof Unusable ? "dead" : "retry";
    return { receipt, outcome, reason: error.message.slice(0, 2000) };
  }
}

async function workOnce() {
  const { deliveries } = await call("POST", `${QUEUE_URL}/receive`, { max: 10, wait: 20 }, { signal: stop.signal });
  if (!deliveries.length) return;
  const receipts = deliveries.map(({ receipt }) => receipt);
  const extend = () => call("POST", `${QUEUE_URL}/extend`, { receipts }).catch(console.error);
  const holding = setInterval(extend, (VISIBILITY_S * 1000) / 3);
  try {
    const results = await Promise.all(deliveries.map(result));
    await call("POST", `${QUEUE_URL}/results`, { results });
  } finally {
    clearInterval(holding);
  }
}

while (!stop.signal.aborted) {
  try {
    await workOnce();
  } catch (error) {
    if (stop.signal.aborted) break;
    console.error(error.message);
    await new Promise((wake) => setTimeout(wake, 1000));
  }
}
