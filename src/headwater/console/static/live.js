// Keeps a page fresh: one stream tells which topics have changed; a page that shows them fetches its parts anew.
// A hidden tab closes the stream, and looks again when it is shown.

import { morphChildren } from "/static/morph.js";

let source = null;
let known = {};
let refreshing = null;
let following = null;
const listeners = new Set();

// Calls `listener` after parts of the page were replaced.
export function onRefresh(listener) {
  listeners.add(listener);
}

// Shows what is so after the call: a refresh that is under way may have looked before, so another one follows it.
export function refresh() {
  if (!refreshing) return (refreshing = replaceParts().finally(() => (refreshing = null)));
  following ??= refreshing
    .catch(() => {})
    .then(() => {
      following = null;
      return refresh();
    });
  return following;
}

async function replaceParts() {
  const parts = document.querySelectorAll("[data-part]");
  if (!parts.length) return;
  const response = await fetch(location.href, { headers: { Accept: "text/html" } });
  if (!response.ok) return;
  const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
  for (const part of parts) {
    if (part.contains(document.activeElement) && document.activeElement.matches("input, textarea, select")) continue;
    const next = fresh.querySelector(`[data-part="${CSS.escape(part.dataset.part)}"]`);
    if (next && next.innerHTML !== part.innerHTML) morphChildren(part, next);
  }
  for (const listener of listeners) listener();
}

export function watch() {
  const topics = document.body.dataset.topics?.split(" ").filter(Boolean) ?? [];
  const light = document.querySelector("[data-live]");
  const show = (state) => {
    if (!light) return;
    light.dataset.state = state;
    light.textContent = state;
  };
  const open = () => {
    if (source || document.hidden) return;
    source = new EventSource(`/stream?topics=${encodeURIComponent(topics.join(" "))}`);
    source.addEventListener("marks", (event) => {
      show("live");
      const marks = JSON.parse(event.data);
      const stale = topics.some((topic) => topic in marks && topic in known && known[topic] !== marks[topic]);
      known = { ...known, ...marks };
      if (stale) refresh();
    });
    source.addEventListener("error", () => show("lost"));
  };
  const close = () => {
    source?.close();
    source = null;
    show("paused");
  };
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) close();
    else {
      open();
      refresh();
    }
  });
  addEventListener("pagehide", close);
  open();
}
