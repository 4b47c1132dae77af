// What every page has: fresh parts, keys, the palette, confirmations, copying.
// Pages are complete without it; it only saves reloading and reaching for the mouse.

import { onRefresh, refresh, watch } from "/static/live.js";
import { bindKeys } from "/static/keys.js";
import { bindPalette } from "/static/palette.js";

export const csrf = () => document.querySelector('meta[name="csrf"]').content;

export function toast(text) {
  const line = document.createElement("div");
  line.className = "toast";
  line.textContent = text;
  document.getElementById("toasts").append(line);
  setTimeout(() => line.remove(), 6000);
}

export async function confirmed(text) {
  const dialog = document.getElementById("confirm");
  dialog.querySelector("#confirm-text").textContent = text;
  dialog.showModal();
  return new Promise((resolve) =>
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true }),
  );
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
  if (form.dataset.confirm && !(await confirmed(form.dataset.confirm))) return;
  const button = event.submitter;
  if (button) button.disabled = true;
  try {
    const response = await fetch(form.action, {
      method: "POST",
      headers: { Accept: "application/json" },
      body: new URLSearchParams(new FormData(form, button)),
    });
    const answer = await response.json();
    if (!response.ok) throw new Error([answer.detail, answer.hint].filter(Boolean).join(" – "));
    toast(form.dataset.done || "done");
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

bindKeys();
bindPalette();
reachScrolled();
onRefresh(reachScrolled);
addEventListener("resize", reachScrolled);
watch();
