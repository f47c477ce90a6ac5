// Jobs as a table: state, the beginnings of prompt and text, and since when. On a narrow screen each row is a card.

import { h, keyed, setText } from "../core/dom.js";
import { number, oneLine } from "../core/format.js";
import { batchLink, jobLink, liveBadge, when } from "./bits.js";

/** `ofBatch`: lines of one batch, which need no column for it, nor for when it was accepted. `update(jobs)`. */
export function jobTable(caption, { ofBatch = false } = {}) {
  const names = ["State", ofBatch ? "Line" : "Prompt", "Text", "Tokens", ...(ofBatch ? [] : ["Batch", "Accepted"])];
  const heads = names.map((name) => h("th", { scope: "col", class: `of-${name.toLowerCase()}${name === "Tokens" ? " numeric" : ""}` }, name));
  const body = h("tbody");
  const element = h(
    "div",
    { class: "table-wrap", tabindex: 0, role: "region", "aria-label": caption },
    h("table", { class: "jobs-table" }, h("caption", { class: "unseen" }, caption), h("thead", {}, h("tr", {}, heads)), body),
  );
  return {
    element,
    update(jobs) {
      keyed(body, jobs, (job) => job.id, (job) => row(job, ofBatch));
    },
  };
}

function row(job, ofBatch) {
  const state = liveBadge();
  const text = h("span", { class: "excerpt" });
  const tokens = h("td", { class: "of-tokens numeric" });
  const element = h(
    "tr",
    {},
    h("td", { class: "of-state" }, state.element),
    h("td", { class: "of-prompt" }, h("span", { class: "excerpt strong" }, oneLine(promptOf(job))), h("span", { class: "under" }, job.custom_id && h("span", { class: "custom-id" }, job.custom_id), jobLink(job.id))),
    h("td", { class: "of-text" }, text),
    tokens,
    ofBatch || h("td", { class: "of-batch" }, job.batch_id ? batchLink(job.batch_id) : "–"),
    ofBatch || h("td", { class: "of-accepted" }, when(job.created_at)),
  );
  return {
    element,
    update(now) {
      state.update(now.state);
      setText(text, (now.error ? now.error.message : oneLine(now.completion ?? "")) || "–");
      text.classList.toggle("is-error", Boolean(now.error));
      setText(tokens, now.usage ? number(now.usage.completion_tokens) : "–");
      element.classList.toggle("has-no-text", !now.error && !now.completion);
    },
  };
}

/** What was asked: the raw prompt, or the last message of a chat. */
export function promptOf(job) {
  if (job.prompt !== null) return job.prompt;
  const last = job.messages?.at(-1);
  return typeof last?.content === "string" ? last.content : "";
}
