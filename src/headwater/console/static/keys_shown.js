// API keys: a new key is in the answer to making it only, so it is shown there and then.
// It leaves the page when one leaves or loads it.

document.addEventListener("done", (event) => {
  const { key } = event.detail;
  if (!key || !event.target.closest("[data-makes-key]")) return;
  const card = document.querySelector("[data-shown]");
  card.querySelector("pre").textContent = key;
  card.querySelector("[data-copy]").dataset.copy = key;
  card.hidden = false;
  card.scrollIntoView({ block: "center" });
});
