// The list of queues: one operation on each of those that are shown, with progress.

import { act, confirmed } from "/static/console.js";
import { refresh } from "/static/live.js";

const bulk = document.querySelector("[data-bulk]");
if (bulk) {
  bulk.hidden = false;
  bulk.addEventListener("click", (event) => {
    const operation = event.target.dataset.each;
    if (operation) run(operation, event.target.dataset.cli);
  });
}

async function run(operation, cli) {
  const names = [...document.querySelectorAll("[data-queue]")].map((link) => link.dataset.queue);
  if (!(await confirmed(`${operation} ${names.length} queues?`, cli))) return;
  const bar = bulk.querySelector("progress");
  const status = bulk.querySelector('[role="status"]');
  const buttons = bulk.querySelectorAll("button");
  buttons.forEach((button) => (button.disabled = true));
  bar.hidden = false;
  bar.max = names.length;
  const failed = [];
  for (const [done, queue] of names.entries()) {
    bar.value = done;
    status.textContent = `${done} of ${names.length}`;
    await act(operation, { queue }).catch((error) => failed.push(`${queue}: ${error.message}`));
  }
  bar.hidden = true;
  status.textContent = failed.length ? failed.join("; ") : `${operation}: ${names.length} queues`;
  buttons.forEach((button) => (button.disabled = false));
  await refresh();
}
