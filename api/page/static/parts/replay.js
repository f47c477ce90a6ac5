// What a replay says beside the job it runs again.

import { h } from "../core/dom.js";
import { number } from "../core/format.js";
import { badge, jobLink } from "./bits.js";

const TOLD = {
  pending: ["running", "Running again", "The same prompt, parameters, seed and row class are on their way."],
  match: ["succeeded", "The same, token for token", "Prompt, parameters, seed and recipe gave this text again."],
  differs: ["failed", "It differs", "Another token came under the same recipe: the worker's promise is broken."],
  recipe_differs: ["expired", "Another recipe", "The model, the build or the settings are not those of then, so nothing was promised."],
  original_deleted: ["cancelled", "The original is gone", "It was deleted, so there is nothing to compare with."],
  unavailable: ["cancelled", "It cannot be compared", "The replay did not succeed, or one of the two texts is gone."],
};

/** A replay's verdict. `id`: the replay's own, for a link to it. */
export function verdict(replay, id) {
  const [look, title, text] = TOLD[replay.result] ?? TOLD.unavailable;
  return h(
    "div",
    { class: `verdict verdict-${look}`, "data-result": replay.result },
    h("p", { class: "verdict-title" }, badge(look, replay.result.replace("_", " ")), h("strong", {}, title)),
    h("p", {}, text),
    replay.result === "recipe_differs" && fields(replay),
    replay.result === "differs" && texts(replay),
    h("p", { class: "under" }, "Original ", jobLink(replay.of), id && [" · replay ", jobLink(id)]),
  );
}

function fields(replay) {
  const rows = Object.entries(replay.fields ?? {}).map(([name, [before, after]]) =>
    h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, code(before)), h("td", {}, code(after))),
  );
  const heads = ["Field", "Then", "Now"].map((name) => h("th", { scope: "col" }, name));
  const same = replay.tokens_match ? "The tokens are the same all the same." : "The tokens differ.";
  return [h("p", {}, same), h("div", { class: "table-wrap" }, h("table", {}, h("caption", { class: "unseen" }, "Fields of the recipe that differ"), h("thead", {}, h("tr", {}, heads)), h("tbody", {}, rows)))];
}

function texts(replay) {
  const [before, after] = replay.texts ?? ["", ""];
  const shared = sharedLength(before, after);
  const side = (name, text) =>
    h("div", {}, h("p", { class: "label" }, name), h("pre", { class: "text" }, text.slice(0, shared), h("mark", {}, text.slice(shared))));
  return [
    h("p", {}, `The first token that differs is number ${number((replay.first_difference ?? 0) + 1)}.`),
    h("div", { class: "sides" }, side("Original", before), side("Replay", after)),
  ];
}

function sharedLength(one, other) {
  let length = 0;
  while (length < one.length && length < other.length && one[length] === other[length]) length += 1;
  return length;
}

function code(value) {
  return h("code", {}, value === null || value === undefined ? "–" : typeof value === "object" ? JSON.stringify(value) : String(value));
}
