// The workers and what waits for them: slots, speed, queues.

import { get, look } from "../core/api.js";
import { fill, h, isKeyed, keyed, setText, unkey } from "../core/dom.js";
import { bytes, number, plural, rate } from "../core/format.js";
import { poll } from "../core/poll.js";
import { card, empty, facts, when } from "../parts/bits.js";
import { icon } from "../parts/icons.js";
import { sparkline } from "../parts/sparkline.js";

export function show({ signal }) {
  const queues = h("tbody");
  const workers = h("div", { class: "worker-list" });
  const whose = h("p", { class: "hint", hidden: true }, "The counts are of your own jobs. A key with the scope “metrics” is told everybody's.");
  const heads = ["Queue", "Queued", "Sent out", "Running", "Oldest"].map((name, index) => h("th", { scope: "col", class: index > 0 && index < 4 ? "numeric" : "" }, name));
  const table = h("div", { class: "table-wrap", tabindex: 0, role: "region", "aria-label": "Queues" }, h("table", {}, h("caption", { class: "unseen" }, "What waits in each queue"), h("thead", {}, h("tr", {}, heads)), queues));
  const element = h(
    "div",
    { class: "view" },
    h("div", { class: "view-head" }, h("h1", {}, "Workers")),
    card("Queues", { id: "queues", class: "flush" }, table),
    whose,
    h("section", { "aria-label": "Workers" }, workers),
  );
  poll(signal, async () => {
    const { data, retryAfter } = await look("/v1/workers", signal);
    paintWorkers(workers, data.data);
    whose.hidden = data.counts === "all";
    const { data: depths } = await get("/v1/queues", signal);
    keyed(queues, depths, (queue) => queue.name, queueRow);
    return retryAfter;
  });
  return { title: "Workers", element };
}

function paintWorkers(place, workers) {
  if (workers.length === 0) {
    unkey(place, empty("No worker is alive", "Jobs are accepted and wait. Start one:", h("p", {}, h("code", {}, "penstock worker"))));
    return;
  }
    if (!isKeyed(place)) fill(place);
  keyed(place, workers, (worker) => worker.name, workerCard);
}

function queueRow(queue) {
  const cells = Object.fromEntries(["queued", "published", "running"].map((name) => [name, h("td", { class: "numeric", "data-name": name })]));
  const oldest = h("td", { "data-name": "oldest" });
  const element = h("tr", {}, h("th", { scope: "row" }, queue.name), Object.values(cells), oldest);
  let shown;
  return {
    element,
    update(now) {
      setText(cells.queued, number(now.queued) + (now.queued_at_least ? "+" : ""));
      setText(cells.published, number(now.published));
      setText(cells.running, number(now.running));
      if (shown === now.oldest_at) return;
      shown = now.oldest_at;
      fill(oldest, when(now.oldest_at));
    },
  };
}

/** One worker. Its slots are drawn and told in words; how busy it is only to those who are told. */
function workerCard(worker) {
  const speed = h("strong", { class: "big" });
  const curve = sparkline();
  const state = h("p", { class: "worker-state" });
  const words = h("p", { class: "slots-words" });
  const slots = h("div", { class: "slots", "aria-hidden": "true" });
  const pace = h("div", {}, h("p", { class: "label" }, "Tokens per second"), speed, curve.element);
  const more = h("div", {});
  const element = h(
    "article",
    { class: "card worker", "aria-label": `Worker ${worker.name}` },
    h("header", { class: "card-head" }, h("h2", { class: "worker-title" }, worker.name), state),
    h("div", { class: "worker-now" }, pace, h("div", { class: "grow" }, h("p", { class: "label" }, "Slots"), words, slots)),
    more,
  );
  return {
    element,
    update(now) {
      const told = now.busy_slots !== null;
      pace.hidden = slots.hidden = !told;
      if (told) {
        setText(speed, rate(now.tokens_per_second));
        curve.add(now.tokens_per_second);
      }
      paintState(state, now);
      setText(words, told ? load(now) : `${now.slots}, and ${plural(now.running, "job")} of yours`);
      paintSlots(slots, now);
      fill(more, aboutWorker(now));
    },
  };
}

const load = (worker) => `${worker.busy_slots} of ${worker.slots} busy` + (worker.waiting ? `, ${number(worker.waiting)} wait for one` : "");

function paintState(place, worker) {
  const told = !worker.alive ? ["failed", "silent"] : worker.draining ? ["expired", "draining"] : ["succeeded", "alive"];
  if (place.textContent === told[1]) return;
  fill(place, h("span", { class: `badge badge-${told[0]}` }, icon(told[0], 14), told[1]));
}

function paintSlots(place, { slots, busy_slots: busy }) {
  while (place.children.length < slots) place.append(h("span", { class: "slot" }));
  while (place.children.length > slots) place.lastElementChild.remove();
  [...place.children].forEach((slot, index) => slot.classList.toggle("is-busy", index < busy));
}

function aboutWorker(worker) {
  const { details, exact } = worker;
  const proven = exact && Object.entries(exact).map(([name, holds]) => `${name}: ${holds ? "proven" : "not proven"}`).join(", ");
  return facts([
    ["Model", worker.model],
    ["Backend", details.backend],
    ["Attention", details.attention],
    ["Exactness", proven],
    ["Prefix hits", details.prefix_hit_rate !== undefined && `${Math.round(100 * details.prefix_hit_rate)} % of prompt tokens`],
    ["Prefix memory", details.prefix_bytes ? bytes(details.prefix_bytes) : null],
    ["Paused", details.paused ? plural(details.paused, "sequence") : null],
    ["Started", when(worker.started_at)],
    ["Heard of", when(worker.seen_at)],
  ]);
}
