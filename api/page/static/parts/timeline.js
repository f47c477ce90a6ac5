// A job's life in order: accepted, each attempt with its worker and its end, and what is still to come.

import { h } from "../core/dom.js";
import { duration, exact, now, seconds } from "../core/format.js";
import { badge } from "./bits.js";
import { icon } from "./icons.js";

const MEANINGS = {
  interrupted: "The worker was stopped and gave the job back. It costs no attempt.",
  lease_lost: "The worker fell silent, so the job was taken from it.",
};

export function timeline(job) {
  const steps = [accepted(job), ...(job.attempts ?? []).map((attempt, index) => tried(job, attempt, index)), rest(job)];
  return h("ol", { class: "timeline" }, steps);
}

function accepted(job) {
  return step("queued", "Accepted", job.created_at, [`Priority ${job.priority}.`]);
}

function tried(job, attempt, index) {
  const before = index === 0 ? job.created_at : job.attempts[index - 1].ended_at;
  const waited = seconds(attempt.started_at) - seconds(before);
  const ran = (attempt.ended_at ? seconds(attempt.ended_at) : now()) - seconds(attempt.started_at);
  const state = attempt.outcome ?? "running";
  return step(state, `Attempt ${attempt.number}`, attempt.started_at, [
    h("span", {}, badge(state), ` ${attempt.outcome ? "after" : "for"} ${duration(ran)}, having waited ${duration(waited)}`),
    h("span", { class: "worker-name" }, "on ", h("code", {}, attempt.worker)),
    MEANINGS[attempt.outcome],
    attempt.error && h("span", { class: "is-error" }, attempt.error.message),
  ]);
}

function rest(job) {
  if (job.ended_at) return step(job.state, `Ended: ${job.state}`, job.ended_at, [`${duration(seconds(job.ended_at) - seconds(job.created_at))} after it was accepted.`]);
  if (job.state !== "queued") return null;
  const place = job.queue_position;
  const told = place === 0 ? "It is next." : place === null ? "" : `${place} before it.`;
  return step("queued", job.attempts?.length ? "Waiting for another attempt" : "Waiting", null, [told]);
}

function step(state, title, at, lines) {
  const told = lines.filter(Boolean).map((line) => h("p", {}, line));
  return h(
    "li",
    { class: `step step-${state}` },
    h("span", { class: "step-mark" }, icon(state, 14)),
    h("div", {}, h("p", { class: "step-head" }, h("strong", {}, title), at && h("time", { datetime: at }, exact(at))), told),
  );
}

/** Where the time went, as a bar in parts with a legend in words. */
export function timings(job) {
  const told = job.timings;
  if (!told) return null;
  const parts = ["queued", "prefill", "decode"].filter((name) => told[name] !== undefined).map((name) => [name, told[name]]);
  return h(
    "ul",
    { class: "timings", "aria-label": "Where the time went" },
    parts.map(([name, value]) => h("li", { class: `timing timing-${name}` }, h("span", { class: "label" }, name), h("meter", { min: 0, max: Math.max(...parts.map(([, part]) => part), 0.001), value, "aria-label": `${name}: ${duration(value)}` }), h("span", { class: "numeric" }, duration(value)))),
    told.first_token !== undefined && h("li", { class: "timing" }, h("span", { class: "label" }, "first token"), h("span", {}), h("span", { class: "numeric" }, duration(told.first_token))),
  );
}
