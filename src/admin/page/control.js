// The actions of control. Each asks for confirmation. The token stays in this module's memory only.

import { el } from "./dom.js";

let token = "";

function field(id, label, input) {
  input.id = id;
  return el("p", { class: "field" }, el("label", { for: id }, label), input);
}

function argumentInput(action, upstreams) {
  const { argument } = action;
  if (argument === null) return null;
  const values = argument.proposals ?? upstreams;
  return field(`argument-${action.name}`, argument.label,
    el("select", null, values.map((value) => el("option", { value, selected: value === "info" }, value))));
}

/** Asks whether to do it, and for the token where one is needed. Returns true if the user confirms. */
function confirmed(action, words, needsToken) {
  return new Promise((resolve) => {
    const input = el("input", { type: "password", autocomplete: "off", spellcheck: "false" });
    input.value = token;
    const no = el("button", { type: "button" }, "Cancel");
    const form = el("form", null,
      el("h3", { id: "confirm-title" }, words),
      el("p", null, action.effect),
      needsToken ? field("control-token", "Control token (the content of control-token-file)", input) : null,
      el("p", { class: "row" }, el("button", { type: "submit", class: "danger" }, action.title), no));
    const dialog = el("dialog", { "aria-labelledby": "confirm-title" }, form);
    const close = (answer) => {
      token = input.value;
      dialog.close();
      dialog.remove();
      resolve(answer);
    };
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      close(true);
    });
    no.addEventListener("click", () => close(false));
    dialog.addEventListener("cancel", (event) => {
      event.preventDefault();
      close(false);
    });
    document.body.append(dialog);
    dialog.showModal();
    (needsToken && token === "" ? input : no).focus();
  });
}

/** Sends the action. Returns what respgate answered, as text. */
async function perform(action, body, needsToken) {
  const headers = { "Content-Type": "application/json" };
  if (needsToken) headers.Authorization = `Bearer ${token}`;
  try {
    const answer = await fetch(`/control/${action.name}`, { method: "POST", headers, body: JSON.stringify(body), cache: "no-store" });
    const text = await answer.text();
    let said = text;
    try {
      const { error, result } = JSON.parse(text);
      said = error ?? (typeof result === "string" ? result : JSON.stringify(result));
    } catch {
      // The answer is no JSON: it is shown as it is.
    }
    if (answer.status === 401) token = "";
    return { good: answer.ok, text: `${action.title}: ${said}` };
  } catch (error) {
    return { good: false, text: `${action.title}: respgate does not answer (${error.message})` };
  }
}

/** Returns the control section. */
export function control({ control: offer, upstreams }) {
  if (!offer.permitted) {
    return [
      el("p", { class: "card" }, "This page cannot control respgate: ", offer.why_not ?? "control is not permitted here", "."),
    ];
  }
  const said = el("p", { class: "said", role: "status" });
  const actions = offer.actions.map((action) => {
    const input = argumentInput(action, upstreams);
    const button = el("button", { type: "button" }, action.title);
    button.addEventListener("click", async () => {
      const value = input?.querySelector("select").value;
      const words = value === undefined ? `${action.title}?` : `${action.title}: ${value}?`;
      if (!(await confirmed(action, words, offer.needs_token))) return;
      button.disabled = true;
      const answer = await perform(action, value === undefined ? {} : { [action.argument.name]: value }, offer.needs_token);
      button.disabled = false;
      said.className = `said ${answer.good ? "good" : "bad"}`;
      said.textContent = answer.text;
      button.focus();
    });
    return el("div", { class: "card action" }, el("h3", null, action.title), el("p", { class: "muted" }, action.effect), input, button);
  });
  return [el("div", { class: "grid" }, actions), said];
}
