// What stands on a page against WCAG 2 A and AA, as far as a program sees it: a list of "rule: element".
// An expression whose value is a function; it scrolls and focuses, and puts both back.

(() => {
  const found = new Set();
  const tell = (rule, element) => found.add(`${rule}: ${describe(element)}`);

  function describe(element) {
    const id = element.id ? `#${element.id}` : "";
    const kind = typeof element.className === "string" && element.className ? `.${element.className.split(" ")[0]}` : "";
    const text = (element.textContent ?? "").replace(/\s+/g, " ").trim().slice(0, 40);
    const parent = element.parentElement ? element.parentElement.localName : "";
    return `${parent}>${element.localName}${id}${kind} ${JSON.stringify(text)}`;
  }

  const all = (selector) => [...document.querySelectorAll(selector)];
  const shown = (element) =>
    element.checkVisibility({ visibilityProperty: true, opacityProperty: false }) &&
    !element.closest('[aria-hidden="true"]');

  function nameOf(element) {
    const labelled = (element.getAttribute("aria-labelledby") ?? "")
      .split(" ")
      .map((id) => document.getElementById(id)?.textContent ?? "")
      .join(" ")
      .trim();
    const labels = [...(element.labels ?? [])].map((label) => ownText(label, element)).join(" ").trim();
    const content = element.matches("input, select, textarea") ? "" : contentName(element);
    return labelled || element.getAttribute("aria-label") || labels || content || element.getAttribute("title") || "";
  }

  function ownText(label, without) {
    const copy = label.cloneNode(true);
    for (const inner of copy.querySelectorAll("select, textarea, .hint")) inner.remove();
    return without ? copy.textContent.trim() : "";
  }

  function contentName(element) {
    const images = [...element.querySelectorAll("img[alt], [aria-label], svg > title")];
    const named = images.map((one) => one.getAttribute("alt") ?? one.getAttribute("aria-label") ?? one.textContent);
    return `${element.textContent} ${named.join(" ")}`.trim();
  }

  function checkDocument() {
    if (!document.documentElement.lang) tell("the page has no language", document.documentElement);
    if (!document.title.trim()) tell("the page has no title", document.documentElement);
    if (all("main").length !== 1) tell("not one main", document.body);
    if (all("h1").filter(shown).length !== 1) tell("not one first heading", document.body);
    const viewport = document.querySelector('meta[name="viewport"]')?.content ?? "";
    if (!viewport || /user-scalable=no|maximum-scale/.test(viewport)) tell("no zoom", document.documentElement);
    let level = 0;
    for (const heading of all("h1, h2, h3, h4, h5, h6").filter(shown)) {
      const next = Number(heading.localName[1]);
      if (next > level + 1) tell("a level of headings is left out", heading);
      if (!heading.textContent.trim()) tell("empty heading", heading);
      level = next;
    }
    const navigations = all("nav").filter(shown);
    for (const one of navigations) if (navigations.length > 1 && !nameOf(one)) tell("navigation without a name", one);
    for (const child of document.body.children) {
      const apart = child.matches("header, nav, main, footer, aside, dialog, script, .skip, [role=status], [role=alert]");
      if (shown(child) && !apart) tell("outside of landmarks", child);
    }
  }

  function checkReferences() {
    const seen = new Set();
    for (const element of all("[id]")) {
      if (seen.has(element.id)) tell("id twice", element);
      seen.add(element.id);
    }
    for (const name of ["aria-labelledby", "aria-describedby", "aria-controls", "aria-owns", "for", "list"]) {
      for (const element of all(`[${name}]`)) {
        const gone = element.getAttribute(name).split(" ").filter((id) => id && !seen.has(id));
        if (gone.length) tell(`${name} leads nowhere`, element);
      }
    }
  }

  function checkNames() {
    for (const field of all("input:not([type=hidden]), select, textarea").filter(shown)) {
      if (!nameOf(field)) tell("field without a label", field);
    }
    for (const control of all("button, a[href], summary, [role=button], [role=link], [role=tab]").filter(shown)) {
      if (!nameOf(control)) tell("control without a name", control);
      if (control.parentElement.closest("a[href], button, summary")) tell("control in a control", control);
    }
    for (const image of all("img")) if (!image.hasAttribute("alt")) tell("image without alt", image);
    for (const drawing of all("svg").filter(shown)) {
      const known = nameOf(drawing) || drawing.querySelector(":scope > title") || drawing.closest("a, button, [role=img]");
      if (!known) tell("drawing without a name", drawing);
    }
    for (const dialog of all("dialog, [role=dialog], [role=listbox], [role=img], [role=meter], meter, progress, iframe")) {
      const text = dialog.localName === "dialog" && dialog.hasAttribute("aria-labelledby");
      if (!text && !nameOf(dialog)) tell("part without a name", dialog);
    }
    for (const element of all("[tabindex]")) if (element.tabIndex > 0) tell("tabindex above 0", element);
    for (const hidden of all('[aria-hidden="true"]')) {
      const inner = hidden.querySelector("a[href], button, input, select, textarea, [tabindex='0']");
      if (inner && inner.checkVisibility()) tell("can be focused, but is hidden", inner);
    }
  }

  function checkStructure() {
    for (const table of all("table").filter(shown)) {
      if (!table.querySelector("th")) tell("table without headings", table);
      for (const head of table.querySelectorAll("thead th")) {
        if (!contentName(head) && !head.getAttribute("aria-label")) tell("empty heading of a column", head);
      }
    }
    for (const list of all("ul, ol")) {
      const wrong = [...list.children].find((child) => !child.matches("li, template, script"));
      if (wrong) tell("no item of its list", wrong);
    }
    for (const list of all("dl")) {
      const wrong = [...list.children].find((child) => !child.matches("dt, dd, div, template, script"));
      if (wrong) tell("no term of its list", wrong);
    }
    for (const item of all("li")) if (!item.parentElement.matches("ul, ol, menu")) tell("item without a list", item);
    for (const term of all("dt, dd")) if (!term.closest("dl")) tell("term without a list", term);
    for (const box of all("body *").filter(shown)) {
      const style = getComputedStyle(box);
      const across = /auto|scroll/.test(style.overflowX) && box.scrollWidth > box.clientWidth + 1;
      const down = /auto|scroll/.test(style.overflowY) && box.scrollHeight > box.clientHeight + 1;
      if (!(across || down) || box.matches("textarea, select, input")) continue;
      const reachable = box.tabIndex >= 0 || box.querySelector("a[href], button, input, select, textarea, summary, [tabindex='0']");
      if (!reachable) tell("scrolls, but not by keyboard", box);
    }
  }

  // How the shapes of a control in a drawing are outlined.
  function strokes(element) {
    const shapes = element instanceof SVGElement ? [...element.querySelectorAll("*")] : [];
    return shapes.map(getComputedStyle).map((style) => `${style.stroke} ${style.strokeWidth} ${style.outlineStyle}`).join();
  }

  function checkFocus() {
    const before = document.activeElement;
    for (const element of all("a[href], button, input, select, textarea, summary, [tabindex='0']").filter(shown)) {
      if (element.disabled || element.matches("[type=hidden]")) continue;
      const plain = strokes(element);
      element.focus({ preventScroll: true, focusVisible: true });
      if (document.activeElement !== element) continue;
      const style = getComputedStyle(element);
      const seen = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1;
      if (!seen && style.boxShadow === "none" && strokes(element) === plain) tell("focus cannot be seen", element);
    }
    before?.focus?.({ preventScroll: true });
    if (before === document.body) document.activeElement.blur();
  }

  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });

  function colour(text) {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = "rgb(0 0 0 / 0%)";
    canvas.fillStyle = text;
    canvas.fillRect(0, 0, 1, 1);
    const [red, green, blue, alpha] = canvas.getImageData(0, 0, 1, 1).data;
    return [red, green, blue, alpha / 255];
  }

  const over = (top, ground, alpha) => top.slice(0, 3).map((part, at) => part * alpha + ground[at] * (1 - alpha));

  function luminance(parts) {
    const [red, green, blue] = parts.map((part) => {
      const share = part / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  }

  function contrast(one, other) {
    const [less, more] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (more + 0.05) / (less + 0.05);
  }

  function opacityOf(element) {
    let opacity = 1;
    for (let at = element; at; at = at.parentElement) opacity *= Number(getComputedStyle(at).opacity);
    return opacity;
  }

  // What is painted under a text: the backgrounds of its ancestors; for a drawing's text the shapes below its middle.
  function groundOf(element) {
    const layers = element.closest("svg") ? below(element) : ancestors(element);
    let ground = colour(getComputedStyle(document.documentElement).backgroundColor);
    ground = over(ground, [255, 255, 255], ground[3]);
    for (const layer of layers.reverse()) ground = over(layer, ground, layer[3]);
    return ground;
  }

  function ancestors(element) {
    const layers = [];
    for (let at = element; at; at = at.parentElement) layers.push(colour(getComputedStyle(at).backgroundColor));
    return layers;
  }

  function below(element) {
    element.scrollIntoView({ block: "center", inline: "center" });
    const box = element.getBoundingClientRect();
    const stack = document.elementsFromPoint(box.x + box.width / 2, box.y + box.height / 2);
    const painted = stack.filter((one) => one !== element && !["text", "tspan"].includes(one.localName));
    return painted.map((one) => {
      const style = getComputedStyle(one);
      if (!(one instanceof SVGElement) || one.localName === "svg") return colour(style.backgroundColor);
      const filled = ["rect", "circle", "ellipse", "polygon", "path"].includes(one.localName) && style.fill !== "none";
      const layer = filled ? colour(style.fill) : [0, 0, 0, 0];
      return [...layer.slice(0, 3), layer[3] * Number(style.fillOpacity) * Number(style.opacity)];
    });
  }

  function checkContrast() {
    const texts = new Set();
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) if (walker.currentNode.data.trim()) texts.add(walker.currentNode.parentElement);
    for (const field of all("input:not([type=hidden]), select, textarea")) texts.add(field);
    for (const element of texts) {
      if (!element.checkVisibility({ visibilityProperty: true }) || element.matches("script, style, option, title")) continue;
      if (element.closest(":disabled, dialog:not([open])")) continue;
      const box = element.getBoundingClientRect();
      if (box.width < 2 || box.right < 0) continue;
      const style = getComputedStyle(element);
      const text = colour(element.closest("svg") ? style.fill : style.color);
      const ground = groundOf(element);
      const ratio = contrast(over(text, ground, text[3] * opacityOf(element)), ground);
      const size = parseFloat(style.fontSize);
      const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
      if (ratio < (large ? 3 : 4.5)) tell(`contrast ${ratio.toFixed(2)}`, element);
    }
    scrollTo(0, 0);
  }

  function checkWidth() {
    const wide = document.documentElement.scrollWidth;
    if (wide <= innerWidth) return;
    const widest = all("body *").find((one) => one.getBoundingClientRect().right > innerWidth + 1 && !one.closest(".scroll *"));
    tell(`the page is ${wide} px wide, of ${innerWidth}`, widest ?? document.body);
  }

  return () => {
    found.clear();
    for (const check of [checkWidth, checkDocument, checkReferences, checkNames, checkStructure, checkContrast, checkFocus]) {
      check();
    }
    return [...found];
  };
})()
