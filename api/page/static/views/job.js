// One job: its text while it is written, what it was asked with, its attempts, and whether it can be made again.

import { get, look, post } from "../core/api.js";
import { fill, h, setText } from "../core/dom.js";
import { duration, number, plural, rate, seconds } from "../core/format.js";
import { follow } from "../core/events.js";
import { poll } from "../core/poll.js";
import { swap } from "../core/router.js";
import { batchLink, button, card, copyButton, doing, empty, facts, idWithCopy, jobLink, link, liveBadge, when } from "../parts/bits.js";
import { confirm } from "../parts/confirm.js";
import { verdict } from "../parts/replay.js";
import { say, whisper } from "../parts/say.js";
import { timeline, timings } from "../parts/timeline.js";

const ENDED = new Set(["succeeded", "failed", "cancelled", "expired"]);
const DEFAULTS = { temperature: 1, max_tokens: 100, repeat_penalty: 1.2, repeat_last_n: 64 };
const LINKS = { live: "Live", waiting: "Connection lost. Connecting again.", paused: "Paused while the page is hidden." };

export function show({ id, query, signal, retitle }) {
  const element = h("div", { class: "view job-view" }, h("div", { class: "view-head" }, h("h1", {}, "Job")), h("p", { class: "loading" }, "Reading the job."));
  const parts = makeParts(id, signal);
  open(id, parts, { element, query, signal }).catch((error) => {
    if (!signal.aborted) fill(element, h("div", { class: "view-head" }, h("h1", {}, "Job")), empty("This job cannot be shown", error.message, link("All jobs", "#/jobs")));
  });
  retitle("Job");
  return { title: "Job", element };
}

function makeParts(id, signal) {
  const state = liveBadge();
  const text = streamedText();
  const head = h("div", { class: "actions" });
  const [told, history, side, again, prompt] = [h("div"), h("div"), h("div", { class: "side" }), h("div", { "aria-live": "polite" }), h("div")];
  return { id, signal, state, text, head, told, history, side, again, prompt };
}

async function open(id, parts, { element, query, signal }) {
  const first = await firstLook(id, signal);
  fill(
    element,
    h(
      "div",
      { class: "view-head" },
      h("div", { class: "title" }, h("nav", { "aria-label": "Breadcrumb", class: "crumbs" }, h("a", { href: "#/jobs" }, "Jobs")), h("h1", {}, "Job ", parts.state.element), idWithCopy(id)),
      parts.head,
    ),
    h(
      "div",
      { class: "columns" },
      h("div", { class: "wide-column" }, card("Prompt", { id: "prompt" }, parts.prompt), card("Text", { id: "text", actions: h("div", { class: "actions" }, parts.text.link, copyButton(parts.text.read, "Copy the text")) }, parts.text.element, parts.told), parts.again, card("Attempts", { id: "attempts" }, parts.history)),
      parts.side,
    ),
  );
  fill(parts.prompt, promptOf(first));
  paint(parts, first);
  if (query.replay) watchReplay(parts, query.replay);
  if (first.replay) paintVerdict(parts, first.replay, null);
  await watch(parts, first);
}

/** The job, asked for until the API can be reached. */
function firstLook(id, signal) {
  return new Promise((resolve, reject) => {
    poll(signal, async () => {
      resolve(await get(`/v1/jobs/${encodeURIComponent(id)}`, signal));
      return null;
    }, reject);
  });
}

/** Follows the job to its end. What the stream does not tell (attempts, places in the queue) is read beside it. */
async function watch(parts, first) {
  if (ENDED.has(first.state)) return finish(parts, first, { quiet: true });
  const ended = new AbortController();
  const beside = AbortSignal.any([parts.signal, ended.signal]);
  const polling = poll(beside, async () => {
    const { data: job, retryAfter } = await look(`/v1/jobs/${parts.id}`, beside);
    if (!ended.signal.aborted) paint(parts, job);
    return Math.min(retryAfter ?? 1, 10);
  });
  parts.text.begin();
  try {
    await follow(`/v1/jobs/${parts.id}/events`, {
      signal: parts.signal,
      onState: (state) => parts.text.tell(LINKS[state], state),
      onFrame: (frame) => hear(parts, frame, { ended, polling }),
    });
  } catch (error) {
    parts.text.tell(error.message, "waiting");
  }
}

/** One frame of the stream; true for the last. */
function hear(parts, { event, data }, { ended, polling }) {
  if (event === "text") parts.text.append(data.text);
  else if (event === "reset") parts.text.reset();
  else if (event === "state") {
    parts.state.update(data.state);
    polling.again();
  } else if (event === "end") {
    ended.abort();
    finish(parts, data, { quiet: false });
    return true;
  }
  return false;
}

function finish(parts, job, { quiet }) {
  parts.text.end(job.completion ?? "", job.state === "succeeded");
  paint(parts, job);
  if (!quiet) whisper(`The job has ${job.state}. ${job.usage ? plural(job.usage.completion_tokens, "token") : ""}`);
  if (job.replay) paintVerdict(parts, job.replay, null);
}

function paint(parts, job) {
  parts.state.update(job.state);
  repaint(parts.head, [job.state, job.cancel_requested_at], () => actions(parts, job));
  repaint(parts.told, [job.state, job.error, job.continuity], () => toldOf(job));
  repaint(parts.history, [job.state, job.attempts, job.queue_position], () => [timeline(job), timings(job)]);
  repaint(parts.side, [job.state, job.usage, job.recipe, job.started_at], () => sideOf(job, parts.signal));
}

/** Makes the children of a place again when what they show has changed, and else leaves the focus in peace. */
function repaint(place, shown, make) {
  const now = JSON.stringify(shown);
  if (place.shown === now) return;
  place.shown = now;
  fill(place, make());
}

function actions(parts, job) {
  const alive = !ENDED.has(job.state);
  return [
    link("Use again", `#/new?from=${job.id}`, { name: "edit" }),
    alive && !job.cancel_requested_at && button("Cancel", doing(() => cancel(parts)), { look: "danger", name: "cancelled" }),
    alive && job.cancel_requested_at && h("p", { class: "hint" }, "It is being cancelled."),
    job.state === "succeeded" && button("Replay", doing(() => replay(parts)), { look: "main", name: "replay" }),
  ];
}

async function cancel(parts) {
  if (!(await confirm("Cancel this job?", "It ends within a second, with the text it has.", "Cancel the job"))) return;
  const job = await post(`/v1/jobs/${parts.id}/cancel`);
  paint(parts, job);
  say("The job is being cancelled.", "cancelled");
}

async function replay(parts) {
  const again = await post(`/v1/jobs/${parts.id}/replay`);
  swap(["jobs", parts.id], { replay: again.id });
  watchReplay(parts, again.id);
}

/** Shows what comes of a replay of this job. */
function watchReplay(parts, id) {
  poll(parts.signal, async () => {
    const { data, retryAfter } = await look(`/v1/jobs/${encodeURIComponent(id)}`, parts.signal);
    if (data.replay?.of !== parts.id) return null;
    paintVerdict(parts, data.replay, id);
    return data.replay.result === "pending" ? Math.min(retryAfter ?? 1, 2) : null;
  });
}

function paintVerdict(parts, told, id) {
  repaint(parts.again, [told, id], () => card("Replay", { id: "replay" }, verdict(told, id)));
}

function promptOf(job) {
  if (job.prompt !== null) return h("pre", { class: "text", tabindex: 0, "aria-label": "Raw prompt" }, job.prompt);
  return h("ol", { class: "chat" }, job.messages.map((message) => h("li", { class: `message message-${message.role}` }, h("p", { class: "label" }, message.role), h("pre", { class: "text" }, contentOf(message)))));
}

const contentOf = ({ content }) => (typeof content === "string" ? content : JSON.stringify(content, null, 2));

/** The text as it comes. A screen reader hears of its end, not of each piece. */
function streamedText() {
  const text = h("pre", { class: "text completion", tabindex: 0, "aria-labelledby": "text-title", "aria-live": "off" });
  const state = h("p", { class: "link-state", role: "status" });
  return {
    element: text,
    link: state,
    read: () => text.textContent,
    begin() {
      text.classList.add("is-live");
      text.setAttribute("aria-busy", "true");
    },
    append(more) {
      const atEnd = text.scrollHeight - text.scrollTop - text.clientHeight < 24;
      text.append(more);
      if (atEnd) text.scrollTop = text.scrollHeight;
    },
    reset: () => fill(text),
    tell(message, look) {
      setText(state, message);
      state.dataset.state = look;
    },
    end(whole, succeeded) {
      text.classList.remove("is-live");
      text.removeAttribute("aria-busy");
      setText(text, whole);
      text.classList.toggle("is-blank", !whole);
      if (!whole) setText(text, succeeded ? "(an empty text)" : "(no text)");
      setText(state, "");
      delete state.dataset.state;
    },
  };
}

function toldOf(job) {
  return [
    job.error && h("p", { class: "error-box" }, h("strong", {}, job.error.code), " ", job.error.message),
    job.finish_reason === "length" && h("p", { class: "hint" }, "It stopped at its max tokens."),
    job.continuity && h("p", { class: "hint" }, continuityOf(job.continuity)),
  ];
}

function continuityOf({ from_attempt: from, tokens }) {
  return `This attempt took up what attempt ${from} had told, at token ${number(tokens)}.`;
}

function sideOf(job, signal) {
  return [
    card("About it", { id: "about" }, facts([
      ["Model", job.model],
      ["Seed", h("span", { class: "id-copy" }, h("code", {}, String(job.seed)), copyButton(String(job.seed), "Copy the seed"))],
      ["Finish", job.finish_reason],
      ["Tokens", job.usage && `${number(job.usage.prompt_tokens)} read, ${number(job.usage.completion_tokens)} written`],
      ["Speed", speedOf(job)],
      ["Accepted", when(job.created_at)],
      ["Took", job.ended_at && duration(seconds(job.ended_at) - seconds(job.created_at))],
      ["Priority", job.priority],
      ["Line", job.custom_id && h("code", {}, job.custom_id)],
      ["Batch", job.batch_id && batchLink(job.batch_id)],
      ["Replay of", job.replay && jobLink(job.replay.of)],
    ])),
    card("Parameters", { id: "parameters" }, parametersOf(job.parameters)),
    job.recipe && recipeCard(job.recipe, signal),
    Object.keys(job.metadata).length > 0 && card("Metadata", { id: "metadata" }, facts(Object.entries(job.metadata))),
    job.logprobs && logprobsCard(job.logprobs),
  ];
}

function speedOf(job) {
  const [took, written] = [job.timings?.decode, job.usage?.completion_tokens];
  return took && written > 1 ? `${rate((written - 1) / took)} tokens/s` : null;
}

/** What was asked for, and what the defaults were for the rest. */
function parametersOf(parameters) {
  const set = Object.entries({ ...DEFAULTS, ...parameters }).filter(([, value]) => value !== null && !isEmpty(value));
  return facts(set.map(([name, value]) => [name, h("code", {}, typeof value === "object" ? JSON.stringify(value) : String(value))]));
}

const isEmpty = (value) => typeof value === "object" && Object.keys(value).length === 0;

/** The recipe's id, and on demand all that it stands for. */
function recipeCard(id, signal) {
  const place = h("div", {}, h("p", { class: "hint" }, "Reading it."));
  const opened = async (event) => {
    if (!event.target.open || place.shown) return;
    try {
      const { body } = await get(`/v1/recipes/${encodeURIComponent(id)}`, signal);
      place.shown = true;
      fill(place, facts(Object.entries(body).map(([name, value]) => [name, h("code", {}, typeof value === "object" ? JSON.stringify(value) : String(value))])));
    } catch (error) {
      if (!signal.aborted) fill(place, h("p", { class: "is-error" }, error.message));
    }
  };
  return card("Recipe", { id: "recipe" }, h("p", {}, h("code", { class: "id" }, id)), h("details", { ontoggle: opened }, h("summary", {}, "All that decides the text"), place));
}

const MAX_TOKENS_SHOWN = 500;

function logprobsCard(told) {
  const rows = told.slice(0, MAX_TOKENS_SHOWN).map((entry) =>
    h("tr", {}, h("td", {}, h("code", {}, JSON.stringify(entry.token))), h("td", { class: "numeric" }, chance(entry.logprob)), h("td", {}, (entry.top ?? []).map((other) => h("span", { class: "other-token" }, h("code", {}, JSON.stringify(other.token)), ` ${chance(other.logprob)} `)))),
  );
  const heads = ["Token", "Chance", "Likeliest"].map((name) => h("th", { scope: "col" }, name));
  const table = h("div", { class: "table-wrap", tabindex: 0, role: "region", "aria-label": "Log probabilities" }, h("table", {}, h("caption", { class: "unseen" }, "Log probabilities of the tokens"), h("thead", {}, h("tr", {}, heads)), h("tbody", {}, rows)));
  return card("Log probabilities", { id: "logprobs" }, h("details", {}, h("summary", {}, `${plural(told.length, "token")}`), table));
}

const chance = (logprob) => (logprob === null ? "0 %" : `${(100 * Math.exp(logprob)).toFixed(1)} %`);
