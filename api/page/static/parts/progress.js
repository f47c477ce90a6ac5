// How far a batch is: a bar in parts, one for each state, and the same in words and numbers beside it.

import { fill, h, setText, svg } from "../core/dom.js";
import { number, percent } from "../core/format.js";
import { badge } from "./bits.js";

const ORDER = ["succeeded", "failed", "expired", "cancelled", "running", "queued"];
const ENDED = ["succeeded", "failed", "expired", "cancelled"];

export const numEnded = (batch) => ENDED.reduce((sum, state) => sum + batch.counts[state], 0);

/** A bar for a batch. `update(batch)`. */
export function progressBar(label) {
  const parts = Object.fromEntries(ORDER.map((state) => [state, svg("rect", { class: `fill-${state}`, y: 0, height: 8, width: 0 })]));
  const drawing = svg("svg", { class: "bar", viewBox: "0 0 1000 8", preserveAspectRatio: "none", "aria-hidden": "true" }, ORDER.map((state) => parts[state]));
  const element = h("div", { class: "progress", role: "progressbar", "aria-label": label, "aria-valuemin": 0, "aria-valuemax": 100 }, drawing);
  return {
    element,
    update(batch) {
      const total = batch.request_counts.total || 1;
      let x = 0;
      for (const state of ORDER) {
        const width = batch.counts[state] ? Math.max(4, (1000 * batch.counts[state]) / total) : 0;
        parts[state].setAttribute("x", x);
        parts[state].setAttribute("width", Math.min(width, 1000 - x));
        x += width;
      }
      element.setAttribute("aria-valuenow", Math.floor((100 * numEnded(batch)) / total));
      element.setAttribute("aria-valuetext", `${number(numEnded(batch))} of ${number(batch.request_counts.total)} lines have ended`);
    },
  };
}

/** The parts of the bar in words. `linkTo(state)` makes each a link to its lines. */
export function legend(linkTo) {
  const element = h("ul", { class: "legend" });
  let shown = "";
  return {
    element,
    update(batch) {
      const now = JSON.stringify(batch.counts);
      if (now === shown) return;
      shown = now;
      const items = ORDER.filter((state) => batch.counts[state]).map((state) =>
        h("li", {}, h("a", { href: linkTo(state) }, badge(state), h("strong", {}, number(batch.counts[state])))),
      );
      fill(element, items);
    },
  };
}

/** "1,234 of 5,000 · 24 %" */
export function done() {
  const element = h("p", { class: "done" });
  return {
    element,
    update(batch) {
      const { total } = batch.request_counts;
      setText(element, `${number(numEnded(batch))} of ${number(total)} · ${percent(numEnded(batch), total)}`);
    },
  };
}
