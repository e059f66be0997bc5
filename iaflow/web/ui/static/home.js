// The start stays up to date: at once when a question comes or goes, else every few seconds.
import { follow, refresh } from "./app.js";

const SECONDS = 10;
let ending = null;
let isFirst = true;

function listen() {
  if (ending || !document.querySelector("[data-inbox=yes]")) return;
  isFirst = true;
  ending = follow("/api/v1/inbox/stream", {
    inbox(told) {
      showCount(told.items.length);
      if (!isFirst) refresh();
      isFirst = false;
    },
  });
}

function showCount(count) {
  const place = document.querySelector("[data-inbox-count]");
  if (!place) return;
  place.hidden = count === 0;
  place.lastChild.textContent = count > 99 ? "99+" : String(count);
}

// Who looks elsewhere needs no stream; browsers have few of them for one host.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    ending?.();
    ending = null;
  } else {
    refresh();
    listen();
  }
});
listen();
setInterval(() => document.hidden || refresh(), SECONDS * 1000);
