// Submits one job, with every knob.

import { get, idempotencyKey, post } from "../core/api.js";
import { fill, h, setText } from "../core/dom.js";
import { go } from "../core/router.js";
import { button, card, copyButton } from "../parts/bits.js";
import { clearErrors, errorSummary, FieldError, showError, textArea } from "../parts/fields.js";
import { knobs } from "../parts/knobs.js";
import { say } from "../parts/say.js";
import { newTabs } from "./new-tabs.js";

const ROLES = ["system", "user", "assistant"];
const EXAMPLE = "Write a haiku about ice hockey";

export function show({ query, signal }) {
  const form = makeForm();
  if (query.from) fillFrom(form, query.from, signal);
  const element = h("div", { class: "view" }, h("div", { class: "view-head" }, h("h1", {}, "New job")), newTabs("job"), form.element);
  return { title: "New job", element };
}

function makeForm() {
  const summary = errorSummary();
  const chat = chatFields();
  const prompt = textArea("prompt", "Raw prompt", { rows: 6, hint: "Sent as it is; control tokens in it are parsed." });
  const dials = knobs();
  const fields = { ...dials.fields, messages: chat, prompt };
  const mode = modes(chat.element, prompt.element);
  const preview = h("pre", { class: "text preview", tabindex: 0, "aria-label": "The request as a command" });
  let key = idempotencyKey();

  const read = () => ({ ...(mode.raw() ? { prompt: prompt.control.value } : { messages: chat.read() }), ...dials.read() });
  const repaint = () => setText(preview, commandOf(read));
  const submit = async (event) => {
    event.preventDefault();
    if (send.getAttribute("aria-disabled") === "true") return;
    send.setAttribute("aria-disabled", "true");
    clearErrors(fields, summary);
    try {
      const job = await post("/v1/jobs", checked(read()), { key });
      go(["jobs", job.id]);
    } catch (error) {
      showError(error, fields, summary);
    } finally {
      send.removeAttribute("aria-disabled");
    }
  };
  const send = button("Submit", undefined, { look: "main", type: "submit", name: "next" });
  const element = h(
    "form",
    { class: "columns", novalidate: true, onsubmit: submit, oninput: () => { key = idempotencyKey(); repaint(); }, onclick: () => queueMicrotask(repaint) },
    h("div", { class: "wide-column" }, card("Prompt", { id: "what" }, mode.element, chat.element, prompt.element, summary, h("div", { class: "actions" }, send)), card("As a command", { id: "command", actions: copyButton(() => preview.textContent, "Copy the command") }, preview)),
    h("div", { class: "side" }, card("Parameters", { id: "knobs" }, dials.element)),
  );
  repaint();
  return {
    element,
    fill(job) {
      if (job.prompt === null) chat.fill(job.messages);
      else prompt.control.value = job.prompt;
      mode.choose(job.prompt !== null);
      dials.fill({ ...job.parameters, seed: job.seed, metadata: job.metadata, priority: job.priority });
      repaint();
    },
  };
}

function checked(body) {
  if (body.messages && body.messages.length === 0) throw new FieldError("messages", "messages: say something first.");
  if (body.prompt === "") throw new FieldError("prompt", "prompt: say something first.");
  return body;
}

/** Chat messages, or a raw prompt. */
function modes(chat, raw) {
  const choose = (isRaw) => {
    [chat.hidden, raw.hidden] = [isRaw, !isRaw];
    for (const input of inputs) input.checked = (input.value === "raw") === isRaw;
  };
  const option = (value, text) => {
    const input = h("input", { type: "radio", name: "mode", value, onchange: () => choose(value === "raw") });
    return [input, h("label", { class: "segment" }, input, h("span", {}, text))];
  };
  const options = [option("chat", "Chat"), option("raw", "Raw prompt")];
  const inputs = options.map(([input]) => input);
  choose(false);
  const element = h("fieldset", { class: "segments" }, h("legend", { class: "unseen" }, "Kind of prompt"), options.map(([, label]) => label));
  return { element, choose, raw: () => inputs[1].checked };
}

/** The messages of a chat: as many as there are turns. */
function chatFields() {
  const list = h("ol", { class: "message-fields" });
  const problem = h("p", { class: "field-error" });
  const add = (role = "user", content = "") => {
    const number = list.children.length + 1;
    const who = h("select", { "aria-label": `Role of message ${number}` }, ROLES.map((name) => h("option", { value: name, selected: name === role }, name)));
    const text = h("textarea", { rows: number === 1 ? 6 : 3, "aria-label": `Text of message ${number}`, placeholder: EXAMPLE });
    text.value = content;
    const remove = button("Remove", () => row.remove(), { look: "quiet", "aria-label": `Remove message ${number}` });
    const row = h("li", { class: "message-field" }, h("div", { class: "message-head" }, who, remove), text);
    list.append(row);
    return text;
  };
  add();
  const more = button("Add a message", () => add().focus(), { look: "quiet", name: "plus" });
  return {
    element: h("div", { class: "chat-fields" }, list, problem, more),
    get control() {
      return list.querySelector("textarea") ?? more;
    },
    error: (message) => setText(problem, message ?? ""),
    read: () => [...list.children].map((row) => ({ role: row.querySelector("select").value, content: row.querySelector("textarea").value })).filter(({ content }) => content !== ""),
    fill(messages) {
      fill(list);
      for (const { role, content } of messages) add(role, content);
    },
  };
}

async function fillFrom(form, id, signal) {
  try {
    form.fill(await get(`/v1/jobs/${encodeURIComponent(id)}`, signal));
  } catch (error) {
    if (!signal.aborted) say(error.message, "failed");
  }
}

/** The request as somebody would type it. A key that is set is named, not shown. */
function commandOf(read) {
  let body;
  try {
    body = JSON.stringify(read(), null, 2);
  } catch (error) {
    return error.message;
  }
  return `curl ${location.origin}/v1/jobs \\\n  -H 'Content-Type: application/json' \\\n  -d '${body.replaceAll("'", "'\\''")}'`;
}
