// What goes on now: speed, slots, what waits, the batches that run, the newest jobs. A key that is not told how busy the
// machine is with everybody's jobs sees how its own stand.

import { get, look } from "../core/api.js";
import { fill, h, isKeyed, keyed, svg, unkey } from "../core/dom.js";
import { ago, number, rate, short } from "../core/format.js";
import { poll } from "../core/poll.js";
import { card, empty, link, tile } from "../parts/bits.js";
import { jobTable } from "../parts/job-table.js";
import { sparkline } from "../parts/sparkline.js";
import { batchRow, OPEN } from "./batches.js";

const NUM_TEXTS = 6;
const NUM_FAILURES = 3;
const NUM_BATCHES = 20;

export function show({ signal }) {
  const tiles = makeTiles();
  const batches = h("div", { class: "batch-list" });
  const texts = latest("Newest texts", "succeeded", signal);
  const failures = latest("Newest failures", "failed", signal);
  const element = h(
    "div",
    { class: "view" },
    h("div", { class: "view-head" }, h("h1", {}, "Overview"), h("div", { class: "actions" }, link("New batch", "#/new/batch", { name: "upload" }), link("New job", "#/new", { look: "main", name: "plus" }))),
    tiles.element,
    card("Batches under way", { id: "open-batches", actions: link("All batches", "#/batches", { look: "quiet" }) }, batches),
    texts,
    failures,
  );
  poll(signal, () => refreshTiles(tiles, signal));
  poll(signal, () => refreshBatches(batches, signal));
  return { title: "Overview", element };
}

function makeTiles() {
  const all = { speed: tile("Tokens per second"), slots: tile("Slots busy"), interactive: tile("Interactive queue"), batch: tile("Batch queue") };
  const curve = sparkline();
  all.speed.extra.append(curve.element);
  const bar = svg("rect", { class: "fill-running", y: 0, height: 8, width: 0 });
  all.slots.extra.append(svg("svg", { class: "bar", viewBox: "0 0 1000 8", preserveAspectRatio: "none", "aria-hidden": "true" }, bar));
  const element = h("dl", { class: "tiles", "aria-label": "Now" }, Object.values(all).map((one) => one.element));
  return { element, curve, bar, ...all };
}

async function refreshTiles(tiles, signal) {
  const [workers, queues] = await Promise.all([look("/v1/workers", signal), get("/v1/queues", signal)]);
  const alive = workers.data.data.filter((worker) => worker.alive);
  (workers.data.counts === "all" ? paintLoad : paintOwn)(tiles, alive);
  for (const queue of queues.data) {
    tiles[queue.name].name(queues.counts === "all" ? `${title(queue.name)} queue` : `Your ${queue.name} jobs waiting`);
    tiles[queue.name].set(`${short(queue.queued)}${queue.queued_at_least ? "+" : ""}`, queueHint(queue));
  }
  return workers.retryAfter;
}

const title = (word) => word[0].toUpperCase() + word.slice(1);

const sum = (workers, name) => workers.reduce((total, worker) => total + worker[name], 0);

const howMany = (alive) => (alive.length === 0 ? "no worker is alive" : alive.length === 1 ? "one worker" : `${alive.length} workers`);

function paintLoad(tiles, alive) {
  const [speed, busy, slots, waiting] = ["tokens_per_second", "busy_slots", "slots", "waiting"].map((name) => sum(alive, name));
  tiles.speed.name("Tokens per second");
  tiles.speed.set(rate(speed), howMany(alive));
  tiles.speed.extra.hidden = false;
  tiles.curve.add(speed);
  tiles.slots.name("Slots busy");
  tiles.slots.set(`${busy} of ${slots}`, waiting ? `${number(waiting)} wait for one` : "none waits for one");
  tiles.bar.setAttribute("width", slots ? (1000 * busy) / slots : 0);
}

function paintOwn(tiles, alive) {
  const [running, slots] = [sum(alive, "running"), sum(alive, "slots")];
  tiles.speed.name("Slots");
  tiles.speed.set(number(slots), howMany(alive));
  tiles.speed.extra.hidden = true;
  tiles.slots.name("Your jobs with a worker");
  tiles.slots.set(number(running), "the counts are of your own jobs");
  tiles.bar.setAttribute("width", slots ? Math.min(1000, (1000 * running) / slots) : 0);
}

function queueHint(queue) {
  const waits = queue.oldest_at && queue.queued ? `oldest ${ago(queue.oldest_at)}` : "nothing waits";
  return `${number(queue.running)} running · ${waits}`;
}

async function refreshBatches(place, signal) {
  const { data } = await get(`/v1/batches?rates=true&limit=${NUM_BATCHES}`, signal);
  const open = data.filter((batch) => OPEN.has(batch.status));
  if (open.length === 0) {
    unkey(place, empty("No batch is under way", "Drop a file of prompts, and watch it run.", link("New batch", "#/new/batch", { name: "upload" })));
    return 5;
  }
    if (!isKeyed(place)) fill(place);
  keyed(place, open, (batch) => batch.id, batchRow);
  return 2;
}

/** The newest jobs that ended so. While there are none, nothing is shown of failures. */
function latest(title, state, signal) {
  const table = jobTable(title);
  const place = h("div", {});
  const all = link(`All ${state}`, `#/jobs?state=${state}`, { look: "quiet" });
  const element = card(title, { id: `newest-${state}`, class: "flush", actions: all, hidden: state === "failed" }, place);
  poll(signal, async () => {
    const page = await get(`/v1/jobs?excerpt=200&state=${state}&limit=${state === "failed" ? NUM_FAILURES : NUM_TEXTS}`, signal);
    table.update(page.data);
    element.hidden = state === "failed" && page.data.length === 0;
    const shown = page.data.length ? table.element : empty("No text yet", "Ask the model something.", link("New job", "#/new", { look: "main", name: "plus" }));
    if (!page.data.length || place.firstElementChild !== shown) fill(place, shown);
    return 4;
  });
  return element;
}
