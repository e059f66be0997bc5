// Accounts: made and changed by the API, secrets shown once.
import { ask, clearProblems, readForm, root, showProblem } from "./app.js";

for (const button of document.querySelectorAll("[data-open]")) {
  button.addEventListener("click", () => document.getElementById(button.dataset.open).showModal());
}
for (const button of document.querySelectorAll("[data-close]")) {
  button.addEventListener("click", () => button.closest("dialog").close());
}
for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", async () => {
    const secret = button.closest("dialog").querySelector("[data-secret]");
    try {
      await navigator.clipboard.writeText(secret.value);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(secret);
      button.textContent = "Selected: copy it";
    }
  });
}

/** Shows a secret; when it is closed it is gone from the page, which is asked for anew. */
function reveal(id, text) {
  const dialog = document.getElementById(id);
  dialog.querySelector("[data-secret]").value = text;
  dialog.showModal();
  dialog.addEventListener("close", () => location.reload(), { once: true });
}

const linkOf = (token) => `${location.origin}${root}/setup#${encodeURIComponent(token)}`;

function readAccount(form) {
  const { words = [], roles = [], ...others } = readForm(form);
  return { ...others, roles: [...new Set([...roles, ...words])] };
}

/** Lets a form ask the API; `perform` is given what the form says. */
function handle(id, read, perform) {
  const form = document.getElementById(id);
  form?.addEventListener("submit", async (event) => {
    event.preventDefault();
    clearProblems(form);
    const button = form.querySelector("button.primary");
    button.disabled = true;
    try {
      await perform(read(form), form);
    } catch (error) {
      showProblem(error, form);
    } finally {
      button.disabled = false;
    }
  });
}

handle("new-user-form", readAccount, async (body, form) => {
  const user = await ask("POST", "/api/v1/users", body);
  form.closest("dialog").close();
  const made = await ask("POST", `/api/v1/users/${encodeURIComponent(user.name)}/setup`);
  reveal("setup-link", linkOf(made.setup_token));
});
handle("change-user", readAccount, async (body, form) => {
  await ask("PATCH", form.dataset.pathOf, body);
  location.reload();
});
handle("new-token-form", readForm, async (body, form) => {
  const made = await ask("POST", "/api/v1/tokens", body);
  form.closest("dialog").close();
  reveal("made-token", made.token);
});

for (const button of document.querySelectorAll("[data-setup]")) {
  button.addEventListener("click", async () => {
    button.disabled = true;
    try {
      const made = await ask("POST", button.dataset.setup);
      reveal("setup-link", linkOf(made.setup_token));
    } catch (error) {
      showProblem(error);
    } finally {
      button.disabled = false;
    }
  });
}
