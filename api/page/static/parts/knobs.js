// Every knob of a generation as fields. An empty field is not sent: the API's own default, shown in grey, counts then.

import { h } from "../core/dom.js";
import { button } from "./bits.js";
import { field, FieldError, group, numberField, select, textArea } from "./fields.js";

const MAX_SEED = 2 ** 32 - 2;
const NUMBERS = ["temperature", "max_tokens", "top_p", "top_k", "min_p", "repeat_penalty", "repeat_last_n", "seed", "logprobs", "deadline_seconds", "max_attempts"];
const WORDS = ["priority", "model"];
const MAX_PAIRS = 16;

/**
 * `{element, fields, read(), fill(values)}`. `read` answers what is set, as the API wants it, and throws a FieldError.
 * `models`: names to choose from. `single`: with what only a job of its own has.
 */
export function knobs({ single = true } = {}) {
  const fields = Object.fromEntries([...sampling(), ...output(), ...delivery(single)].map((one) => [one.name, one]));
  const metadata = metadataRows();
  fields.metadata = metadata;
  const of = (...names) => names.map((name) => fields[name]?.element);
  const schema = fields.json_schema.element;
  const showSchema = () => {
    schema.hidden = fields.response_format.control.value !== "json_schema";
  };
  fields.response_format.control.addEventListener("change", showSchema);
  showSchema();
  const element = h(
    "div",
    { class: "knobs" },
    group("Sampling", of("temperature", "max_tokens", "seed", "top_p", "top_k", "min_p", "repeat_penalty", "repeat_last_n")),
    group("Output", of("stop", "response_format", "json_schema", "logprobs", "exact", "logit_bias")),
    group("Delivery", of("priority", "deadline_seconds", "max_attempts", "model"), metadata.element),
  );
  return {
    element,
    fields,
    read: () => readAll(fields),
    fill(values) {
      fillAll(fields, values);
      showSchema();
    },
  };
}

function sampling() {
  return [
    numberField("temperature", "Temperature", { min: 0, max: 100, placeholder: "1.0", hint: "0 takes the likeliest token every time." }),
    numberField("max_tokens", "Max tokens", { min: 1, step: 1, placeholder: "100", hint: "Of the text that is written." }),
    numberField("seed", "Seed", { min: 0, max: MAX_SEED, step: 1, placeholder: "drawn", hint: "Drawn and stored where none is given." }),
    numberField("top_p", "Top-p", { min: 0, max: 1, placeholder: "off" }),
    numberField("top_k", "Top-k", { min: 1, step: 1, placeholder: "off" }),
    numberField("min_p", "Min-p", { min: 0, max: 1, placeholder: "off" }),
    numberField("repeat_penalty", "Repeat penalty", { min: 0, max: 100, placeholder: "1.2" }),
    numberField("repeat_last_n", "Repeat window", { min: 0, max: 65_536, step: 1, placeholder: "64", hint: "Tokens that the penalty looks back." }),
  ];
}

function output() {
  return [
    textArea("stop", "Stop strings", { rows: 2, hint: "One a line, four at most; write a line end as \\n." }),
    select("response_format", "Format", [["", "any text"], ["json_object", "a JSON object"], ["json_schema", "JSON of a schema"]]),
    textArea("json_schema", "JSON schema", { rows: 5, placeholder: '{"type": "object", "properties": {"title": {"type": "string"}}}' }),
    numberField("logprobs", "Log probabilities", { min: 0, max: 20, step: 1, placeholder: "off", hint: "Likeliest tokens to tell at each place." }),
    select("exact", "Exact", [["", "default"], ["true", "on"], ["false", "off"]], { hint: "The text depends on nothing that runs beside it." }),
    textArea("logit_bias", "Logit bias", { rows: 2, placeholder: "1234: -5", hint: "A token id and a bias from -100 to 100, one pair a line." }),
  ];
}

function delivery(single) {
  const more = [
    numberField("deadline_seconds", "Deadline, seconds", { min: 0, placeholder: "none", hint: "Past it the job ends with the text it has." }),
    numberField("max_attempts", "Attempts at most", { min: 1, max: 100, step: 1, placeholder: "default" }),
    field("model", "Model", { placeholder: "default", spellcheck: "false" }),
  ];
  const choices = [["", single ? "interactive" : "batch"], single ? ["batch", "batch"] : ["interactive", "interactive"]];
  return [select("priority", "Priority", choices), ...more];
}

/** Pairs of a key and a value, as many as there is something to say. */
function metadataRows() {
  const list = h("div", { class: "pairs" });
  const problem = h("p", { class: "field-error" });
  const add = (key = "", value = "") => {
    const remove = button("Remove", () => row.remove(), { look: "quiet", "aria-label": "Remove this pair" });
    const row = h("div", { class: "pair" }, pairInput("key", "Key", key, 64), pairInput("value", "Value", value, 512), remove);
    list.append(row);
    return row;
  };
  const more = button("Add metadata", () => list.children.length < MAX_PAIRS && add().querySelector("input").focus(), { look: "quiet", name: "plus" });
  const element = h("div", { class: "field wide" }, h("p", { class: "label" }, "Metadata"), list, more, problem);
  return {
    element,
    control: more,
    name: "metadata",
    error: (message) => problem.replaceChildren(message ?? ""),
    read: () => Object.fromEntries([...list.children].map((row) => [...row.querySelectorAll("input")].map((input) => input.value)).filter(([key]) => key)),
    fill(pairs) {
      list.replaceChildren();
      for (const [key, value] of Object.entries(pairs)) add(key, value);
    },
  };
}

function pairInput(kind, label, value, length) {
  const input = h("input", { type: "text", class: `pair-${kind}`, "aria-label": `Metadata: ${label.toLowerCase()}`, placeholder: label, maxlength: length, autocomplete: "off" });
  input.value = value;
  return input;
}

function readAll(fields) {
  const values = {};
  for (const name of NUMBERS) if (fields[name]) put(values, name, readNumber(fields[name]));
  for (const name of WORDS) if (fields[name]) put(values, name, fields[name].control.value.trim() || undefined);
  put(values, "stop", readStops(fields.stop.control.value));
  put(values, "logit_bias", readBias(fields.logit_bias.control.value));
  put(values, "response_format", readFormat(fields));
  const exact = fields.exact.control.value;
  if (exact) values.exact = exact === "true";
  const metadata = fields.metadata.read();
  if (Object.keys(metadata).length) values.metadata = metadata;
  return values;
}

function put(values, name, value) {
  if (value !== undefined) values[name] = value;
}

function readNumber({ control, name }) {
  if (control.validity.badInput) throw new FieldError(name, `${name}: must be a number.`);
  return control.value === "" ? undefined : Number(control.value);
}

function readStops(text) {
  const lines = text.split("\n").filter((line) => line !== "");
  return lines.length ? lines.map((line) => line.replaceAll("\\n", "\n")) : undefined;
}

function readBias(text) {
  const lines = text.split("\n").map((line) => line.trim()).filter(Boolean);
  if (!lines.length) return undefined;
  return Object.fromEntries(lines.map(readPair));
}

function readPair(line) {
  const found = /^(\d+)\s*[:=]\s*(-?\d+(?:\.\d+)?)$/.exec(line);
  if (!found) throw new FieldError("logit_bias", "logit_bias: each line is a token id, a colon and a number, such as 1234: -5.");
  return [found[1], Number(found[2])];
}

function readFormat(fields) {
  const type = fields.response_format.control.value;
  if (type !== "json_schema") return type ? { type } : undefined;
  try {
    return { type, json_schema: JSON.parse(fields.json_schema.control.value) };
  } catch {
    throw new FieldError("json_schema", "json_schema: it is not valid JSON.");
  }
}

/** A select that does not offer a value has it as what it says of itself where nothing is chosen. */
function choose(control, value) {
  control.value = value;
  if (control.selectedIndex === -1) control.value = "";
}

function fillAll(fields, values) {
  for (const name of [...NUMBERS, ...WORDS]) if (fields[name]) choose(fields[name].control, values[name] ?? "");
  fields.stop.control.value = (values.stop ?? []).map((text) => text.replaceAll("\n", "\\n")).join("\n");
  fields.logit_bias.control.value = Object.entries(values.logit_bias ?? {}).map(([id, bias]) => `${id}: ${bias}`).join("\n");
  fields.exact.control.value = values.exact === undefined || values.exact === null ? "" : String(values.exact);
  const { type, json_schema: schema } = values.response_format ?? {};
  fields.response_format.control.value = type && type !== "text" ? type : "";
  fields.json_schema.control.value = schema ? JSON.stringify(schema, null, 2) : "";
  fields.metadata.fill(values.metadata ?? {});
}
