// A table's page: deletes all rows that its filters leave, after counting them.
// It ends with as many as were counted, whatever is written meanwhile.

import { act, ask, confirmed } from "/static/console.js";
import { refresh } from "/static/live.js";
import { begin, count, removeSlices } from "/static/progress.js";

const button = document.querySelector("[data-remove-all]");
const box = document.querySelector("[data-progress]");

async function countRows(parameters, work) {
  let found = 0;
  let cursor = null;
  do {
    const page = await ask("table-query", { ...parameters, limit: 1000, cursor });
    found += page.items.length;
    cursor = page.cursor;
    work.show(`${count(found, "row")} counted`);
  } while (cursor && !work.stopped);
  return work.stopped ? 0 : found;
}

async function removeAll() {
  const parameters = JSON.parse(button.dataset.parameters);
  delete parameters.reverse;
  const work = begin(box);
  button.disabled = true;
  try {
    const total = await countRows(parameters, work);
    const sure = total && (await confirmed(`Delete ${count(total, "row")} from ${parameters.table}?`, button.dataset.cli));
    const slice = (limit) => act("table-clear", { ...parameters, limit });
    const done = sure ? await removeSlices(slice, total, "row", work) : 0;
    work.end(total ? `${count(done, "row")} deleted` : "no row matches");
  } catch (error) {
    work.end(error.message);
  }
  button.disabled = false;
  await refresh();
}

if (button) {
  button.hidden = false;
  button.addEventListener("click", removeAll);
}
