// All batches, newest first, each with how far it is, how fast it goes, and when it should be done.

import { get, query as queryString } from "../core/api.js";
import { fill, h, isKeyed, keyed, setText, unkey } from "../core/dom.js";
import { eta, number, plural, rate, shortId } from "../core/format.js";
import { poll } from "../core/poll.js";
import { empty, link, liveBadge, when } from "../parts/bits.js";
import { done, progressBar } from "../parts/progress.js";
import { pager } from "../parts/pager.js";

const PER_PAGE = 10;

/** States of a batch in which something may still happen. */
export const OPEN = new Set(["validating", "in_progress", "finalizing", "cancelling"]);

export function show({ signal }) {
  const place = h("div", { class: "batch-list" });
  let after = "";
  const pages = pager("batches", (next) => {
    after = next;
    polling.again();
  });
  const polling = poll(signal, refresh, (error) => {
    fill(place, empty("The batches cannot be shown", error.message));
  });

  async function refresh() {
    const asked = after;
    const page = await get(`/v1/batches${queryString({ rates: true, limit: PER_PAGE, after })}`, signal);
    if (asked !== after) return 0;
    if (page.data.length === 0) {
        unkey(place, empty("No batch yet", "Drop a file of prompts, and watch it run.", link("New batch", "#/new/batch", { look: "main", name: "upload" })));
    } else {
    if (!isKeyed(place)) fill(place);
      keyed(place, page.data, (batch) => batch.id, batchRow);
    }
    pages.update(after, page);
    return page.data.some((batch) => OPEN.has(batch.status)) ? 2 : 5;
  }

  const element = h(
    "div",
    { class: "view" },
    h("div", { class: "view-head" }, h("h1", {}, "Batches"), h("div", { class: "actions" }, link("New batch", "#/new/batch", { look: "main", name: "upload" }))),
    h("section", { class: "card flush", "aria-label": "Batches" }, place),
    pages.element,
  );
  return { title: "Batches", element };
}

const nameOf = (batch) => batch.metadata.name || shortId(batch.id);

/** One batch in a list. */
export function batchRow(batch) {
  const state = liveBadge();
  const bar = progressBar(`Progress of ${nameOf(batch)}`);
  const amount = done();
  const pace = h("p", { class: "pace" });
  const failed = h("p", { class: "failed-count" });
  const named = h("a", { href: `#/batches/${batch.id}`, class: "batch-name" }, nameOf(batch));
  const id = batch.metadata.name && h("code", { class: "id", title: batch.id }, shortId(batch.id));
  const element = h(
    "article",
    { class: "batch-row" },
    h("div", { class: "batch-row-head" }, named, id, state.element, h("span", { class: "spacer" }), when(batch.created_at)),
    bar.element,
    h("div", { class: "batch-row-foot" }, amount.element, failed, pace),
  );
  return {
    element,
    update(now) {
      state.update(now.status);
      bar.update(now);
      amount.update(now);
      const errors = now.request_counts.failed;
      setText(failed, errors ? `${plural(errors, "line")} failed` : now.errors ? `${plural(now.errors.data.length, "error")}` : "");
      setText(pace, OPEN.has(now.status) ? paceOf(now) : `${number(now.usage.output_tokens)} tokens written`);
    },
  };
}

function paceOf(batch) {
  if (batch.lines_per_second === null) return "reckoning its pace";
  const left = batch.eta_seconds ? ` · ${eta(batch.eta_seconds)} left` : "";
  return `${rate(batch.lines_per_second)} lines/s · ${rate(batch.tokens_per_second)} tokens/s${left}`;
}
