// One batch: how far it is and how fast it goes, what went wrong, its files, its lines.

import { get, look, post } from "../core/api.js";
import { fill, h, setText } from "../core/dom.js";
import { bytes, duration, eta, exact, now, number, percent, plural, rate } from "../core/format.js";
import { passing, poll, watchSeconds } from "../core/poll.js";
import { go } from "../core/router.js";
import { button, card, doing, empty, facts, idWithCopy, jobLink, link, liveBadge, tile, when } from "../parts/bits.js";
import { confirm } from "../parts/confirm.js";
import { download } from "../parts/download.js";
import { legend, numEnded, progressBar } from "../parts/progress.js";
import { say, whisper } from "../parts/say.js";
import { sparkline } from "../parts/sparkline.js";
import { OPEN } from "./batches.js";
import { jobList, stateFilter } from "./jobs.js";

const FAULTS_SHOWN = 50;
const FAILED_SHOWN = 5;

export function show({ id, query, signal, retitle }) {
  const parts = makeParts(id);
  const polling = poll(signal, refresh, (error) => {
    const gone = error.missing ? "There is no such batch, or it belongs to another key." : error.message;
    fill(element, h("div", { class: "view-head" }, h("h1", {}, "Batch")), empty("This batch cannot be shown", gone, link("All batches", "#/batches")));
  });

  async function refresh() {
    const { data: batch, retryAfter } = await look(`/v1/batches/${encodeURIComponent(id)}`, signal);
    retitle(batch.metadata.name || "Batch");
    paint(parts, batch, signal, polling);
    if (OPEN.has(batch.status)) return watchSeconds(retryAfter);
    await Promise.all([paintFiles(parts, batch, signal), paintFailed(parts, batch, signal)]);
    return null;
  }

  const lines = jobList("Lines of the batch", { batch_id: id, state: query.state }, signal, { ofBatch: true });
  const choose = (state) => go(["batches", id], { state });
  const element = h(
    "div",
    { class: "view" },
    h("div", { class: "view-head" }, h("div", { class: "title" }, h("nav", { "aria-label": "Breadcrumb", class: "crumbs" }, h("a", { href: "#/batches" }, "Batches")), h("h1", {}, parts.name, " ", parts.state.element), idWithCopy(id)), parts.head),
    card("Progress", { id: "progress" }, parts.headline, parts.bar.element, parts.legend.element, parts.tiles.element),
    parts.faults,
    parts.failed,
    h("div", { class: "columns" }, h("div", { class: "wide-column" }, card("Lines", { id: "lines" }, stateFilter(query.state, choose), lines.element)), h("div", { class: "side" }, card("Files", { id: "files" }, parts.files), card("About it", { id: "about" }, parts.about))),
  );
  return { title: "Batch", element };
}

function makeParts(id) {
  const tiles = { lines: tile("Lines per second"), tokens: tile("Tokens per second"), left: tile("Time left"), written: tile("Tokens written") };
  const curve = sparkline();
  tiles.lines.extra.append(curve.element);
  return {
    id,
    name: h("span", {}, "Batch"),
    state: liveBadge(),
    head: h("div", { class: "actions" }),
    headline: h("p", { class: "headline" }),
    bar: progressBar("Progress of the batch"),
    legend: legend((state) => `#/batches/${id}?state=${state}`),
    tiles: { ...tiles, curve, element: h("dl", { class: "tiles inner", "aria-label": "Pace" }, Object.values(tiles).map((one) => one.element)) },
    faults: h("div"),
    failed: h("div"),
    files: h("div"),
    about: h("div"),
    status: null,
  };
}

function paint(parts, batch, signal, polling) {
  setText(parts.name, batch.metadata.name || "Batch");
  parts.state.update(batch.status);
  const { total } = batch.request_counts;
  setText(parts.headline, total ? `${number(numEnded(batch))} of ${plural(total, "line")} have ended · ${percent(numEnded(batch), total)}` : "No line yet");
  parts.bar.update(batch);
  parts.legend.update(batch);
  paintPace(parts.tiles, batch);
  repaint(parts.head, [batch.status, batch.request_counts.failed > 0], () => actions(parts, batch, polling));
  repaint(parts.faults, batch.errors, () => faultsOf(batch));
  repaint(parts.about, [batch.status, batch.usage.input_tokens], () => aboutOf(batch));
  repaint(parts.files, [batch.status, batch.output_file_id, batch.error_file_id], () => h("p", { class: "hint" }, OPEN.has(batch.status) ? "Results can be downloaded while it runs." : ""));
  if (parts.files.shown !== parts.filesShown) {
    parts.filesShown = parts.files.shown;
    paintFiles(parts, batch, signal).catch(() => {});
  }
  const failedNow = JSON.stringify(batch.request_counts.failed);
  if (failedNow !== parts.failedShown) {
    parts.failedShown = failedNow;
    paintFailed(parts, batch, signal).catch(() => {});
  }
  tellEnd(parts, batch);
}

function tellEnd(parts, batch) {
  if (parts.status && OPEN.has(parts.status) && !OPEN.has(batch.status)) whisper(`The batch has ${batch.status}.`);
  parts.status = batch.status;
}

function paintPace(tiles, batch) {
  const open = OPEN.has(batch.status);
  const average = open ? "" : "on average";
  tiles.lines.set(rate(batch.lines_per_second), average);
  tiles.tokens.set(rate(batch.tokens_per_second), average);
  if (open) tiles.curve.add(batch.lines_per_second ?? 0);
  tiles.curve.element.classList.toggle("is-still", !open);
  const ended = batch.completed_at ?? batch.cancelled_at ?? batch.expired_at ?? batch.failed_at;
  if (!open) tiles.left.set("none", ended ? `took ${duration(Math.max(1, ended - batch.created_at))}` : "");
  else if (!batch.eta_seconds) tiles.left.set("–", "reckoning its pace");
  else tiles.left.set(eta(batch.eta_seconds), `done by ${clock(now() + batch.eta_seconds.p90)}, nine times in ten`);
  tiles.written.set(number(batch.usage.output_tokens), `${number(batch.usage.input_tokens)} read`);
}

const clock = (at) => new Date(at * 1000).toLocaleTimeString("en", { hour: "2-digit", minute: "2-digit", hour12: false });

function repaint(place, shown, make) {
  const told = JSON.stringify(shown) ?? "null";
  if (place.shown === told) return;
  place.shown = told;
  fill(place, make());
}

function actions(parts, batch, polling) {
  const running = OPEN.has(batch.status) && batch.status !== "cancelling";
  const can = !OPEN.has(batch.status) && batch.request_counts.failed > 0 && batch.status !== "failed" && batch.input_file_id;
  return [
    can && button("Retry failed lines", doing(() => retry(parts, polling)), { name: "replay" }),
    running && button("Cancel", doing(() => cancel(parts, polling)), { look: "danger", name: "cancelled" }),
  ];
}

async function cancel(parts, polling) {
  const text = "Nothing more of it is started, and what runs ends within a second. Lines that have ended stay.";
  if (!(await confirm("Cancel this batch?", text, "Cancel the batch"))) return;
  await post(`/v1/batches/${parts.id}/cancel`);
  say("The batch is being cancelled.", "cancelled");
  polling.again();
}

/** The view's polling has stopped with the batch, so the view begins anew. */
async function retry(parts) {
  const batch = await post(`/v1/batches/${parts.id}/retry`);
  say(`${plural(batch.num_retried, "line")} queued again.`, "replay");
  dispatchEvent(new HashChangeEvent("hashchange"));
}

/** Why it failed as a whole, or which of its lines never could run. */
function faultsOf(batch) {
  if (!batch.errors) return [];
  const all = batch.errors.data;
  const rows = all.slice(0, FAULTS_SHOWN).map((fault) => h("li", {}, fault.line !== null && h("span", { class: "label" }, `line ${number(fault.line)} `), fault.message, " ", h("code", {}, fault.code)));
  const more = all.length > FAULTS_SHOWN && h("p", { class: "hint" }, `and ${number(all.length - FAULTS_SHOWN)} more`);
  return card("Errors", { id: "faults", class: "is-bad" }, h("ul", { class: "faults" }, rows), more);
}

/** The first lines that failed, with their reasons. */
async function paintFailed(parts, batch, signal) {
  if (!batch.request_counts.failed || !numEnded(batch)) return void fill(parts.failed);
  const page = await get(`/v1/jobs?batch_id=${parts.id}&state=failed&limit=${FAILED_SHOWN}&excerpt=80`, signal);
  if (!page.data.length) return void fill(parts.failed);
  const rows = page.data.map((job) => h("li", {}, h("strong", {}, job.custom_id ?? ""), " ", job.error?.message ?? "", " ", h("code", {}, job.error?.code ?? ""), " ", jobLink(job.id)));
  const all = link("All failed lines", `#/batches/${parts.id}?state=failed`, { look: "quiet" });
  const caption = page.has_more ? `The last ${FAILED_SHOWN} of ${plural(batch.counts.failed, "line")} that failed` : `${plural(page.data.length, "line")} failed`;
  fill(parts.failed, card(caption, { id: "failed-lines", class: "is-bad", actions: page.has_more && all }, h("ul", { class: "faults" }, rows)));
}

async function paintFiles(parts, batch, signal) {
  const wanted = [["Results", batch.output_file_id], ["Errors", batch.error_file_id], ["Input", batch.input_file_id]].filter(([, id]) => id);
  const found = await Promise.all(wanted.map(([name, id]) => readFile(name, id, signal)));
  if (!found.length) return void fill(parts.files, h("p", { class: "hint" }, OPEN.has(batch.status) ? "Results come with the first line that ends." : "This batch has no files."));
  fill(parts.files, h("ul", { class: "files" }, found.map(fileRow)));
}

async function readFile(name, id, signal) {
  try {
    return { name, file: await get(`/v1/files/${id}`, signal) };
  } catch (error) {
    if (error.name === "AbortError" || passing(error)) throw error;
    return { name, file: null };
  }
}

function fileRow({ name, file }) {
  if (!file) return h("li", {}, h("strong", {}, name), h("p", { class: "hint" }, "The file was deleted."));
  const grows = file.complete ? "" : ", still growing";
  return h("li", {}, h("div", {}, h("strong", {}, name), h("p", { class: "hint" }, `${plural(file.lines.total, "line")}, ${bytes(file.bytes)}${grows}`)), button("Download", doing(() => download(file)), { name: "download", "aria-label": `Download ${name.toLowerCase()}` }));
}

function aboutOf(batch) {
  const own = Object.entries(batch.metadata).filter(([name]) => name !== "name");
  return facts([
    ["Model", batch.model],
    ["Endpoint", h("code", {}, batch.endpoint)],
    ["Made", when(batch.created_at)],
    ["Window", batch.completion_window && `${batch.completion_window}, until ${exact(batch.expires_at)}`],
    ["Weight", String(batch.weight)],
    ["Tokens", `${number(batch.usage.input_tokens)} read, ${number(batch.usage.output_tokens)} written`],
    ...own,
  ]);
}
