// Imports a file of JSON lines in slices. Lines go on as they are: numbers beyond 53 bits must arrive as they were.
// What is refused is listed with the number of its line.

import { csrf } from "/static/console.js";
import { begin, count } from "/static/progress.js";

const ROWS = 200;
const SIZE = 256 * 1024;
const SHOWN = 200;
const form = document.querySelector("form[data-import]");

async function* linesOf(file) {
  let rest = "";
  let read = 0;
  for (const reader = file.stream().getReader(), decoder = new TextDecoder("utf-8", { fatal: true }); ; ) {
    const { value, done } = await reader.read();
    read += value?.length ?? 0;
    const lines = (rest + decoder.decode(value, { stream: !done })).split(/\r?\n/);
    rest = done ? "" : lines.pop();
    for (const line of lines) yield { line, read };
    if (done) return;
  }
}

function checked(line) {
  const row = JSON.parse(line);
  if (row === null || typeof row !== "object" || Array.isArray(row)) throw new SyntaxError("it is no JSON object");
}

async function send(table, ifAbsent, slice) {
  const rows = slice.map(({ line }) => line).join(",");
  const response = await fetch("/actions/table-import", {
    method: "POST",
    headers: { "Content-Type": "application/json", Accept: "application/json", "X-CSRF": csrf() },
    body: `{"table":${JSON.stringify(table)},"if_absent":${ifAbsent},"rows":[${rows}]}`,
  });
  const answer = await response.json();
  if (!response.ok) throw new Error([answer.detail, answer.hint].filter(Boolean).join(" – "));
  return answer;
}

function tell(number, why) {
  const section = document.querySelector("[data-refused]");
  const body = section.querySelector("tbody");
  section.hidden = false;
  if (body.rows.length >= SHOWN) return;
  const row = body.insertRow();
  row.insertCell().textContent = number;
  row.insertCell().textContent = why;
  row.cells[0].className = "number";
}

async function importFile(file, table, ifAbsent, work) {
  let [number, written, refused, size] = [0, 0, 0, 0];
  let slice = [];
  const refuse = (line, why) => {
    refused += 1;
    tell(line, why);
  };
  const words = () => `${count(written, "row")} written, ${refused.toLocaleString("en")} refused`;
  const flush = async (read) => {
    const answer = slice.length ? await send(table, ifAbsent, slice) : { written: 0, refused: [] };
    written += answer.written;
    for (const { row, detail } of answer.refused) refuse(slice[row].number, detail);
    [slice, size] = [[], 0];
    work.show(words(), read, file.size);
  };
  for await (const { line, read } of linesOf(file)) {
    number += 1;
    if (work.stopped) break;
    if (!line.trim()) continue;
    try {
      checked(line);
    } catch (error) {
      refuse(number, error.message);
      continue;
    }
    slice.push({ line, number });
    size += line.length;
    if (slice.length === ROWS || size > SIZE) await flush(read);
  }
  if (!work.stopped) await flush(file.size);
  return words();
}

form?.addEventListener("submit", async (event) => {
  event.preventDefault();
  document.querySelector("[data-refused] tbody").replaceChildren();
  const work = begin(document.querySelector("[data-progress]"));
  const button = form.querySelector("button");
  button.disabled = true;
  try {
    const { file, if_absent: ifAbsent } = form.elements;
    work.end(await importFile(file.files[0], form.dataset.import, ifAbsent.checked, work));
  } catch (error) {
    work.end(error.message);
  }
  button.disabled = false;
});
