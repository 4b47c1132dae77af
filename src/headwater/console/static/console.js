// What every page has: fresh parts, keys, the palette, confirmations, copying.
// Pages are complete without it; it only saves reloading and reaching for the mouse.

import { onRefresh, refresh, watch } from "/static/live.js";
import { bindKeys } from "/static/keys.js";
import { bindPalette } from "/static/palette.js";

export const csrf = () => document.querySelector('meta[name="csrf"]').content;

// `cli` is the command that would have done the same.
export function toast(text, cli = "") {
  const line = document.createElement("div");
  line.className = "toast";
  line.textContent = text;
  if (cli) {
    const command = document.createElement("code");
    command.textContent = cli;
    line.append(command);
  }
  document.getElementById("toasts").append(line);
  setTimeout(() => line.remove(), 6000);
}

export async function confirmed(text, cli = "") {
  const dialog = document.getElementById("confirm");
  dialog.querySelector("#confirm-text").textContent = text;
  dialog.querySelector("#confirm-cli").textContent = cli;
  dialog.returnValue = ""; // in some browsers Escape leaves the last answer
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", function closed() {
      if (dialog.open) return; // this was the end of the question before
      dialog.removeEventListener("close", closed);
      resolve(dialog.returnValue === "yes");
    });
  });
}

// Runs an operation; the answer, or an error whose message is for people.
export async function call(path, parameters = {}) {
  const response = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json", Accept: "application/json", "X-CSRF": csrf() },
    body: JSON.stringify(parameters),
  });
  const answer = await response.json();
  if (!response.ok) throw new Error([answer.detail, answer.hint].filter(Boolean).join(" – "));
  return answer;
}

export const ask = (operation, parameters) => call(`/ask/${operation}`, parameters);
export const act = (operation, parameters) => call(`/actions/${operation}`, parameters);

document.addEventListener("submit", async (event) => {
  const form = event.target;
  if (!(form instanceof HTMLFormElement) || !form.matches('form.action, form[data-action]')) return;
  event.preventDefault();
  const button = event.submitter;
  const cli = button?.dataset.cli ?? "";
  if (form.dataset.confirm && !(await confirmed(form.dataset.confirm, cli))) return;
  if (button) button.disabled = true;
  try {
    const response = await fetch(form.action, {
      method: "POST",
      headers: { Accept: "application/json" },
      body: new URLSearchParams(new FormData(form, button)),
    });
    const answer = await response.json();
    if (!response.ok) throw new Error([answer.detail, answer.hint].filter(Boolean).join(" – "));
    toast(form.dataset.done || "done", cli);
    form.dispatchEvent(new CustomEvent("done", { bubbles: true, detail: answer }));
    await refresh();
  } catch (error) {
    toast(error.message);
  } finally {
    if (button) button.disabled = false;
  }
});

document.addEventListener("click", async (event) => {
  const copy = event.target.closest("[data-copy]");
  if (copy) {
    await navigator.clipboard.writeText(copy.dataset.copy);
    toast("copied");
  }
  const menu = event.target.closest("[data-menu]");
  if (menu) {
    const shown = document.getElementById("navigation").classList.toggle("shown");
    menu.setAttribute("aria-expanded", String(shown));
  }
});

// What scrolls sideways on a narrow screen can be scrolled by the keyboard, too.
function reachScrolled() {
  for (const part of document.querySelectorAll(".scroll")) {
    if (part.scrollWidth > part.clientWidth) part.tabIndex = 0;
    else part.removeAttribute("tabindex");
  }
}

// On a narrow screen a row is a card: each cell needs the heading of its column beside it.
function labelCells() {
  for (const table of document.querySelectorAll("main .scroll > table:not(.differences)")) {
    const names = [...(table.tHead?.rows[0]?.cells ?? [])].map((heading) => heading.textContent.trim());
    table.classList.add("cards");
    for (const row of table.tBodies[0]?.rows ?? []) {
      for (const [n, cell] of [...row.cells].entries()) {
        if (cell.colSpan === 1) cell.dataset.label = names[n] ?? "";
      }
    }
  }
}

function fit() {
  labelCells();
  reachScrolled();
}

bindKeys();
bindPalette();
fit();
onRefresh(fit);
addEventListener("resize", reachScrolled);
watch();
