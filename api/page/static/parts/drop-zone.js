// A place to drop files on, which is also a button that asks for them.

import { freshId, h } from "../core/dom.js";
import { icon } from "./icons.js";

/** `take(files)` gets what is dropped or chosen. */
export function dropZone(take) {
  const id = freshId("files");
  const input = h("input", { type: "file", id, class: "unseen", multiple: true, accept: ".jsonl,.json,.ndjson,.txt", onchange: () => hand(input.files) });
  const label = h("label", { for: id, class: "drop-label" }, icon("upload", 28), h("strong", {}, "Drop files here, or choose them"), h("span", { class: "hint" }, "JSON lines of a batch, JSON prompts, or plain text with a prompt a line"));
  const element = h("div", { class: "drop-zone" }, input, label);
  const hand = (files) => {
    take([...files]);
    input.value = "";
  };
  let depth = 0;
  const light = (change) => {
    depth = Math.max(0, depth + change);
    element.classList.toggle("is-over", depth > 0);
  };
  element.addEventListener("dragenter", (event) => (event.preventDefault(), light(1)));
  element.addEventListener("dragover", (event) => event.preventDefault());
  element.addEventListener("dragleave", () => light(-1));
  element.addEventListener("drop", (event) => {
    event.preventDefault();
    light(-depth);
    hand(event.dataTransfer.files);
  });
  return { element, input };
}
