// A topic: the secret that was made for a URL is in the answer to subscribing only, so it is shown there and then.

document.querySelector("[data-subscribe]")?.addEventListener("done", (event) => {
  const { secret } = event.detail;
  event.target.querySelector("[data-secret]").textContent = secret
    ? `Its secret, shown this once: ${secret}`
    : "";
});
