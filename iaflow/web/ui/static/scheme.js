// The colours that were chosen, before anything is painted.
(() => {
  try {
    const scheme = localStorage.getItem("iaflow.scheme");
    if (scheme === "light" || scheme === "dark") document.documentElement.dataset.scheme = scheme;
  } catch {
    // Without storage the system's scheme it is.
  }
})();
