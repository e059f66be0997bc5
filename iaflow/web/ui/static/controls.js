// Forms made of controls.html: read exactly as they were written, judged as far as a browser can.

import { Raw } from "./app.js";

const NUMBER = /^-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?$/;
const FLAWS = ["valueMissing", "badInput", "patternMismatch", "rangeOverflow", "rangeUnderflow", "stepMismatch", "tooLong", "tooShort"];
const NEEDED = "an answer is needed";

/** Prepares a form: instants stand in the viewer's zone. */
export function prepare(form) {
  for (const input of form.querySelectorAll('input[type="datetime-local"]')) {
    for (const bound of ["min", "max"]) {
      const given = input.dataset[bound];
      if (given) input[bound] = toLocal(given);
    }
    if (input.dataset.instant) {
      input.value = toLocal(input.dataset.instant);
      input.dataset.shown = input.value;
    }
  }
  form.addEventListener("input", (event) => {
    const box = event.target.closest("[data-field-box]");
    const fault = box?.querySelector(".fault");
    if (!fault?.textContent) return;
    fault.textContent = "";
    box.querySelector("[aria-invalid]")?.removeAttribute("aria-invalid");
  });
}

/**
 * Returns what a form's controls say, as JSON text by name. `empty(control)` says what an empty one
 * stands for: [JSON text, or undefined to leave it out; what is wrong with that]. `faults` are those
 * that a browser sees by itself.
 */
export function readControls(form, empty) {
  const values = new Map();
  const faults = [];
  for (const control of form.querySelectorAll("[data-kind]")) {
    const name = control.dataset.field;
    let [literal, fault] = readControl(control);
    if (literal === null && !fault) [literal, fault] = empty(control);
    if (fault) faults.push({ pointer: point(name), message: fault, hint: "" });
    else if (literal !== undefined) values.set(name, literal);
  }
  return { values, faults };
}

/** Returns an object of JSON from texts of JSON by name. */
export function join(values) {
  return `{${[...values].map(([name, literal]) => `${JSON.stringify(name)}:${literal}`).join(",")}}`;
}

/** Returns a body of texts of JSON by name, to be sent as it is. */
export function body(values) {
  return new Raw(join(values));
}

function readControl(control) {
  const kind = control.dataset.kind;
  if (kind === "radio" || kind === "boolean") {
    const chosen = control.querySelector("input:checked");
    if (chosen) return [chosen.value, ""];
    return [null, control.hasAttribute("data-required") ? NEEDED : ""];
  }
  if (kind === "multiselect") {
    const chosen = [...control.querySelectorAll("input:checked")].map((one) => one.value);
    return [`[${chosen.join(",")}]`, chosen.length === 0 && control.hasAttribute("data-required") ? NEEDED : ""];
  }
  if (kind === "checkbox") return [String(control.checked), control.required && !control.checked ? NEEDED : ""];
  const flaw = findFlaw(control);
  const text = control.value;
  if (text === "") return [null, flaw];
  switch (kind) {
    case "select":
      return [text, flaw];
    case "number":
    case "integer":
      return [spellNumber(text), flaw || (spellNumber(text) === null ? "this is no number" : "")];
    case "json":
      return readJson(text, flaw);
    case "datetime":
      return [JSON.stringify(toInstant(control)), flaw];
    default:
      return [JSON.stringify(text), flaw];
  }
}

function findFlaw(control) {
  const state = control.validity;
  if (state.valueMissing) return NEEDED;
  return FLAWS.some((flaw) => state[flaw]) ? control.validationMessage : "";
}

/** Returns text of JSON, checked but as it was written; [null, why] if it is none. */
export function readJson(text, flaw = "") {
  if (text.trim() === "") return [null, flaw];
  try {
    JSON.parse(text);
    return [text.trim(), flaw];
  } catch (error) {
    return [null, `this is no JSON: ${error.message}`];
  }
}

/** Returns a number as JSON spells it, digit by digit: no precision is lost on the way. */
export function spellNumber(text) {
  const trimmed = text.trim();
  if (!NUMBER.test(trimmed)) return null;
  return trimmed
    .replace(/^(-?)0+(?=\d)/, "$1")
    .replace(/^(-?)\./, "$10.")
    .replace(/\.(?=$|[eE])/, "");
}

function point(name) {
  return `/${name.replaceAll("~", "~0").replaceAll("/", "~1")}`;
}

// --- instants

function toLocal(instant) {
  const at = new Date(instant);
  if (Number.isNaN(at.getTime())) return "";
  const two = (number) => String(number).padStart(2, "0");
  const day = `${String(at.getFullYear()).padStart(4, "0")}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
  return `${day}T${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
}

/** Returns the instant of a control; one that was not touched is what it was, to the last digit. */
export function toInstant(control) {
  if (control.dataset.instant && control.value === control.dataset.shown) return control.dataset.instant;
  const at = new Date(control.value);
  return Number.isNaN(at.getTime()) ? control.value : at.toISOString();
}

// --- drafts

/** Returns what stands in a form, to be put back by `restore`. */
export function remember(form) {
  const found = {};
  for (const control of form.querySelectorAll("[data-kind]")) {
    const name = control.dataset.field;
    if (control.matches("fieldset")) found[name] = [...control.querySelectorAll("input:checked")].map((one) => one.value);
    else found[name] = control.type === "checkbox" ? control.checked : control.value;
  }
  return found;
}

/** Puts back what `remember` has returned, as far as the form still has it. */
export function restore(form, found) {
  for (const control of form.querySelectorAll("[data-kind]")) {
    const known = found[control.dataset.field];
    if (known === undefined) continue;
    if (control.matches("fieldset")) {
      if (Array.isArray(known)) for (const input of control.querySelectorAll("input")) input.checked = known.includes(input.value);
    } else if (control.type === "checkbox") control.checked = known === true;
    else if (typeof known === "string") control.value = known;
  }
}
