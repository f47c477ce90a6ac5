// Small parts that every view uses: badges, buttons, facts, times, empty places.

import { h, setText } from "../core/dom.js";
import { ago, exact, shortId } from "../core/format.js";
import { icon } from "./icons.js";
import { say } from "./say.js";

/** How a state is called and drawn. Its colour only repeats what the word says. */
const LOOKS = {
  validating: "queued", in_progress: "running", finalizing: "running", completed: "succeeded", cancelling: "cancelled",
};
const WORDS = { in_progress: "in progress", lease_lost: "lease lost" };

export function badge(state, word = WORDS[state] ?? state) {
  const look = LOOKS[state] ?? state;
  return h("span", { class: `badge badge-${look}` }, icon(look, 14), word);
}

/** A badge that follows its state, and is only made again when that changes. */
export function liveBadge() {
  const element = h("span", { class: "badge-place" });
  let shown = null;
  return {
    element,
    update(state) {
      if (state === shown) return;
      shown = state;
      element.replaceChildren(badge(state));
    },
  };
}

export function button(label, onclick, { look = "plain", name, type = "button", ...rest } = {}) {
  return h("button", { type, class: `button button-${look}`, onclick, ...rest }, name && icon(name, 16), h("span", {}, label));
}

export function link(label, target, { look = "plain", name, ...rest } = {}) {
  return h("a", { class: `button button-${look}`, href: target, ...rest }, name && icon(name, 16), h("span", {}, label));
}

/** Does `work` once at a time; the button shows that it does. What goes wrong is said. */
export function doing(work) {
  return async (event) => {
    const pressed = event.currentTarget;
    if (pressed.getAttribute("aria-disabled") === "true") return;
    pressed.setAttribute("aria-disabled", "true");
    try {
      await work();
    } catch (error) {
      say(error.message, "failed");
    } finally {
      pressed.removeAttribute("aria-disabled");
    }
  };
}

/** A list of names and values. Empty values are left out; elements are taken as they are. */
export function facts(pairs) {
  const list = h("dl", { class: "facts" });
  for (const [name, value] of pairs) {
    if (value === undefined || value === null || value === "") continue;
    list.append(h("div", {}, h("dt", {}, name), h("dd", {}, value)));
  }
  return list;
}

/** An instant as "3 min ago", with the whole of it for who points at it. */
export function when(at) {
  if (at === null || at === undefined) return "–";
  const iso = typeof at === "number" ? new Date(at * 1000).toISOString() : at;
  return h("time", { datetime: iso, title: exact(at), "data-ago": iso }, ago(at));
}

/** Brings every shown "3 min ago" up to date. */
export function refreshTimes() {
  for (const time of document.querySelectorAll("time[data-ago]")) setText(time, ago(time.dataset.ago));
}

/** An id, and a button that copies it. */
export function idWithCopy(id) {
  return h("span", { class: "id-copy" }, h("code", { class: "id" }, id), copyButton(id, "Copy the id"));
}

export function copyButton(text, label) {
  const copy = async () => {
    await navigator.clipboard.writeText(typeof text === "function" ? text() : text);
    say("Copied.");
  };
  // Pages that came by plain HTTP from another machine have no clipboard.
  if (!navigator.clipboard) return null;
  return h("button", { type: "button", class: "icon-button", "aria-label": label, title: label, onclick: doing(copy) }, icon("copy", 16));
}

export function jobLink(id) {
  return h("a", { href: `#/jobs/${id}`, class: "id", title: id, "aria-label": `Job ${id}` }, shortId(id));
}

export function batchLink(id) {
  return h("a", { href: `#/batches/${id}`, class: "id", title: id, "aria-label": `Batch ${id}` }, shortId(id));
}

export function empty(title, text, ...more) {
  return h("div", { class: "empty" }, h("p", { class: "empty-title" }, title), h("p", {}, text), ...more);
}

/** A part of a view with a heading of its own. */
export function card(title, props, ...children) {
  const { actions, id, level = 2, ...rest } = props;
  const heading = h(`h${level}`, { id: id && `${id}-title` }, title);
  const head = h("header", { class: "card-head" }, heading, actions);
  return h("section", { ...rest, class: `card ${rest.class ?? ""}`, "aria-labelledby": id && `${id}-title` }, head, ...children);
}

/** A number with its name, for a row of them. */
export function tile(name) {
  const value = h("dd", { class: "tile-value" }, "–");
  const hint = h("dd", { class: "tile-hint" });
  const extra = h("dd", { class: "tile-extra" });
  const label = h("dt", {}, name);
  const element = h("div", { class: "tile" }, label, value, hint, extra);
  return {
    element,
    extra,
    name: (text) => setText(label, text),
    set(text, more = "") {
      setText(value, text);
      setText(hint, more);
    },
  };
}
