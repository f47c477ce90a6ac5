// Says to a screen reader what changed without being asked for, and shows it for a while to everybody else.

import { h } from "../core/dom.js";
import { icon } from "./icons.js";

const SHOWN_SECONDS = 6;

/** `kind`: what the message is about, a name of an icon; `failed` stays until it is closed. */
export function say(message, kind = "succeeded") {
  const place = document.getElementById("notes");
  const close = h("button", { type: "button", class: "icon-button", "aria-label": "Close this message", onclick: () => note.remove() }, icon("close", 16));
  const note = h("div", { class: `note note-${kind}` }, icon(kind), h("p", {}, message), close);
  place.append(note);
  if (kind !== "failed") setTimeout(() => note.remove(), SHOWN_SECONDS * 1000);
}

/** Says it to a screen reader only. */
export function whisper(message) {
  document.getElementById("whisper").textContent = message;
}
