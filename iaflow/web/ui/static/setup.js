// The token of a setup link is behind `#`, so that no server, log or Referer ever has it.
const token = decodeURIComponent(location.hash.slice(1));
if (token) {
  document.getElementById("token").value = token;
  document.getElementById("password").focus();
  history.replaceState(null, "", location.pathname);
}
