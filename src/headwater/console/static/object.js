// An object's page: when the object was deleted here, its folder is shown.

document.addEventListener("done", (event) => location.assign(event.target.elements.back.value));
