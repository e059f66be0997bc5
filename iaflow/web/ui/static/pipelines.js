// The list of pipelines: checks and imports definitions, as they are written.

import { ask, clearProblems, root, showProblem } from "./app.js";
import { body, readJson } from "./controls.js";

const form = document.getElementById("import-form");
const text = document.getElementById("import-text");

document.getElementById("import-file")?.addEventListener("change", async (event) => {
  const [file] = event.target.files;
  if (file) text.value = await file.text();
});

form?.addEventListener("submit", (event) => {
  event.preventDefault();
  send(event.submitter?.value === "check");
});

async function send(isCheck) {
  clearProblems(form);
  const region = document.getElementById("findings");
  region.replaceChildren();
  const [literal, fault] = readJson(text.value);
  if (literal === null) {
    document.getElementById("import-error").textContent = fault || "paste a definition, or choose a file";
    text.setAttribute("aria-invalid", "true");
    text.focus();
    return;
  }
  const buttons = [...form.querySelectorAll("button")];
  for (const button of buttons) button.disabled = true;
  try {
    if (isCheck) {
      const found = await ask("POST", "/api/v1/pipelines/validate", body([["definition", literal]]));
      region.append(heading(found.ok ? "It may be imported." : count(found.errors.length), found.ok ? "done" : "problem"));
      region.append(...list(found.errors, "error"), ...list(found.warnings, "warning"));
    } else {
      const made = await ask("POST", "/api/v1/pipelines", body([["definition", literal]]));
      const link = document.createElement("a");
      link.href = `${root}/pipelines/${encodeURIComponent(made.pipeline.slug)}`;
      link.textContent = `See ${made.pipeline.name}`;
      const told = heading(made.is_new ? `Imported: ${made.pipeline.slug} is at import ${made.pipeline.number}. ` : "This text is the current version already: nothing was written. ", "done");
      told.append(link);
      region.append(told, ...list(made.warnings, "warning"));
    }
    region.focus();
  } catch (error) {
    if (error.code === "definition_refused") {
      region.append(heading(`${count(error.problems.length)} Nothing was imported.`, "problem"), ...list(error.problems, "error"));
      region.focus();
    } else showProblem(error, form);
  } finally {
    for (const button of buttons) button.disabled = false;
  }
}

function count(errors) {
  return errors === 1 ? "One thing is wrong with it." : `${errors} things are wrong with it.`;
}

function heading(words, kind) {
  const made = document.createElement("p");
  made.className = kind;
  made.textContent = words;
  return made;
}

function list(findings, kind) {
  if (!findings.length) return [];
  const made = document.createElement("ol");
  made.className = "findings";
  for (const one of findings) {
    const item = document.createElement("li");
    const place = document.createElement("code");
    place.textContent = one.pointer || "the whole document";
    const words = document.createElement("span");
    words.textContent = ` ${kind}: ${one.message}${one.hint ? ` (${one.hint})` : ""} `;
    const code = document.createElement("span");
    code.className = "muted";
    code.textContent = one.code;
    item.append(place, words, code);
    made.append(item);
  }
  return [made];
}
