// Dead letters: redrives or discards those that are selected, or slice by slice all that the filter chooses.
// With a rate it waits between slices; it can be stopped after each.

import { act, confirmed, toast } from "/static/console.js";
import { onRefresh, refresh } from "/static/live.js";
import { begin, count } from "/static/progress.js";

const SLICE = 500;
const SLICES_A_SECOND = 4;
const WORDS = { redrive: "redriven", discard: "discarded" };
const form = document.querySelector("[data-bulk]");
const box = document.querySelector("[data-progress]");

const boxes = () => [...document.querySelectorAll("[data-letter]")];
const matching = () => Number(document.querySelector("[data-total]").dataset.total);
const selected = () => boxes().filter((one) => one.checked).map((one) => Number(one.dataset.letter));

function show() {
  const any = selected().length > 0;
  for (const button of form.querySelectorAll("[data-which]")) button.disabled = button.dataset.which === "selected" && !any;
}

// Ids, or a filter: one answer of the operation after the other, until there is no next.
async function* slices(verb, ids, filter, parameters, size) {
  if (ids) {
    for (let at = 0; at < ids.length; at += size) yield act(verb, { ids: ids.slice(at, at + size), ...parameters });
    return;
  }
  let place = {};
  do {
    const answer = await act(verb, { ...filter, ...parameters, ...place, limit: size });
    place = { after: answer.next, until: answer.until };
    yield answer;
  } while (place.after !== null);
}

async function settle(verb, ids) {
  const rate = Number(form.elements.rate.value) || 0;
  const size = rate ? Math.max(1, Math.min(SLICE, Math.floor(rate / SLICES_A_SECOND))) : SLICE;
  const parameters = { reason: form.elements.reason.value };
  const total = ids ? ids.length : matching();
  const work = begin(box);
  let done = 0;
  for await (const answer of slices(verb, ids, JSON.parse(form.dataset.filter), parameters, size)) {
    done += answer.ids.length;
    work.show(`${done} of ${count(total, "dead letter")} ${WORDS[verb]}`, done, Math.max(total, done));
    if (work.stopped) break;
    if (rate) await new Promise((resolve) => setTimeout(resolve, (1000 * answer.ids.length) / rate));
  }
  work.end(`${count(done, "dead letter")} ${WORDS[verb]}${work.stopped ? ", then stopped" : ""}`);
}

if (form) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const { name: verb, dataset } = event.submitter;
    const ids = dataset.which === "selected" ? selected() : null;
    const total = ids ? ids.length : matching();
    const ending = verb === "discard" ? " They are gone for good." : "";
    if (!(await confirmed(`${verb === "discard" ? "Discard" : "Redrive"} ${count(total, "dead letter")}?${ending}`, dataset.cli))) return;
    for (const button of form.querySelectorAll("button")) button.disabled = true;
    try {
      await settle(verb, ids);
    } catch (error) {
      toast(error.message);
    }
    await refresh();
    show();
  });
  document.addEventListener("change", (event) => {
    if (event.target.matches("[data-select-all]")) for (const one of boxes()) one.checked = event.target.checked;
    show();
  });
  onRefresh(show);
  show();
}
