// The page of workers: looked at again every few seconds while somebody sees it.

import { refresh } from "./app.js";

setInterval(() => {
  if (document.visibilityState === "visible") refresh().catch(() => {});
}, 4000);
