// The pages of a run and of its steps: staying up to date, the graph, the drawer, what can be done.

import { announce, follow, root, showTimes } from "./app.js";

const page = document.querySelector("[data-run]");
const runId = page.dataset.run;
const main = document.getElementById("main");
const drawer = document.getElementById("drawer");
const holder = drawer?.querySelector("[data-drawer]");

// --- parts of the page, as they are now

const told = new Map(); // What the server said of a part last, since a page changes it.

async function fetchPage(address) {
  const reply = await fetch(address, { credentials: "same-origin", cache: "no-store", headers: { Accept: "text/html" } });
  if (!reply.ok || reply.redirected) throw new Error(`the server replied ${reply.status}`);
  return new DOMParser().parseFromString(await reply.text(), "text/html");
}

/** Takes over the parts of `fresh` that are other than they were; focus and folds stay. */
function takeOver(fresh, below) {
  for (const part of below.querySelectorAll("[data-live]")) {
    const name = part.dataset.live;
    const other = fresh.querySelector(`[data-live="${CSS.escape(name)}"]`);
    if (!other || part.querySelector("dialog[open]")) continue;
    const text = other.innerHTML;
    if (told.get(name) === text) continue;
    told.set(name, text);
    if (part.hasAttribute("data-patch")) patch(part, other);
    else replace(part, other);
  }
}

function replace(part, other) {
  const folds = [...part.querySelectorAll("details")].map((one) => one.open);
  const focused = part.contains(document.activeElement) ? document.activeElement : null;
  const place = focused && nameOf(focused);
  const fresh = [...other.querySelectorAll("details")];
  if (fresh.length === folds.length) fresh.forEach((one, at) => (one.open = folds[at]));
  showTimes(other);
  part.replaceChildren(...other.childNodes);
  if (place) part.querySelector(place)?.focus({ preventScroll: true });
}

/** Returns by what an element is found again. */
function nameOf(element) {
  if (element.id) return `#${CSS.escape(element.id)}`;
  const href = element.getAttribute("href");
  return href ? `a[href="${CSS.escape(href)}"]` : null;
}

// --- the graph: only what changed is exchanged, everything stays where it is

const KEYS = ["step", "transition", "label", "cross", "below"];

function keyOf(element) {
  const key = KEYS.find((one) => one in element.dataset);
  return key ? `${key}:${element.dataset[key]}` : null;
}

function partsOf(svg) {
  const found = new Map();
  for (const child of svg.children) {
    const key = keyOf(child);
    if (key) found.set(key, child);
  }
  return found;
}

function patch(part, other) {
  const svg = part.querySelector("svg");
  const fresh = other.querySelector("svg");
  if (!svg || !fresh || svg.getAttribute("viewBox") !== fresh.getAttribute("viewBox")) {
    part.replaceChildren(...other.childNodes);
    graph?.begin();
    return;
  }
  const focused = keyOf(document.activeElement ?? part);
  const open = svg.querySelector(".is-open")?.dataset.step;
  svg.querySelector(".is-open")?.classList.remove("is-open");
  const marked = svg.querySelector(".is-found");
  const foundStep = marked?.dataset.step;
  marked?.classList.remove("is-found");
  const old = partsOf(svg);
  const now = partsOf(fresh);
  for (const [key, element] of now) {
    const before = old.get(key);
    if (!before) svg.append(element);
    else if (before.outerHTML !== element.outerHTML) before.replaceWith(element);
  }
  for (const [key, element] of old) if (!now.has(key)) element.remove();
  svg.querySelector("desc").textContent = fresh.querySelector("desc").textContent;
  const shown = partsOf(svg);
  if (open) shown.get(`step:${open}`)?.classList.add("is-open");
  if (foundStep) shown.get(`step:${foundStep}`)?.classList.add("is-found");
  if (focused && document.activeElement === document.body) shown.get(focused)?.focus({ preventScroll: true });
}

const SMALLEST = 0.03;
const LARGEST = 3;
const READABLE = 0.7;
const AFAR = 0.3; // From here on no word can be read.

class Graph {
  constructor(box) {
    this.box = box;
    this.now = document.querySelector("[data-zoom-now]");
    document.querySelector("[data-zoom]").hidden = false;
    for (const button of document.querySelectorAll("[data-zoom-by]")) {
      button.addEventListener("click", () => this.zoomBy(button.dataset.zoomBy));
    }
    box.addEventListener("wheel", (event) => this.roll(event), { passive: false });
    box.addEventListener("keydown", (event) => this.type(event));
    box.addEventListener("pointerdown", (event) => this.grab(event));
    box.addEventListener("dragstart", (event) => event.preventDefault());
    document.querySelector("[data-find]").addEventListener("submit", (event) => {
      event.preventDefault();
      this.find(true);
    });
    document.getElementById("find").addEventListener("input", () => this.find(false));
    this.begin();
  }

  get svg() {
    return this.box.querySelector("svg");
  }

  /** Shows the whole if it can be read; else where something goes on, fails or begins. */
  begin() {
    const [, , width, height] = this.svg.getAttribute("viewBox").split(" ").map(Number);
    this.width = width;
    this.height = height;
    const fit = this.fitting();
    this.setScale(fit >= READABLE ? Math.min(fit, 1) : Math.max(READABLE, Math.min(1, this.box.clientWidth / width)));
    if (fit < READABLE) {
      const first = ["failed", "waiting", "running", "retrying", "ready"].map((one) => this.svg.querySelector(`.step.${one}`)).find(Boolean);
      this.centre(first ?? this.svg.querySelector(".step"));
    }
  }

  fitting() {
    const room = Math.max(this.box.clientHeight, Math.min(672, innerHeight * 0.72)) - 2;
    return Math.min((this.box.clientWidth - 2) / this.width, room / this.height);
  }

  setScale(scale, at = null) {
    const next = Math.min(LARGEST, Math.max(SMALLEST, scale));
    const box = this.box;
    const [x, y] = at ?? [box.clientWidth / 2, box.clientHeight / 2];
    const before = this.scale ?? next;
    const left = (box.scrollLeft + x) / before;
    const top = (box.scrollTop + y) / before;
    this.scale = next;
    this.svg.setAttribute("width", (this.width * next).toFixed(1));
    this.svg.setAttribute("height", (this.height * next).toFixed(1));
    box.scrollLeft = left * next - x;
    box.scrollTop = top * next - y;
    box.classList.toggle("is-small", next < AFAR);
    this.now.textContent = `${Math.round(next * 100)}%`;
  }

  zoomBy(how) {
    if (how === "fit") this.setScale(Math.min(this.fitting(), 1));
    else if (how === "one") this.setScale(1);
    else this.setScale(this.scale * (how === "in" ? 1.25 : 0.8));
  }

  roll(event) {
    // The wheel alone scrolls, as anywhere; with Ctrl, or two fingers, it zooms.
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    const place = this.box.getBoundingClientRect();
    const size = event.deltaMode === 1 ? event.deltaY * 16 : event.deltaY;
    this.setScale(this.scale * Math.exp(-size / 400), [event.clientX - place.left, event.clientY - place.top]);
  }

  type(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const how = { "+": "in", "=": "in", "-": "out", 0: "fit", 1: "one" }[event.key];
    const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (how) this.zoomBy(how);
    else if (move) this.box.scrollBy(move[0] * 80, move[1] * 80);
    else return;
    event.preventDefault();
  }

  grab(event) {
    if (event.pointerType !== "mouse" || event.button !== 0) return;
    const { box } = this;
    const from = [event.clientX + box.scrollLeft, event.clientY + box.scrollTop];
    const began = [event.clientX, event.clientY];
    let moved = false;
    const move = (now) => {
      if (!moved && Math.hypot(now.clientX - began[0], now.clientY - began[1]) < 5) return;
      moved = true;
      box.classList.add("is-grabbed");
      box.scrollTo(from[0] - now.clientX, from[1] - now.clientY);
    };
    const stop = () => {
      removeEventListener("pointermove", move);
      box.classList.remove("is-grabbed");
      // A drag that ends on a step is no click on it.
      if (!moved) return;
      const swallow = (click) => {
        click.preventDefault();
        click.stopPropagation();
      };
      box.addEventListener("click", swallow, { capture: true });
      setTimeout(() => box.removeEventListener("click", swallow, { capture: true }), 0);
    };
    addEventListener("pointermove", move);
    addEventListener("pointerup", stop, { once: true });
    addEventListener("pointercancel", stop, { once: true });
  }

  centre(step) {
    if (!step) return;
    const [x, y] = step.getAttribute("transform").match(/-?[\d.]+(?:e[+-]?\d+)?/g).map(Number);
    const shape = step.getBBox();
    this.box.scrollTo(
      (x + shape.width / 2) * this.scale - this.box.clientWidth / 2,
      (y + shape.height / 2) * this.scale - this.box.clientHeight / 2,
    );
  }

  /** Centres the step that is looked for: once its id is whole, or when asked to by Enter. */
  find(isSure) {
    const input = document.getElementById("find");
    const said = document.querySelector("[data-found]");
    const wanted = input.value.trim().toLowerCase();
    this.svg.querySelector(".is-found")?.classList.remove("is-found");
    said.textContent = "";
    if (!wanted) return;
    const steps = [...this.svg.querySelectorAll("[data-step]")];
    const ranks = [
      (step) => step.dataset.step.toLowerCase() === wanted,
      (step) => isSure && step.dataset.step.toLowerCase().startsWith(wanted),
      (step) => isSure && (step.getAttribute("aria-label") ?? "").toLowerCase().includes(wanted),
    ];
    const found = ranks.map((is) => steps.filter(is)).find((some) => some.length) ?? [];
    if (!found.length) {
      if (isSure) said.textContent = "There is no such step.";
      return;
    }
    // Enter once more goes to the next one.
    const last = isSure && this.lastFound?.wanted === wanted ? found.findIndex((one) => one.dataset.step === this.lastFound.step) : -1;
    const at = (last + 1) % found.length;
    const step = found[at];
    this.lastFound = { wanted, step: step.dataset.step };
    if (this.scale < READABLE) this.setScale(1);
    this.centre(step);
    step.classList.add("is-found");
    said.textContent = found.length > 1 ? `${at + 1} of ${found.length}` : step.dataset.step;
  }
}

const box = document.getElementById("graph");
const graph = box?.querySelector("svg") ? new Graph(box) : null;

// --- the drawer: a step beside its run

let shownAt = null; // The address of the step in the drawer.
let opener = null;

async function showStep(address, { isFresh = true } = {}) {
  const fresh = await fetchPage(address);
  const whole = fresh.getElementById("step-whole");
  if (!whole) throw new Error("there is no such step");
  if (!isFresh) {
    if (shownAt === address) takeOver(whole, holder);
    return;
  }
  for (const part of whole.querySelectorAll("[data-live]")) told.set(part.dataset.live, part.innerHTML);
  showTimes(whole);
  holder.replaceChildren(whole);
  shownAt = address;
  drawer.querySelector("[data-drawer-page]").href = address;
  markOpen(new URL(address, location.href));
  if (!drawer.open) {
    drawer.show();
    graph?.centre(graph.svg.querySelector(".is-open"));
  }
  drawer.scrollTop = 0;
  holder.querySelector("h1")?.focus({ preventScroll: true });
}

function markOpen(url) {
  const svg = graph?.svg;
  svg?.querySelector(".is-open")?.classList.remove("is-open");
  if (!url) return;
  const path = url.pathname;
  for (const step of svg?.querySelectorAll("a[data-step]") ?? []) {
    if (step.getAttribute("href") === path) step.classList.add("is-open");
  }
}

function closeDrawer() {
  if (!drawer?.open) return;
  drawer.close();
  holder.replaceChildren();
  shownAt = null;
  markOpen(null);
  const again = opener?.isConnected ? opener : opener && main.querySelector(nameOf(opener) ?? "#graph");
  (again ?? box)?.focus({ preventScroll: true });
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-step], a[data-opens-step]");
  if (!link || !drawer || event.defaultPrevented || event.button !== 0) return;
  if (event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  const address = link.getAttribute("href");
  if (!drawer.contains(link)) opener = link;
  showStep(address).catch(() => location.assign(address));
});
drawer?.querySelector("[data-drawer-closes]").addEventListener("click", closeDrawer);
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && drawer?.open && !document.querySelector("dialog:modal")) closeDrawer();
});

// --- what can be done

document.addEventListener("click", (event) => {
  const opens = event.target.closest("[data-opens]");
  if (opens) document.getElementById(opens.dataset.opens)?.showModal();
  const closes = event.target.closest("[data-closes]");
  if (closes) closes.closest("dialog").close();
});

// A text that is no JSON object is said at once, beside its field.
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (!form.matches("form[data-deed]")) return;
  for (const area of form.querySelectorAll('textarea[data-kind="json"]')) {
    const fault = area.closest(".field").querySelector(".fault");
    const words = findFault(area.value);
    fault.textContent = words;
    if (!words) {
      area.removeAttribute("aria-invalid");
      continue;
    }
    area.setAttribute("aria-invalid", "true");
    area.focus();
    event.preventDefault();
    event.stopImmediatePropagation();
  }
}, { capture: true });

function findFault(text) {
  if (!text.trim()) return "";
  try {
    const value = JSON.parse(text);
    return value !== null && typeof value === "object" && !Array.isArray(value) ? "" : "It must be an object: { … }";
  } catch (error) {
    return `This is no JSON: ${error.message}`;
  }
}

document.addEventListener("iaflow:done", (event) => {
  const form = event.target;
  if (!form.matches("form[data-deed]")) return;
  form.closest("dialog").close();
  if (form.dataset.deed === "run") location.assign(`${root}/runs/${event.detail.run_id}`);
  else {
    // A run that had ended goes on, perhaps.
    if ("ended" in page.dataset) followRun();
    renew();
  }
});

// --- staying up to date

let status = page.dataset.status;
let renewing = null;
let isStale = false;

/** Asks for what is shown anew; once at a time, and the less often the longer it takes. */
function renew() {
  isStale = true;
  renewing ??= (async () => {
    while (isStale) {
      isStale = false;
      const begin = performance.now();
      try {
        takeOver(await fetchPage(location.href), main);
        if (shownAt) await showStep(shownAt, { isFresh: false });
      } catch {
        // The next change, or the next connection, asks again.
      }
      await new Promise((resolve) => setTimeout(resolve, Math.max(300, 3 * (performance.now() - begin))));
    }
    renewing = null;
    lookAgain();
  })();
}

// A worker that takes a step up is no event of the run, nor is every item that ends: while it
// runs the page looks by itself, the less often the longer nothing is told.
let looking = 0;
let patience = 2000;

function lookAgain() {
  clearTimeout(looking);
  if (status !== "running" || "ended" in page.dataset) return;
  looking = setTimeout(() => {
    patience = Math.min(patience * 1.5, 15000);
    if (document.hidden) lookAgain();
    else renew();
  }, patience);
}

function showLife(word, kind) {
  for (const one of document.querySelectorAll("[data-live-word]")) {
    one.hidden = false;
    one.textContent = word;
    one.classList.toggle("is-away", kind === "away");
    one.classList.toggle("is-over", kind === "over");
  }
}

function noteStatus(next) {
  if (next === status) return;
  status = next;
  announce(`The run is ${next} now.`);
}

for (const part of main.querySelectorAll("[data-live]")) told.set(part.dataset.live, null);

function followRun() {
  let wasAway = false;
  delete page.dataset.ended;
  follow(`/api/v1/runs/${runId}/stream?after=${page.dataset.seq}`, {
    run: (at) => noteStatus(at.status),
    change: () => {
      patience = 2000;
      renew();
    },
    end: (at, end) => {
      noteStatus(at.status);
      end();
      page.dataset.ended = "";
      showLife("ended", "over");
      renew();
    },
  }, (state) => {
    if ("ended" in page.dataset) return;
    if (state === "open") {
      showLife("live", "open");
      lookAgain();
      if (wasAway) renew();
      wasAway = false;
    } else {
      wasAway = true;
      showLife("reconnecting…", "away");
    }
  });
}

if (!("ended" in page.dataset)) followRun();
