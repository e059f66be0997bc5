// Schedules: fired by hand, written by their form.

import { ask, clearProblems, confirmBy, Problem, root, showProblem } from "./app.js";
import { body, prepare, readJson, spellNumber, toInstant } from "./controls.js";

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-fire]");
  if (!button || !(await confirmBy("confirm-fire", `${button.dataset.name} starts a run, as one of its instants would, paused or not.`))) return;
  try {
    const fired = await ask("POST", button.dataset.fire);
    location.assign(`${root}/runs/${encodeURIComponent(fired.run_id)}`);
  } catch (error) {
    showProblem(error);
  }
});

const form = document.getElementById("schedule-form");
const field = (name) => form.querySelector(`[data-field="${name}"]`);

if (form) {
  prepare(form);
  if (form.dataset.name === undefined) {
    const zone = field("zone");
    zone.value = Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";
  }
  spellInterval();
  showKind();
  form.addEventListener("change", showKind);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    save();
  });
}

function kind() {
  return form.querySelector('input[name="kind"]:checked').value;
}

function showKind() {
  for (const part of form.querySelectorAll("[data-when]")) part.hidden = part.dataset.when !== kind();
}

/** Shows an interval in the largest unit that fits. */
function spellInterval() {
  const every = field("interval_seconds");
  const unit = document.getElementById("s-unit");
  const seconds = Number(every.value);
  if (!seconds) return;
  const fitting = [...unit.options].reverse().find((one) => seconds % Number(one.value) === 0);
  unit.value = fitting.value;
  every.value = String(seconds / Number(fitting.value));
}

async function save() {
  clearProblems(form);
  const faults = [];
  const fault = (name, message) => faults.push({ pointer: `/${name}`, message, hint: "" });
  const text = (name) => field(name).value.trim();
  const parts = [["slug", JSON.stringify(text("slug"))], ["misfire", JSON.stringify(field("misfire").value)]];
  const name = form.dataset.name ?? text("name");
  if (!name) fault("name", "a name is needed");
  if (kind() === "cron") {
    if (!text("cron")) fault("cron", "an expression is needed");
    parts.push(["cron", JSON.stringify(text("cron"))], ["zone", JSON.stringify(text("zone") || "UTC")]);
  } else {
    const count = spellNumber(field("interval_seconds").value);
    if (count === null || !(Number(count) > 0)) fault("interval_seconds", "a number is needed");
    else parts.push(["interval_seconds", String(Math.round(Number(count) * Number(document.getElementById("s-unit").value)))]);
  }
  const [literal, wrong] = readJson(field("input").value);
  if (wrong) fault("input", wrong);
  parts.push(["input", literal ?? "{}"]);
  if (text("instant_as")) parts.push(["instant_as", JSON.stringify(text("instant_as"))]);
  for (const at of ["starts_at", "ends_at"]) {
    if (field(at).value) parts.push([at, JSON.stringify(toInstant(field(at)))]);
  }
  if (faults.length) {
    showProblem(new Problem(0, { problems: faults }), form);
    return;
  }
  const button = form.querySelector("[type=submit]");
  button.disabled = true;
  try {
    if (form.dataset.name === undefined && (await isTaken(name))) {
      throw new Problem(409, { problems: [{ pointer: "/name", message: "there is a schedule of that name already", hint: "" }] });
    }
    await ask("PUT", `/api/v1/schedules/${encodeURIComponent(name)}`, body(parts));
    location.assign(`${root}/schedules/${encodeURIComponent(name)}`);
  } catch (error) {
    button.disabled = false;
    for (const one of error.problems ?? []) {
      // The client speaks of the interval as of `every`.
      if (one.pointer === "/every") one.pointer = "/interval_seconds";
    }
    showProblem(error, form);
    const shown = form.querySelector("details:has([aria-invalid])");
    if (shown) shown.open = true;
  }
}

/** Tells whether a schedule of this name is there: a new one must not take its place unseen. */
async function isTaken(name) {
  try {
    await ask("GET", `/api/v1/schedules/${encodeURIComponent(name)}`);
    return true;
  } catch (error) {
    if (error.status === 404) return false;
    throw error;
  }
}
