// The page of a pipeline: its start form, sent exactly as it was written.

import { ask, clearProblems, Problem, root, showProblem } from "./app.js";
import { body, join, prepare, readControls, readJson } from "./controls.js";

const form = document.getElementById("start-form");

/** A key for one start: sent again after a broken connection, it starts nothing more. */
const makeKey = () => [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
let key = makeKey();

if (form) {
  prepare(form);
  form.addEventListener("input", () => {
    key = makeKey();
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    start();
  });
}

async function start() {
  clearProblems(form);
  const { values, faults } = readControls(form, empty);
  faults.push(...addFurther(values));
  if (faults.length) {
    showProblem(new Problem(0, { problems: faults }), form);
    return;
  }
  const button = form.querySelector("[type=submit]");
  button.disabled = true;
  try {
    const run = await ask("POST", `/api/v1/pipelines/${encodeURIComponent(form.dataset.slug)}/runs`, body([["input", join(values)]]), { "Idempotency-Key": key });
    location.assign(`${root}/runs/${encodeURIComponent(run.run_id)}`);
  } catch (error) {
    button.disabled = false;
    if (error.status) key = makeKey();
    showProblem(error, form);
  }
}

/** A text that was emptied is empty; a default of another kind cannot be taken away. */
function empty(control) {
  const begun = control.defaultValue ?? "";
  if (!begun) return [undefined, ""];
  if (control.dataset.kind === "text" || control.dataset.kind === "textarea") return ['""', ""];
  return [undefined, `a value is needed; by default it is ${begun}`];
}

/** Adds what was written beside the fields; returns what is wrong with it. */
function addFurther(values) {
  const text = document.getElementById("input-more")?.value ?? "";
  if (text.trim() === "") return [];
  const [literal, fault] = readJson(text);
  const read = fault ? null : JSON.parse(literal);
  if (fault || read === null || typeof read !== "object" || Array.isArray(read)) {
    return [{ pointer: "/", message: fault || "this is no object", hint: "" }];
  }
  for (const [name, part] of splitObject(literal)) values.set(name, part);
  return [];
}

/** Yields the members of an object of JSON as they are written, each with its name. */
export function* splitObject(text) {
  let depth = 0;
  let begin = 1;
  let colon = -1;
  for (let at = 1; at < text.length; at += 1) {
    const sign = text[at];
    if (sign === '"') {
      for (at += 1; text[at] !== '"'; at += 1) if (text[at] === "\\") at += 1;
    } else if (sign === "{" || sign === "[") depth += 1;
    else if (sign === ":" && depth === 0) colon = at;
    else if ((sign === "," || sign === "}") && depth === 0) {
      if (colon > 0) yield [JSON.parse(text.slice(begin, colon)), text.slice(colon + 1, at).trim()];
      begin = at + 1;
      colon = -1;
    } else if (sign === "}" || sign === "]") depth -= 1;
  }
}
