// The clock: tells that time passes, which may take a while, and what was still busy where it stopped.
// The buttons are forms that `console.js` sends.

const told = document.querySelector("[data-told]");

document.addEventListener("submit", (event) => {
  if (told && event.target.action.includes("/actions/clock-")) told.textContent = "time passes…";
});

document.addEventListener("done", (event) => {
  const { time, busy } = event.detail;
  if (told && time) told.textContent = busy || `It is ${time.slice(0, 19).replace("T", " ")} UTC.`;
});
