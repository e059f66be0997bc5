// The page of a question: sends the answer, keeps a draft until then, and tells what became of it.

import { ask, clearProblems, follow, Problem, readForm, refresh, showProblem, tell } from "./app.js";
import { body, join, prepare, readControls, remember, restore } from "./controls.js";

const page = document.getElementById("question");
const { pause, user, status } = page.dataset;
const place = `/api/v1/pauses/${encodeURIComponent(pause)}`;
const DRAFT = `iaflow.draft.${user}.${pause}`;
const NEWS = "iaflow.news";
const TEXTS = new Set(["text", "textarea"]);

const form = document.getElementById("answer-form");
let isDone = false;

// --- drafts: kept in this browser alone

function keepDraft() {
  try {
    localStorage.setItem(DRAFT, JSON.stringify(remember(form)));
  } catch {
    // Without storage it lasts as long as the page.
  }
}

function dropDraft() {
  clearTimeout(keeping);
  try {
    localStorage.removeItem(DRAFT);
  } catch {
    // There is none, then.
  }
}

function readDraft() {
  try {
    const found = JSON.parse(localStorage.getItem(DRAFT));
    return found && typeof found === "object" ? found : null;
  } catch {
    return null;
  }
}

let keeping = 0;

if (form) {
  prepare(form);
  const begun = JSON.stringify(remember(form));
  const draft = readDraft();
  if (draft && JSON.stringify(draft) !== begun) {
    restore(form, draft);
    const note = document.getElementById("draft");
    note.hidden = false;
    note.querySelector("button").addEventListener("click", () => {
      dropDraft();
      restore(form, JSON.parse(begun));
      note.hidden = true;
      form.querySelector("input, select, textarea")?.focus();
    });
  }
  form.addEventListener("input", () => {
    clearTimeout(keeping);
    keeping = setTimeout(keepDraft, 250);
  });
  addEventListener("pagehide", () => {
    if (!isDone && JSON.stringify(remember(form)) !== begun) keepDraft();
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
} else if (status !== "open") {
  dropDraft();
}

// --- the answer

async function send() {
  clearProblems(form);
  const { values, faults } = readControls(form, ({ dataset }) => [TEXTS.has(dataset.kind) ? '""' : "null", ""]);
  if (faults.length) {
    showProblem(new Problem(0, { problems: faults }), form);
    return;
  }
  const button = form.querySelector("[type=submit]");
  button.disabled = true;
  try {
    const told = await ask("POST", `${place}/answer`, body([["answer", join(values)], ["digest", JSON.stringify(page.dataset.digest)]]));
    isDone = true;
    dropDraft();
    const left = told.quorum - told.answers;
    const more = told.status === "open" ? ` ${left} more ${left === 1 ? "person" : "people"} must answer before the run goes on.` : " The run goes on.";
    leaveWith(`Your answer was recorded.${more}`);
  } catch (error) {
    button.disabled = false;
    showProblem(error, form);
    if (error.status === 409) offerReload();
  }
}

/** Loads the page anew, and says something there. */
function leaveWith(text) {
  try {
    sessionStorage.setItem(NEWS, text);
  } catch {
    // It goes unsaid.
  }
  location.reload();
}

/** What was answered is another question by now, or none: what was written stays as a draft. */
function offerReload() {
  keepDraft();
  const region = form.querySelector("[data-problem]");
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Show the question as it is now";
  button.addEventListener("click", () => location.reload());
  region.append(button);
  region.focus();
}

try {
  const news = sessionStorage.getItem(NEWS);
  sessionStorage.removeItem(NEWS);
  if (news) tell(news, "done");
} catch {
  // Nothing was to be said.
}

// --- it may be answered elsewhere, or end

if (form) {
  follow("/api/v1/inbox/stream", {
    inbox: async ({ items, has_more: hasMore }, end) => {
      if (isDone || hasMore || items.some((one) => one.pause_id === pause)) return;
      let now = null;
      try {
        now = await ask("GET", place);
      } catch {
        now = null;
      }
      if (isDone || now?.status === "open") return;
      end();
      const fate = { answered: `answered by ${now?.answered_by}`, expired: "closed: its time is over", cancelled: "withdrawn" };
      keepDraft();
      form.querySelector("[type=submit]").disabled = true;
      tell(`Meanwhile this question was ${fate[now?.status] ?? "given to others"}. It cannot be answered here any more.`);
    },
  });
}

// --- others

document.getElementById("reassign-form")?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const asked = event.currentTarget;
  clearProblems(asked);
  const words = (id) => document.getElementById(id).value.split(",").map((word) => word.trim()).filter(Boolean);
  try {
    await ask("POST", `${place}/reassign`, { users: words("reassign-users"), roles: words("reassign-roles") });
    leaveWith("They are asked now.");
  } catch (error) {
    showProblem(strip(error, "/assignees"), asked);
  }
});

document.getElementById("link-form")?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const made = event.currentTarget;
  clearProblems(made);
  const { person = "", expires_in: lifetime } = readForm(made);
  const fixed = [...made.querySelectorAll("[data-fixed]")].filter((one) => one.value !== "");
  const action = join(fixed.map((one) => [one.dataset.fixed, one.value]));
  try {
    const link = await ask("POST", `${place}/links`, body([["person", JSON.stringify(person)], ["expires_in", String(lifetime)], ["action", action]]));
    document.getElementById("made-link-url").textContent = link.url;
    document.getElementById("made-link").hidden = false;
    await refresh();
  } catch (error) {
    showProblem(error, made);
  }
});

document.getElementById("copy-link")?.addEventListener("click", async (event) => {
  const button = event.currentTarget;
  try {
    await navigator.clipboard.writeText(document.getElementById("made-link-url").textContent);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(document.getElementById("made-link-url"));
  }
});

/** Takes the beginning of pointers away that the form does not have. */
function strip(error, beginning) {
  for (const one of error.problems ?? []) {
    if (one.pointer?.startsWith(`${beginning}/`)) one.pointer = one.pointer.slice(beginning.length);
  }
  return error;
}
