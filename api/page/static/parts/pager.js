// Steps through a listing by cursors: the page never asks how many there are, so a million costs what twenty do.

import { h } from "../core/dom.js";
import { button } from "./bits.js";

/** `onMove(after)`: the cursor of the page to show; empty for the first. The way back is remembered. */
export function pager(what, onMove) {
  const trail = [];
  let current = "";
  let following = "";
  const newest = button("Newest", () => move("", []), { name: "back" });
  const newer = button("Newer", () => move(trail.at(-1) ?? "", trail.slice(0, -1)), { name: "back" });
  const older = button("Older", () => move(following, [...trail, current]), { name: "next", class: "button button-plain reversed" });
  const element = h("nav", { class: "pager", "aria-label": `Pages of ${what}` }, newest, newer, older);

  function move(after, kept) {
    trail.splice(0, trail.length, ...kept);
    current = after;
    onMove(after);
  }

  return {
    element,
    /** What the page that is shown says of its neighbours. */
    update(after, page) {
      current = after;
      following = page.last_id ?? "";
      newest.hidden = !after || trail.length < 2;
      newer.hidden = !after;
      older.hidden = !page.has_more;
      element.hidden = newer.hidden && older.hidden;
    },
  };
}
