// The two ways in: one job, or a batch. Links, as each is a view of its own.

import { h } from "../core/dom.js";

export function newTabs(current) {
  const tab = (name, target, text) => h("a", { href: target, class: "segment", "aria-current": name === current ? "page" : null }, h("span", {}, text));
  return h("nav", { class: "segments", "aria-label": "What to submit" }, tab("job", "#/new", "One job"), tab("batch", "#/new/batch", "A batch"));
}
