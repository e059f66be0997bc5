// Filters in the viewer's own zone, and rows that stay up to date.
import { refresh } from "./app.js";

const SECONDS = 5;
const form = document.getElementById("filters");
const fields = [...form.querySelectorAll("input[data-utc]")];

for (const field of fields) {
  if (!field.dataset.utc) continue;
  const at = new Date(field.dataset.utc);
  // What such a field says has no zone: it is shifted by the viewer's.
  field.value = new Date(at.getTime() - at.getTimezoneOffset() * 60000).toISOString().slice(0, 16);
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const query = new URLSearchParams();
  for (const [name, value] of new FormData(form)) {
    const text = value.trim();
    if (!text) continue;
    const isInstant = name === "since" || name === "until";
    query.set(name, isInstant ? new Date(text).toISOString().replace(":00.000Z", "Z") : text);
  }
  location.assign(query.size ? `${form.action}?${query}` : form.action);
});

setInterval(() => document.hidden || refresh(), SECONDS * 1000);
