// What all pages need: asking the API, telling what it refused, dialogs, times, the scheme.

const meta = (name) => document.querySelector(`meta[name="${name}"]`)?.content ?? "";

/** Before every path of this web. */
export const root = meta("root");

/** What the API refused: its problem, as it replied it. */
export class Problem extends Error {
  constructor(status, told) {
    super(told.detail || told.title || `the server replied ${status}`);
    this.status = status;
    this.code = told.code ?? "";
    this.title = told.title ?? "";
    this.problems = told.problems ?? [];
    this.retryAfter = told.retryAfter ?? null;
  }
}

/** JSON that is sent as it was written: its numbers stay what they are (1.0 is not 1). */
export class Raw {
  constructor(text) {
    this.text = text;
  }
}

/** Asks the API. Returns what it replies (null: nothing); throws a Problem. */
export async function ask(method, path, body = undefined, headers = {}) {
  const sent = { Accept: "application/json", ...headers };
  const csrf = meta("csrf-token");
  if (csrf && method !== "GET") sent["X-CSRF-Token"] = csrf;
  if (body !== undefined) sent["Content-Type"] = "application/json";
  let reply;
  try {
    reply = await fetch(root + path, {
      method,
      headers: sent,
      credentials: "same-origin",
      cache: "no-store",
      body: body === undefined ? undefined : body instanceof Raw ? body.text : JSON.stringify(body),
    });
  } catch {
    throw new Problem(0, { title: "The server cannot be reached", detail: "The server cannot be reached: is the network there? Nothing was changed as far as is known." });
  }
  const text = await reply.text();
  let told = null;
  try {
    told = text ? JSON.parse(text) : null;
  } catch {
    told = null;
  }
  if (!reply.ok) {
    throw new Problem(reply.status, { ...(told ?? {}), retryAfter: reply.headers.get("Retry-After") });
  }
  return told;
}

// --- telling

/** Shows a message at the top of the page; kind: "problem" or "done". */
export function tell(text, kind = "problem") {
  const region = document.getElementById("messages");
  region.replaceChildren();
  const box = document.createElement("div");
  box.className = kind;
  box.textContent = text;
  region.append(box);
  box.scrollIntoView({ block: "nearest" });
}

/** Says something to who listens to the page. */
export function announce(text) {
  document.getElementById("live").textContent = text;
}

/** Shows what the API refused: beside the fields it names, else in the form, else at the top. */
export function showProblem(error, form = null) {
  const problem = error instanceof Problem ? error : new Problem(0, { detail: String(error.message ?? error) });
  if (!(error instanceof Problem)) console.error(error);
  const left = [];
  let first = null;
  for (const one of problem.problems) {
    const box = form && findBox(form, one.pointer);
    if (!box) {
      left.push(one);
      continue;
    }
    const fault = box.querySelector(".fault");
    const words = [one.message, one.hint].filter(Boolean).join(" ");
    fault.textContent = fault.textContent ? `${fault.textContent} ${words}` : words;
    const input = box.querySelector("[data-field]");
    input?.setAttribute("aria-invalid", "true");
    first ??= input;
  }
  const texts = left.map((one) => [one.pointer && one.pointer !== "/" ? `${one.pointer}:` : "", one.message, one.hint].filter(Boolean).join(" "));
  if (!problem.problems.length) texts.push(problem.message);
  if (problem.status === 429 && problem.retryAfter) texts.push(`Try again in ${problem.retryAfter} s.`);
  const region = form?.querySelector("[data-problem]");
  if (region) {
    region.hidden = texts.length === 0;
    region.replaceChildren(...texts.map(paragraph));
  } else if (texts.length) {
    tell(texts.join(" "));
  }
  if (first) (first.matches("fieldset") ? first.querySelector("input") : first)?.focus();
  else region?.scrollIntoView({ block: "nearest" });
}

/** Takes away what `showProblem` has written in a form. */
export function clearProblems(form) {
  for (const fault of form.querySelectorAll(".fault")) fault.textContent = "";
  for (const input of form.querySelectorAll("[aria-invalid]")) input.removeAttribute("aria-invalid");
  const region = form.querySelector("[data-problem]");
  if (region) region.hidden = true;
}

function findBox(form, pointer) {
  const parts = String(pointer ?? "").split("/").slice(1).map((part) => part.replaceAll("~1", "/").replaceAll("~0", "~"));
  while (parts.length && ["body", "input", "answer"].includes(parts[0]) && parts.length > 1) parts.shift();
  return parts.length ? form.querySelector(`[data-field-box="${CSS.escape(parts[0])}"]`) : null;
}

function paragraph(text) {
  const made = document.createElement("p");
  made.textContent = text;
  return made;
}

// --- forms

/** Returns what a form's fields say, by their names; a field that is empty is not there. */
export function readForm(form) {
  const found = {};
  for (const input of form.querySelectorAll("[data-field]")) {
    const value = readField(input);
    if (value !== undefined) found[input.dataset.field] = value;
  }
  return found;
}

function readField(input) {
  const text = input.value ?? "";
  switch (input.dataset.kind) {
    case "radio": {
      const chosen = input.querySelector("input:checked");
      return chosen ? JSON.parse(chosen.value) : undefined;
    }
    case "multiselect":
      return [...input.querySelectorAll("input:checked")].map((one) => JSON.parse(one.value));
    case "words":
      return text.split(/[\s,]+/).filter(Boolean);
    case "checkbox":
      return input.checked;
    case "select":
    case "boolean":
      return text === "" ? undefined : JSON.parse(text);
    case "number":
    case "integer":
    case "json": {
      if (text.trim() === "") return undefined;
      try {
        return JSON.parse(text.trim());
      } catch {
        return text; // As it stands: the API says what is wrong with it.
      }
    }
    case "secret":
      return text;
    default:
      return text === "" ? undefined : text;
  }
}

// --- dialogs

/** Opens a dialog that asks; resolves to whether it was agreed to. */
export function confirmBy(id, text = null) {
  const dialog = document.getElementById(id);
  if (text !== null) dialog.querySelector("[data-confirm-text]").textContent = text;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

// --- times

const zone = Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";
const whole = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit", timeZoneName: "short" });
const exact = new Intl.DateTimeFormat("en-GB", { dateStyle: "full", timeStyle: "long" });

/** Says all instants below `below` in the viewer's zone. */
export function showTimes(below = document) {
  for (const time of below.querySelectorAll("time[datetime]")) {
    const at = new Date(time.dateTime);
    if (Number.isNaN(at.getTime())) continue;
    time.textContent = "short" in time.dataset ? ago(time.dateTime) : whole.format(at);
    time.title = `${exact.format(at)}, ${zone}; ${time.dateTime}`;
  }
  for (const since of below.querySelectorAll("[data-since]")) since.textContent = ago(since.dataset.since);
}

/** Returns how long ago an instant was, or how far it is, in one unit. */
export function ago(instant) {
  const seconds = (Date.now() - new Date(instant).getTime()) / 1000;
  const size = Math.abs(seconds);
  if (!Number.isFinite(size)) return "";
  if (size < 5) return "now";
  for (const [unit, length] of [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]]) {
    if (size >= length) {
      const words = `${Math.floor(size / length)} ${unit}`;
      return seconds > 0 ? `${words} ago` : `in ${words}`;
    }
  }
  return "now";
}

/** Returns how long something took, in seconds, as the server writes it. */
export function duration(seconds) {
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const all = Math.round(seconds / 60 - 0.5);
  if (all < 60) return `${all} min ${String(Math.round(seconds) % 60).padStart(2, "0")} s`;
  const hours = Math.floor(all / 60);
  if (hours < 48) return `${hours} h ${String(all % 60).padStart(2, "0")} min`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

// --- staying up to date

/** Asks for this page anew and takes over the parts named by data-live. */
export async function refresh() {
  const reply = await fetch(location.href, { credentials: "same-origin", cache: "no-store", headers: { Accept: "text/html" } });
  if (!reply.ok || reply.redirected) return false;
  const fresh = new DOMParser().parseFromString(await reply.text(), "text/html");
  for (const part of document.querySelectorAll("[data-live]")) {
    const other = fresh.querySelector(`[data-live="${CSS.escape(part.dataset.live)}"]`);
    if (!other || part.contains(document.activeElement) && part.querySelector("dialog[open]")) continue;
    showTimes(other);
    if (other.innerHTML === part.innerHTML) continue;
    const focused = part.contains(document.activeElement) ? document.activeElement.id : "";
    part.replaceChildren(...other.childNodes);
    if (focused) document.getElementById(focused)?.focus();
  }
  return true;
}

/**
 * Follows an event stream of the API: handlers by the events' names, given their data.
 * Comes again by itself where the connection breaks; returns what ends it.
 */
export function follow(path, handlers, onState = () => {}) {
  let source = null;
  let timer = 0;
  let wait = 1000;
  let over = false;
  const open = () => {
    source = new EventSource(root + path);
    source.onopen = () => {
      wait = 1000;
      onState("open");
    };
    source.onerror = () => {
      onState("away");
      if (source.readyState === EventSource.CLOSED && !over) {
        timer = setTimeout(open, wait);
        wait = Math.min(wait * 2, 30000);
      }
    };
    for (const [kind, handle] of Object.entries(handlers)) {
      source.addEventListener(kind, (event) => handle(JSON.parse(event.data), end));
    }
    source.addEventListener("closed", (event) => {
      if (JSON.parse(event.data).reason === "credentials") end();
    });
  };
  const end = () => {
    over = true;
    clearTimeout(timer);
    source?.close();
  };
  open();
  addEventListener("pagehide", end, { once: true });
  return end;
}

// --- what pages only declare

/**
 * A button with data-method and data-path, or a form with both, asks the API when used:
 * data-body (JSON) or the form's fields; data-confirm names a dialog that asks first; then
 * data-then: "reload", or a path of this web (data-then-exactly: the root is in it already), or
 * "event": an event `iaflow:done` with the reply.
 */
async function perform(element, body) {
  const { method, path, then, thenExactly, confirm, confirmText, done } = element.dataset;
  if (confirm && !(await confirmBy(confirm, confirmText ?? null))) return;
  const form = element.closest("form:not([method=dialog])");
  if (form) clearProblems(form);
  const buttons = element.matches("form") ? [...element.querySelectorAll("button")] : [element];
  for (const one of buttons) one.disabled = true;
  try {
    const reply = await ask(method, path, body);
    element.dispatchEvent(new CustomEvent("iaflow:done", { bubbles: true, detail: reply }));
    if (done) tell(done, "done");
    if (thenExactly) location.assign(thenExactly);
    else if (then === "reload") location.reload();
    else if (then === "refresh") await refresh();
    else if (then?.startsWith("/")) location.assign(root + then);
  } catch (error) {
    showProblem(error, form);
  } finally {
    for (const one of buttons) one.disabled = false;
  }
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-method]");
  if (!button) return;
  event.preventDefault();
  perform(button, button.dataset.body ? JSON.parse(button.dataset.body) : undefined);
});

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (!form.matches("form[data-method]")) return;
  event.preventDefault();
  perform(form, readForm(form));
});

// The navigation on a phone, and menus that close by Escape or elsewhere.
document.querySelector("[data-fold]")?.addEventListener("click", (event) => {
  const button = event.currentTarget;
  const open = button.getAttribute("aria-expanded") !== "true";
  button.setAttribute("aria-expanded", String(open));
  document.getElementById("nav").classList.toggle("is-open", open);
});
addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  for (const menu of document.querySelectorAll("details[data-menu][open]")) {
    menu.open = false;
    menu.querySelector("summary").focus();
  }
});
document.addEventListener("click", (event) => {
  for (const menu of document.querySelectorAll("details[data-menu][open]")) {
    if (!menu.contains(event.target)) menu.open = false;
  }
});

const scheme = document.querySelector("[data-scheme-switch]");
if (scheme) {
  scheme.value = document.documentElement.dataset.scheme ?? "";
  scheme.addEventListener("change", () => {
    if (scheme.value) document.documentElement.dataset.scheme = scheme.value;
    else delete document.documentElement.dataset.scheme;
    try {
      if (scheme.value) localStorage.setItem("iaflow.scheme", scheme.value);
      else localStorage.removeItem("iaflow.scheme");
    } catch {
      // It lasts as long as the page, then.
    }
  });
}

for (const place of document.querySelectorAll("[data-zone]")) place.textContent = zone;
showTimes();
setInterval(() => {
  for (const time of document.querySelectorAll("time[data-short]")) time.textContent = ago(time.dateTime);
  for (const since of document.querySelectorAll("[data-since]")) since.textContent = ago(since.dataset.since);
}, 20000);
document.documentElement.dataset.ready = "";
