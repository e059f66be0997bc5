// The inbox: asks for the list anew when there are other questions, and says which ones came.

import { announce, follow, refresh } from "./app.js";

const listed = () => new Set([...document.querySelectorAll("[data-pause]")].map((one) => one.dataset.pause));
const isFirstPage = !new URLSearchParams(location.search).has("cursor");
let isFirst = true;

if (isFirstPage) {
  follow("/api/v1/inbox/stream", {
    inbox: async ({ items, has_more: hasMore }) => {
      const before = listed();
      const came = items.filter((one) => !before.has(one.pause_id));
      const ids = new Set(items.map((one) => one.pause_id));
      const isSame = came.length === 0 && [...before].every((id) => ids.has(id));
      const wasFirst = isFirst;
      isFirst = false;
      showCount(items.length, hasMore);
      // Even if they are the same: another may have answered, or be asked as well.
      if (!(wasFirst && isSame) && (await refresh()) && !isSame) announce(describe(came, items.length));
    },
  });
}

function showCount(count, hasMore) {
  for (const badge of document.querySelectorAll("[data-inbox-count]")) {
    badge.hidden = count === 0;
    badge.lastChild.textContent = hasMore || count > 99 ? "99+" : String(count);
  }
}

function describe(came, count) {
  const waiting = `${count} ${count === 1 ? "question waits" : "questions wait"} for you.`;
  return came.length ? `New: ${came.map((one) => one.title).join("; ")}. ${waiting}` : waiting;
}
