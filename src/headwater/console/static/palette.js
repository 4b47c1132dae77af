// The palette: every screen and resource by a part of its name.

import { ask } from "/static/console.js";

const PLACES = { tables: "/tables/", queues: "/queues/", buckets: "/buckets/", topics: "/topics/", schedules: "/schedules/" };
let entries = null;

export function bindPalette() {
  const dialog = document.getElementById("palette");
  const input = dialog.querySelector("input");
  const list = dialog.querySelector("ul");
  const open = async () => {
    dialog.showModal();
    input.value = "";
    entries ??= await load();
    show();
  };
  const show = () => {
    const wanted = input.value.toLowerCase();
    const found = entries.filter((entry) => entry.name.toLowerCase().includes(wanted)).slice(0, 30);
    list.replaceChildren(...found.map(option));
    list.firstElementChild?.setAttribute("aria-selected", "true");
  };
  document.addEventListener("click", (event) => event.target.closest("[data-palette]") && open());
  document.addEventListener("keydown", (event) => {
    if ((event.metaKey || event.ctrlKey) && event.key === "k") {
      event.preventDefault();
      open();
    }
  });
  input.addEventListener("input", show);
  dialog.addEventListener("keydown", (event) => {
    const at = list.querySelector('[aria-selected="true"]');
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      const next = event.key === "ArrowDown" ? at?.nextElementSibling : at?.previousElementSibling;
      if (next) {
        at.setAttribute("aria-selected", "false");
        next.setAttribute("aria-selected", "true");
        next.scrollIntoView({ block: "nearest" });
      }
    } else if (event.key === "Enter") {
      event.preventDefault();
      at?.querySelector("a").click();
    }
  });
}

async function load() {
  const screens = [...document.querySelectorAll("nav a")].map((link) => ({
    name: link.firstChild.textContent.trim(),
    kind: "screen",
    path: link.getAttribute("href"),
  }));
  const resources = await ask("resources");
  for (const [kind, place] of Object.entries(PLACES)) {
    for (const resource of resources[kind] ?? []) {
      const name = resource.name ?? resource;
      screens.push({ name, kind: kind.slice(0, -1), path: place + name });
    }
  }
  return screens;
}

function option(entry) {
  const item = document.createElement("li");
  item.setAttribute("role", "option");
  item.setAttribute("aria-selected", "false");
  const link = document.createElement("a");
  link.href = entry.path;
  const kind = document.createElement("span");
  kind.className = "muted";
  kind.textContent = entry.kind;
  link.append(entry.name, kind);
  item.append(link);
  return item;
}
