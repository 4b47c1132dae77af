// A bar with words and a way to stop, for work that is done in slices.
// `each` does a task for every item, a few at a time; `removeSlices` has a server remove many.

const AT_ONCE = 6;
const SLICE = 200;

export function begin(box) {
  const bar = box.querySelector("progress");
  const words = box.querySelector("[role=status]");
  const stop = box.querySelector("[data-stop]");
  const work = { stopped: false, show, end };
  stop.hidden = false;
  stop.onclick = () => (work.stopped = true);
  box.hidden = false;

  function show(text, done, total) {
    words.textContent = text;
    if (total) {
      bar.max = total;
      bar.value = done;
    } else bar.removeAttribute("value");
  }

  function end(text) {
    show(text, 1, 1);
    stop.hidden = true;
  }
  return work;
}

// Ends at the first failure, and throws it.
export async function each(items, task) {
  const left = [...items];
  const worker = async () => {
    while (left.length) await task(left.shift());
  };
  try {
    await Promise.all(Array.from({ length: AT_ONCE }, worker));
  } finally {
    left.length = 0;
  }
}

// Has slices removed until as many are gone as were counted; how many that were.
export async function removeSlices(remove, total, noun, work) {
  let done = 0;
  while (done < total && !work.stopped) {
    const { removed } = await remove(Math.min(SLICE, total - done));
    if (!removed) break;
    done += removed;
    work.show(`${done.toLocaleString("en")} of ${count(total, noun)} deleted`, done, total);
  }
  return done;
}

export const count = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
