// The editor of a row: says what is wrong with it, and what somebody else has made of the row meanwhile.
// Documents stay texts here: numbers beyond 53 bits must come back as they were.

import { toast } from "/static/console.js";
import { onRefresh } from "/static/live.js";

const form = document.querySelector("form[data-row]");
const text = form?.elements.value;
const problem = document.getElementById("problem");
const conflict = document.querySelector("[data-conflict]");

function element(name, content, attributes = {}) {
  const made = document.createElement(name);
  made.append(...[content].flat());
  for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value);
  return made;
}

function complain(answer) {
  const lines = [[answer.detail, answer.hint].filter(Boolean).join(" – ")];
  for (const error of answer.errors ?? []) lines.push(`${(error.loc ?? []).join(".")}: ${error.msg}`);
  problem.replaceChildren(...lines.map((line) => element("div", line)));
  problem.hidden = false;
}

// The row as it is now: of a page that is loaded anew.
async function present() {
  const response = await fetch(location.href, { headers: { Accept: "text/html" } });
  if (!response.ok) return null;
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  const version = page.querySelector("form[data-row] [name=if_version]")?.value;
  return version ? { version, document: page.getElementById("document").value } : null;
}

function take(row) {
  text.value = text.defaultValue = row.document;
  adopt(row.version);
}

function adopt(version) {
  form.elements.if_version.value = version;
  form.querySelector("[data-version]").textContent = version;
  problem.hidden = true;
  conflict.hidden = true;
}

function marked(document, other) {
  const known = new Set(other.split("\n").map((line) => line.replace(/,$/, "")));
  const lines = document.split("\n").map((line) => {
    const same = known.has(line.replace(/,$/, ""));
    return same ? `${line}\n` : element("mark", `${line}\n`);
  });
  return element("pre", lines, { tabindex: "0" });
}

async function showConflict() {
  const theirs = await present();
  if (!theirs) {
    conflict.replaceChildren(element("p", "The row was deleted meanwhile."));
    conflict.hidden = false;
    return;
  }
  const taking = element("button", "Take it", { type: "button", class: "quiet" });
  taking.addEventListener("click", () => take(theirs));
  const keeping = element("button", "Keep mine", { type: "button", class: "quiet" });
  keeping.addEventListener("click", () => adopt(theirs.version));
  conflict.replaceChildren(
    element("h2", "The row was changed meanwhile"),
    marked(theirs.document, JSON.stringify(JSON.parse(text.value), null, 2)),
    element("p", [taking, " ", keeping], { class: "buttons" }),
    element("p", "“Keep mine” lets you save over it.", { class: "muted" }),
  );
  conflict.hidden = false;
}

async function save(button) {
  const response = await fetch(form.action, {
    method: "POST",
    headers: { Accept: "application/json" },
    body: new URLSearchParams(new FormData(form, button)),
  });
  const answer = await response.json();
  if (!response.ok) {
    complain(answer);
    if (answer.error === "ConditionFailed" && form.elements.if_version) await showConflict();
  } else if (form.elements.if_version) {
    toast("saved", button?.dataset.cli);
    take({ version: answer.version, document: text.value });
  } else location.assign(`/tables/${form.dataset.table}/row?key=${encodeURIComponent(JSON.stringify(answer.key))}`);
}

form?.addEventListener("submit", async (event) => {
  event.preventDefault();
  event.stopPropagation();
  problem.hidden = true;
  const button = event.submitter;
  if (button) button.disabled = true;
  try {
    JSON.parse(text.value);
    await save(button);
  } catch (error) {
    complain({ detail: error instanceof SyntaxError ? `This is no JSON: ${error.message}` : error.message });
  } finally {
    if (button) button.disabled = false;
  }
});

// Deleted: there is nothing more to show here.
document.addEventListener("done", (event) => location.assign(event.target.elements.back.value));

// What others write is shown at once, unless something was typed already: then saving tells of it.
onRefresh(async () => {
  const version = document.getElementById("present")?.value;
  if (!form?.elements.if_version || !version || version === form.elements.if_version.value) return;
  if (text.value !== text.defaultValue) return;
  const row = await present();
  if (row && text.value === text.defaultValue) take(row);
});
