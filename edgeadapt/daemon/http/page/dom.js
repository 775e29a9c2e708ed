// The few things that every part of the page does with the document. Text is always set as text,
// never as markup.

const SVG = "http://www.w3.org/2000/svg";

export const by = (id) => document.getElementById(id);

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(
    ...children.flat(2).filter((child) => child !== null && child !== undefined && child !== false),
  );
  return node;
}

export const make = (tag, attributes = {}, ...children) =>
  fill(document.createElement(tag), attributes, children);
export const draw = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS(SVG, tag), attributes, children);

// Writes only what changed, so that a screen reader is not told the same again.
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function show(node, isShown) {
  if (node.hidden === isShown) node.hidden = !isShown;
}

// Makes the children of a list those of ``rows``, keeping the node of a row whose key and version
// are the same: focus and an open question stay.
export function keep(list, rows, key, version, build) {
  const old = new Map([...list.children].map((node) => [node.dataset.key, node]));
  let place = list.firstElementChild;
  for (const row of rows) {
    const name = String(key(row)),
      mark = String(version(row));
    let node = old.get(name);
    if (node === undefined || (node.dataset.version !== mark && !node.hasAttribute("data-busy"))) {
      const fresh = build(row);
      fresh.dataset.key = name;
      fresh.dataset.version = mark;
      if (node !== undefined) {
        const hadFocus = node.contains(document.activeElement);
        if (place === node) place = fresh;
        node.replaceWith(fresh);
        if (hadFocus) fresh.querySelector("button")?.focus();
      }
      node = fresh;
    }
    old.delete(name);
    if (place === node) place = place.nextElementSibling;
    else list.insertBefore(node, place);
  }
  for (const node of old.values()) node.remove();
}

let quiet = 0;
// Something that happened, for those who do not see it.
export function tell(text) {
  clearTimeout(quiet);
  const news = by("news");
  news.textContent = "";
  quiet = setTimeout(() => {
    news.textContent = text;
  }, 60);
}
