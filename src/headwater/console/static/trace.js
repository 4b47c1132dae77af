// A trace: "Copy as pytest" copies the test at once; without this script its link shows the test.

import { ask, toast } from "/static/console.js";

document.addEventListener("click", async (event) => {
  const link = event.target.closest("[data-copy-test]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  try {
    const { code } = await ask("trace-test", { id: link.dataset.copyTest });
    await navigator.clipboard.writeText(code);
    toast("the test is copied");
  } catch (error) {
    if (error.name === "NotAllowedError") location.href = link.href;
    else toast(error.message);
  }
});
