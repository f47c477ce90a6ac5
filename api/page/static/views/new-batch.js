// Submits batches: files dropped or chosen, or prompts that are typed; each file becomes a batch.

import { idempotencyKey, post } from "../core/api.js";
import { fill, h, setText } from "../core/dom.js";
import { bytes, oneLine, plural } from "../core/format.js";
import { recognise, toLines } from "../core/lines.js";
import { go } from "../core/router.js";
import { upload } from "../core/upload.js";
import { button, card, link } from "../parts/bits.js";
import { dropZone } from "../parts/drop-zone.js";
import { clearErrors, errorSummary, field, FieldError, numberField, select, showError, textArea } from "../parts/fields.js";
import { icon } from "../parts/icons.js";
import { knobs } from "../parts/knobs.js";
import { whisper } from "../parts/say.js";
import { newTabs } from "./new-tabs.js";

const KINDS = { batch: "lines of a batch", prompts: "prompts as JSON", text: "a prompt a line" };
const ENDPOINTS = ["/v1/chat/completions", "/v1/completions", "/v1/jobs"].map((url) => [url, url]);

export function show({ signal }) {
  const form = makeForm(signal);
  const element = h("div", { class: "view" }, h("div", { class: "view-head" }, h("h1", {}, "New batch")), newTabs("batch"), form);
  return { title: "New batch", element };
}

function makeForm(signal) {
  const summary = errorSummary();
  const rows = h("ul", { class: "file-rows", "aria-label": "Files to send" });
  const chosen = [];
  const typed = textArea("prompts", "Or type prompts, one a line", { rows: 4 });
  const options = batchFields();
  const dials = knobs({ single: false });
  const fields = { ...dials.fields, ...options, prompts: typed };
  const files = dropZone(take);
  fields.file = { control: files.input, error: () => {} };

  async function take(list) {
    for (const file of list) {
      const row = fileRow(file, await recognise(file), () => {
        chosen.splice(chosen.indexOf(row), 1);
        row.element.remove();
      });
      chosen.push(row);
      rows.append(row.element);
    }
    whisper(`${plural(chosen.length, "file")} chosen.`);
  }

  async function submit(event) {
    event.preventDefault();
    if (send.getAttribute("aria-disabled") === "true") return;
    clearErrors(fields, summary);
    send.setAttribute("aria-disabled", "true");
    try {
      const work = { request: readOptions(options), given: dials.read(), system: options.system.control.value.trim(), signal };
      const sent = await sendAll(await toSend(chosen, typed, rows), work);
      if (sent.length === 1) go(["batches", sent[0]]);
      else if (sent.length) go(["batches"]);
    } catch (error) {
      if (!signal.aborted) showError(error, fields, summary);
    } finally {
      send.removeAttribute("aria-disabled");
    }
  }

  const send = button("Send", undefined, { look: "main", type: "submit", name: "upload" });
  return h(
    "form",
    { class: "columns", novalidate: true, onsubmit: submit },
    h("div", { class: "wide-column" }, card("Prompts", { id: "what" }, files.element, rows, typed.element, summary, h("div", { class: "actions" }, send)), card("The batch", { id: "batch-options" }, h("div", { class: "fields" }, [options.name, options.endpoint, options.completion_window, options.weight, options.on_invalid, options.output_order].map((one) => one.element)))),
    h("div", { class: "side" }, card("For plain prompts", { id: "knobs" }, h("p", { class: "hint" }, "Lines of a batch bring their own parameters; these are for prompts that do not."), options.system.element, dials.element)),
  );
}

function batchFields() {
  return {
    name: field("name", "Name", { placeholder: "for you to find it by", maxlength: 512 }),
    endpoint: select("endpoint", "Endpoint", [["", "as the lines say"], ...ENDPOINTS]),
    completion_window: field("completion_window", "Window", { placeholder: "no end", hint: "Such as 90m, 24h or 7d: what has not run by then expires." }),
    weight: numberField("weight", "Weight", { min: 0.1, max: 10, placeholder: "1", hint: "Its share beside your other batches." }),
    on_invalid: select("on_invalid", "A line that cannot run", [["", "ends in the error file"], ["reject", "refuses the batch"]]),
    output_order: select("output_order", "Order of results", [["", "as they end"], ["input", "as the lines stand"]]),
    system: textArea("system", "System message", { rows: 2 }),
  };
}

function readOptions(fields) {
  const text = (name) => fields[name].control.value.trim();
  const metadata = Object.fromEntries(["name", "weight", "on_invalid", "output_order"].map((name) => [name, text(name)]).filter(([, value]) => value));
  return {
    endpoint: text("endpoint"),
    ...(text("completion_window") ? { completion_window: text("completion_window") } : {}),
    ...(Object.keys(metadata).length ? { metadata } : {}),
  };
}

/** What was chosen; or what was typed, as a file. */
async function toSend(chosen, typed, rows) {
  if (chosen.length) return chosen.filter((row) => !row.sent);
  const text = typed.control.value;
  if (!text.trim()) throw new FieldError("prompts", "Choose a file, or type a prompt.");
  const row = fileRow(new File([text], "typed.txt"), { kind: "text", endpoint: "/v1/jobs", sample: text }, () => {});
  fill(rows, row.element);
  return [row];
}

/** Ids of the batches that were made. A file that fails says so in its row; the others go on. */
async function sendAll(rows, work) {
  const sent = [];
  let failure = null;
  for (const row of rows) {
    try {
      sent.push(await sendOne(row, work));
    } catch (error) {
      if (work.signal.aborted) throw error;
      row.tell(error.message, "failed");
      failure = error;
    }
  }
  if (failure) throw failure;
  return sent;
}

async function sendOne(row, { request, given, system, signal }) {
  row.tell("preparing", "queued");
  const file = row.kind === "batch" ? row.file : await toLines(row.file, row.kind, given, system);
  row.stored ??= await upload(file, { signal, onProgress: row.progress });
  const { lines } = row.stored;
  row.tell(`${plural(lines.total, "line")}${lines.invalid ? `, ${lines.invalid} cannot run` : ""}`, "running");
  const body = { ...request, endpoint: request.endpoint || row.endpoint, input_file_id: row.stored.id };
  const batch = await post("/v1/batches", body, { signal, key: idempotencyKey() });
  row.sent = true;
  row.tell("sent", "succeeded", batch.id);
  return batch.id;
}

/** One file on its way. */
function fileRow(file, { kind, endpoint, sample }, remove) {
  const bar = h("progress", { max: 1, value: 0, "aria-label": `Upload of ${file.name}`, hidden: true });
  const state = h("span", { class: "file-state", role: "status" });
  const drop = button("Remove", remove, { look: "quiet", "aria-label": `Remove ${file.name}` });
  const element = h(
    "li",
    { class: "file-row" },
    icon("file", 22),
    h("div", { class: "grow" }, h("p", {}, h("strong", {}, file.name), " ", h("span", { class: "hint" }, `${bytes(file.size)}, ${KINDS[kind]}`)), h("p", { class: "excerpt" }, oneLine(sample, 100)), bar, state),
    drop,
  );
  return {
    element, file, kind, endpoint, sent: false, stored: null,
    progress(part) {
      bar.hidden = false;
      bar.value = part;
      setText(state, part < 1 ? "sending" : "being checked");
    },
    tell(message, look, batch) {
      fill(state, h("span", { class: `badge badge-${look}` }, icon(look, 14), message), batch && link("Its progress", `#/batches/${batch}`, { look: "quiet" }));
      drop.hidden = look === "running" || look === "succeeded";
      if (look !== "queued") bar.hidden = true;
    },
  };
}
