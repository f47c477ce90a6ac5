// Form fields: each has a label, says what it is for, and shows its own error.

import { freshId, h, setText } from "../core/dom.js";

/**
 * A field `{element, control, name, error(message)}`. `tag` is the control's element, `props` its attributes, `hint` a
 * sentence under the label; `options` of a select are `[value, text]`.
 */
export function field(name, label, { tag = "input", hint, options, wide = false, ...props } = {}) {
  const id = freshId(`field-${name}`);
  const problem = h("p", { class: "field-error", id: `${id}-error` });
  const described = [hint && `${id}-hint`, `${id}-error`].filter(Boolean).join(" ");
  const choices = options?.map(([value, text]) => h("option", { value }, text));
  const type = tag === "input" && !props.type ? "text" : undefined;
  const control = h(tag, { id, name, type, autocomplete: "off", "aria-describedby": described, ...props }, choices);
  const element = h(
    "div",
    { class: `field${wide ? " wide" : ""}` },
    h("label", { for: id }, label),
    control,
    hint && h("p", { class: "hint", id: `${id}-hint` }, hint),
    problem,
  );
  return {
    element,
    control,
    name,
    error(message) {
      setText(problem, message ?? "");
      if (message) control.setAttribute("aria-invalid", "true");
      else control.removeAttribute("aria-invalid");
    },
  };
}

export const numberField = (name, label, props) => field(name, label, { type: "number", step: "any", inputmode: "decimal", ...props });

export const textArea = (name, label, props) => field(name, label, { tag: "textarea", rows: 3, wide: true, spellcheck: "false", ...props });

export const select = (name, label, options, props) => field(name, label, { tag: "select", options, ...props });

/** Fields that belong together, under a legend. */
export function group(legend, ...children) {
  return h("fieldset", {}, h("legend", {}, legend), h("div", { class: "fields" }, ...children));
}

/** What is wrong with what was typed, before the API is asked. */
export class FieldError extends Error {
  constructor(param, message) {
    super(message);
    this.param = param;
  }
}

/**
 * Shows an error at the field that it names, and in `summary`, which is read out. `fields` by the first part of a
 * parameter's name. The focus goes to the field, else to the summary.
 */
export function showError(error, fields, summary) {
  clearErrors(fields, summary);
  const name = (error.param ?? "").split(/[.[]/)[0];
  const found = fields[name];
  found?.error(error.message);
  setText(summary, error.message);
  summary.hidden = false;
  const target = found?.control ?? summary;
  target.closest("details")?.setAttribute("open", "");
  target.focus();
}

export function clearErrors(fields, summary) {
  for (const one of Object.values(fields)) one.error(null);
  summary.hidden = true;
  setText(summary, "");
}

export const errorSummary = () => h("p", { class: "error-summary", role: "alert", tabindex: -1, hidden: true });
