// Which model is asked, or both.

import { $, make } from "./dom.js";
import { showFilters } from "./narrow.js";
import { again } from "./search.js";
import { info, state } from "./state.js";

export function showModels() {
  if (info.models.length < 2) { $("models").replaceChildren(); return; }
  const choice = make("select", { "aria-label": "Model", onchange: event => { state.model = event.target.value; state.where = {}; showFilters(); again(); } },
    ...info.models.map(model => make("option", { value: model.name, selected: model.name === state.model }, model.name)));
  choice.hidden = state.compare;
  const both = make("button", { type: "button", class: "button", "aria-pressed": String(state.compare), title: "Two models side by side (c)", onclick: compare }, "Compare");
  $("models").replaceChildren(choice, both);
}

export function compare() {
  if (info.models.length < 2) return;
  state.compare = !state.compare;
  showModels();
  again();
}
