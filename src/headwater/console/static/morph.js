// Makes a part of the page look like a fresh one with as few changes as can be: what stays the same keeps its place,
// its focus, what is typed in it, whether it is open, how far it is scrolled, and its animations.

export function morph(old, fresh) {
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && !(name === "open" && old.localName === "details")) old.removeAttribute(name);
  }
  morphChildren(old, fresh);
}

export function morphChildren(old, fresh) {
  const named = new Map([...old.children].filter((child) => child.id).map((child) => [child.id, child]));
  let at = old.firstChild;
  for (const next of [...fresh.childNodes]) {
    const known = named.get(next.id);
    if (known && known !== at) old.insertBefore(known, at);
    else if (at && (known || alike(at, next))) at = at.nextSibling;
    else {
      old.insertBefore(next, at);
      continue;
    }
    const present = at ? at.previousSibling : old.lastChild;
    if (next.nodeType === Node.ELEMENT_NODE) morph(present, next);
    else if (present.data !== next.data) present.data = next.data;
  }
  while (at) {
    const gone = at;
    at = at.nextSibling;
    gone.remove();
  }
}

function alike(one, other) {
  return one.nodeName === other.nodeName && (one.id ?? "") === (other.id ?? "");
}
