// A bucket's page: uploads of dropped and chosen files with progress, and deleting all objects of a prefix.
// Uploads are XMLHttpRequests: fetch doesn't tell how much was sent.

import { act, ask, confirmed, csrf } from "/static/console.js";
import { refresh } from "/static/live.js";
import { begin, count, each, removeSlices } from "/static/progress.js";

const drop = document.querySelector("[data-drop]");
const button = document.querySelector("[data-remove-all]");

function lineOf(key) {
  const line = document.createElement("li");
  const name = document.createElement("span");
  const bar = document.createElement("progress");
  const state = document.createElement("span");
  name.textContent = key;
  bar.setAttribute("aria-label", `Upload of ${key}`);
  bar.max = 1;
  bar.value = 0;
  state.textContent = "waits";
  line.append(name, bar, state);
  drop.querySelector(".uploads").append(line);
  return { line, bar, state };
}

function upload({ file, key, shown }) {
  const { line, bar, state } = shown;
  const asked = new URLSearchParams({ bucket: drop.dataset.bucket, key });
  if (drop.querySelector("[data-new]").checked) asked.set("new", "1");
  const request = new XMLHttpRequest();
  request.open("PUT", `/objects?${asked}`);
  request.setRequestHeader("X-CSRF", csrf());
  request.setRequestHeader("Accept", "application/json");
  request.setRequestHeader("Content-Type", file.type || "application/octet-stream");
  request.responseType = "json";
  request.upload.addEventListener("progress", (event) => {
    bar.value = event.total ? event.loaded / event.total : 1;
    state.textContent = `${Math.floor(bar.value * 100)} %`;
  });
  return new Promise((resolve) => {
    request.addEventListener("loadend", () => {
      const answer = request.response;
      const ok = request.status === 200;
      bar.value = ok ? 1 : bar.value;
      state.textContent = ok ? "stored" : (answer?.detail ?? "the connection was lost");
      if (!ok) line.dataset.failed = state.dataset.failed = "";
      resolve();
    });
    request.send(file);
  });
}

// Files of dropped folders keep their places in it.
async function filesOf(entry, place = "") {
  if (entry.isFile) return [{ file: await new Promise((done, fail) => entry.file(done, fail)), path: place + entry.name }];
  const reader = entry.createReader();
  const found = [];
  for (let some; (some = await new Promise((done, fail) => reader.readEntries(done, fail))).length; ) {
    for (const child of some) found.push(...(await filesOf(child, `${place}${entry.name}/`)));
  }
  return found;
}

async function uploadAll(files) {
  const waiting = files.map(({ file, path }) => {
    const key = drop.dataset.prefix + path;
    return { file, key, shown: lineOf(key) };
  });
  await each(waiting, upload);
  await refresh();
}

function bindUploads() {
  const over = (event) => {
    event.preventDefault();
    drop.dataset.over = "";
  };
  drop.addEventListener("dragenter", over);
  drop.addEventListener("dragover", over);
  drop.addEventListener("dragleave", () => delete drop.dataset.over);
  drop.addEventListener("drop", async (event) => {
    event.preventDefault();
    delete drop.dataset.over;
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry()).filter(Boolean);
    const plain = [...event.dataTransfer.files].map((file) => ({ file, path: file.name }));
    uploadAll(entries.length ? (await Promise.all(entries.map((entry) => filesOf(entry)))).flat() : plain);
  });
  drop.querySelector("input[type=file]").addEventListener("change", (event) => {
    uploadAll([...event.target.files].map((file) => ({ file, path: file.name })));
    event.target.value = "";
  });
}

async function countObjects(bucket, prefix, work) {
  let found = 0;
  let cursor = null;
  do {
    const page = await ask("bucket-list", { bucket, prefix, limit: 1000, cursor });
    found += page.items.length;
    cursor = page.cursor;
    work.show(`${count(found, "object")} counted`);
  } while (cursor && !work.stopped);
  return work.stopped ? 0 : found;
}

async function removeAll() {
  const { bucket, prefix } = button.dataset;
  const work = begin(document.querySelector("[data-progress]"));
  button.disabled = true;
  try {
    const total = await countObjects(bucket, prefix, work);
    const sure = total && (await confirmed(`Delete ${count(total, "object")} from ${bucket}?`, button.dataset.cli));
    const slice = (limit) => act("bucket-clear", { bucket, prefix, limit });
    const done = sure ? await removeSlices(slice, total, "object", work) : 0;
    work.end(total ? `${count(done, "object")} deleted` : "no object matches");
  } catch (error) {
    work.end(error.message);
  }
  button.disabled = false;
  await refresh();
}

if (drop) bindUploads();
if (button) {
  button.hidden = false;
  button.addEventListener("click", removeAll);
}
