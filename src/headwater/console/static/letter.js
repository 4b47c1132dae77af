// One dead letter: tries its handler out on the message as it is edited, tells what it would do, and redrives it.
// What is refused leaves the edit as it is.

import { act, toast } from "/static/console.js";

const form = document.querySelector("form[data-letter]");
const button = document.querySelector("[data-dry-run]");

function line(tag, text, className = "") {
  const node = document.createElement(tag);
  node.textContent = text;
  node.className = className;
  return node;
}

function json(value) {
  const node = line("pre", JSON.stringify(value, null, 2), "json");
  node.tabIndex = 0;
  return node;
}

function told(answer) {
  const good = answer.outcome === "ok" || answer.outcome === "filtered";
  const lines = [line("p", [answer.outcome, answer.error].filter(Boolean).join(": "), good ? "badge good" : "problem")];
  if (answer.traceback) lines.push(line("pre", answer.traceback));
  for (const write of answer.writes) {
    lines.push(line("h3", `would ${write.data === null ? "remove" : "write"} ${write.table} ${JSON.stringify(write.key)}`));
    if (write.data !== null) lines.push(json(write.data));
  }
  for (const sent of answer.sends) lines.push(line("h3", `would send to ${sent.to}`), json(sent.data));
  if (good && !answer.writes.length && !answer.sends.length) lines.push(line("p", "it would write and send nothing", "muted"));
  return lines;
}

const edited = () => form.elements.data.value !== form.elements.data.defaultValue;

// The message goes along only if it was edited: another one is another event.
function parameters() {
  return edited() ? { data: JSON.parse(form.elements.data.value) } : {};
}

async function rehearse() {
  const answer = await act("dry-run", { id: Number(form.dataset.letter), ...parameters() });
  document.querySelector("[data-outcome]").replaceChildren(...told(answer));
  document.getElementById("dry-run").hidden = false;
}

async function redrive() {
  const reason = form.elements.reason.value;
  const answer = await act("redrive", { ids: [Number(form.dataset.letter)], reason, ...parameters() });
  if (answer.missing.length) throw new Error("the dead letter is gone: somebody has redriven or discarded it");
  location.href = form.elements.back.value;
}

async function run(work, button) {
  button.disabled = true;
  try {
    await work();
  } catch (error) {
    toast(error.message);
  }
  button.disabled = false;
}

if (button) {
  button.disabled = false;
  button.addEventListener("click", () => run(rehearse, button));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    run(redrive, event.submitter ?? button);
  });
}
