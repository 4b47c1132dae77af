// The map: choosing an app, or a minute of the last hour, shows it at once.
// The address follows, so that what is shown can be shared, and `back` leads back.

import { refresh } from "/static/live.js";

const form = document.querySelector("[data-map-filters]");
const slider = form.querySelector("[data-scrub]");
const label = form.querySelector("[data-scrub-label]");
let shown = null;

form.addEventListener("submit", (event) => {
  event.preventDefault();
  location.assign(address());
});
form.querySelector("select").addEventListener("change", () => location.assign(address()));

slider.addEventListener("input", () => {
  const live = slider.value === slider.max;
  label.textContent = live ? "now" : `${new Date(slider.value * 60_000).toISOString().slice(11, 16)} UTC`;
  slider.setAttribute("aria-valuetext", label.textContent);
  clearTimeout(shown);
  shown = setTimeout(() => {
    history.replaceState(null, "", address());
    refresh();
  }, 120);
});

function address() {
  const query = new URLSearchParams();
  const app = form.querySelector("select").value;
  if (app) query.set("app", app);
  if (slider.value !== slider.max) query.set("at", slider.value);
  return query.size ? `/?${query}` : "/";
}
