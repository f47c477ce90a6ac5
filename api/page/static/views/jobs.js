// All jobs, newest first: by state, by batch, by how the id begins.

import { look, query as queryString } from "../core/api.js";
import { fill, h } from "../core/dom.js";
import { poll } from "../core/poll.js";
import { go } from "../core/router.js";
import { batchLink, empty, link } from "../parts/bits.js";
import { jobTable } from "../parts/job-table.js";
import { pager } from "../parts/pager.js";
import { whisper } from "../parts/say.js";

const PER_PAGE = 25;
const STATES = ["queued", "running", "succeeded", "failed", "cancelled", "expired"];

export function show({ query, signal }) {
  const list = jobList("Jobs", { id_prefix: query.id, batch_id: query.batch, state: query.state }, signal);
  const element = h(
    "div",
    { class: "view" },
    h("div", { class: "view-head" }, h("h1", {}, "Jobs"), h("div", { class: "actions" }, link("New job", "#/new", { look: "main", name: "plus" }))),
    filters(query),
    list.element,
  );
  return { title: "Jobs", element };
}

function filters(query) {
  const choose = (state) => go(["jobs"], { ...query, state });
  const given = [];
  if (query.id) given.push(h("span", { class: "chip" }, "Id begins with ", h("code", {}, query.id), removal({ ...query, id: "" }, "Any id")));
  if (query.batch) given.push(h("span", { class: "chip" }, "In batch ", batchLink(query.batch), removal({ ...query, batch: "" }, "Any batch")));
  return h("div", { class: "filters" }, stateFilter(query.state, choose), given);
}

function removal(query, label) {
  return link(label, "#/jobs" + queryString(query), { look: "quiet", name: "close" });
}

/** States to choose from, as radio buttons. `choose(state)`; empty for all. */
export function stateFilter(chosen, choose) {
  const options = ["", ...STATES].map((state) => {
    const input = h("input", { type: "radio", name: "state", value: state, checked: (chosen ?? "") === state, onchange: () => choose(state) });
    return h("label", { class: "segment" }, input, h("span", {}, state || "all"));
  });
  return h("fieldset", { class: "segments" }, h("legend", { class: "unseen" }, "State"), options);
}

/** A page of jobs that keeps up to date, and steps to the others. `wanted`: fields of the API's listing. */
export function jobList(caption, wanted, signal, { ofBatch = false } = {}) {
  const place = h("div", { class: "card flush" });
  const table = jobTable(caption, { ofBatch });
  let after = "";
  const pages = pager("jobs", (next) => {
    after = next;
    polling.again();
  });
  const polling = poll(signal, refresh, (error) => {
    fill(place, empty("These jobs cannot be shown", error.message));
  });

  async function refresh() {
    const asked = after;
    const { data: page } = await look(`/v1/jobs${queryString({ ...wanted, after, limit: PER_PAGE, excerpt: 200 })}`, signal);
    if (asked !== after) return 0;
    table.update(page.data);
    const shown = page.data.length ? table.element : nothing(wanted);
    if (!page.data.length || place.firstElementChild !== shown) {
      fill(place, shown);
      whisper(page.data.length ? "" : "No job matches.");
    }
    pages.update(after, page);
    return page.data.some((job) => job.ended_at === null) ? 2 : 5;
  }

  return { element: h("div", { class: "listing" }, place, pages.element) };
}

function nothing(wanted) {
  const filtered = Object.values(wanted).some(Boolean);
  return filtered ? empty("No job matches", "Another state, or another id, may.") : empty("No job yet", "Ask the model something.", link("New job", "#/new", { look: "main", name: "plus" }));
}
