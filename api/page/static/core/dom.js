// Makes elements. Text is only ever set as text: there is no way through here to have it read as markup.

const SVG = "http://www.w3.org/2000/svg";

/**
 * An element. `props`: attributes by their names; `class`; `onclick` and the like as functions; `true` sets a bare
 * attribute, `false`, `null` and `undefined` leave one out. Children: elements, texts, lists of them; empty ones are skipped.
 */
export function h(name, props = {}, ...children) {
  const element = document.createElement(name);
  dress(element, props);
  element.append(...texts(children));
  return element;
}

/** The same for SVG. */
export function svg(name, props = {}, ...children) {
  const element = document.createElementNS(SVG, name);
  dress(element, props);
  element.append(...texts(children));
  return element;
}

function dress(element, props) {
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
}

const SKIPPED = new Set([undefined, null, false, true, ""]);

function texts(children) {
  return children.flat(Infinity).filter((child) => !SKIPPED.has(child));
}

/** Puts children in the place of what is there. */
export function fill(element, ...children) {
  element.replaceChildren(...texts(children));
  return element;
}

/** Sets a text, and touches nothing if it is there already: a screen reader would read it again. */
export function setText(element, text) {
  const wanted = String(text ?? "");
  if (element.textContent !== wanted) element.textContent = wanted;
  return element;
}

const kept = new WeakMap();

/** Whether the children of `parent` are those that `keyed` made. */
export const isKeyed = (parent) => kept.has(parent);

/** Puts something else in the place of what `keyed` made. */
export function unkey(parent, ...children) {
  kept.delete(parent);
  fill(parent, ...children);
}

/**
 * Makes the children of `parent` those of `items`, in their order, without making again what is there: the focus and
 * the selection stay where they are. `make(item)` answers `{element, update(item)}`.
 */
export function keyed(parent, items, keyOf, make) {
  const known = kept.get(parent) ?? new Map();
  const rows = new Map();
  for (const item of items) {
    const key = keyOf(item);
    const row = known.get(key) ?? make(item);
    row.update?.(item);
    rows.set(key, row);
  }
  for (const [key, row] of known) if (!rows.has(key)) row.element.remove();
  let place = null;
  for (const row of rows.values()) {
    const next = place === null ? parent.firstElementChild : place.nextElementSibling;
    if (next !== row.element) parent.insertBefore(row.element, next);
    place = row.element;
  }
  kept.set(parent, rows);
}

let lastId = 0;

/** An id that nothing else on the page has: labels and descriptions need one. */
export function freshId(stem) {
  lastId += 1;
  return `${stem}-${lastId}`;
}
