// Takes a token from the form, from "#token=" in the address, or from this tab's memory.
const KEPT = "hqvox.token";
let fromAddress = false;

export default function ({ data, parentElement, setTriggerValue }) {
  const form = parentElement.querySelector("form");
  const field = parentElement.querySelector("input");
  const said = parentElement.querySelector("#said");
  const send = (token) => {
    sessionStorage.setItem(KEPT, token);
    said.textContent = "Signing in …";
    setTriggerValue("token", token);
  };
  form.onsubmit = (event) => {
    event.preventDefault();
    if (field.value.trim()) send(field.value.trim());
    field.value = "";
  };
  if (data.forget) sessionStorage.removeItem(KEPT);
  if (data.refused) {
    said.textContent = "This token is not known here: check that you copied all of it, or ask for a new one.";
    field.focus();
    return;
  }
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given && !fromAddress) {
    fromAddress = true;
    history.replaceState(null, "", location.pathname + location.search); // not left in the address
    send(given);
  } else if (!data.forget && sessionStorage.getItem(KEPT)) {
    send(sessionStorage.getItem(KEPT));
  } else {
    said.textContent = "";
    field.focus();
  }
}
