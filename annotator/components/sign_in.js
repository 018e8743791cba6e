// Sends a token that follows "#token=" in the address, which browsers never send to a server.
const given = new URLSearchParams(location.hash.slice(1)).get("token");
const form = document.querySelector("form");
if (given) {
  history.replaceState(null, "", location.pathname + location.search); // not left in the address
  form.token.value = given;
  document.querySelector("#message").textContent = "Signing in …";
  form.submit();
}
