// Narrowing down: near copies, scores, the columns of the data.

import { $, make, number, say } from "./dom.js";
import { render } from "./results.js";
import { soon } from "./search.js";
import { current, least, searchable, state, summary } from "./state.js";

export function showFilters() {
  const boxes = [];
  if (searchable()) {
    const slider = (id, title, attributes, shown, changed) => {
      const out = make("output", {}, shown()), range = make("input", { type: "range", id, ...attributes });
      range.addEventListener("input", () => { changed(Number(range.value)); out.textContent = shown(); });
      return make("fieldset", {}, make("label", { class: "field", for: id }, title, out), range);
    };
    boxes.push(slider("copies", "Near copies", { min: .6, max: 1, step: .01, value: state.distinct },
      () => state.distinct < 1 ? "apart by " + state.distinct.toFixed(2) : "all shown", value => { state.distinct = value; soon(); }));
    boxes.push(slider("cut", "Score at least", { min: 0, max: 100, step: 1, value: 0 },
      () => state.cut ? least().toFixed(3) : "any", value => { state.cut = value / 100; render(); say(summary()); }));
    const weighing = slider("weight", "Words against picture", { min: -2, max: 4, step: .25, value: state.weight },
      () => "× " + state.weight, value => { state.weight = value; soon(); });
    weighing.id = "weighing"; weighing.hidden = true;
    boxes.push(weighing);
    const columns = Object.entries(current()?.columns ?? {});
    const easy = columns.filter(([, column]) => column.values || column.min !== undefined || column.kind === "boolean");
    for (const [name, column] of [...easy, ...columns.filter(entry => !easy.includes(entry))]) boxes.push(filter(name, column));
  } else boxes.push(make("fieldset", { id: "weighing", hidden: true }));
  $("filters").replaceChildren(...boxes.filter(Boolean));
  $("narrow").hidden = !searchable();
  $("main").classList.toggle("bare", !searchable());
  countFilters();
}

function filter(name, column) {
  const set = value => {
    if (value === undefined) delete state.where[name]; else state.where[name] = value;
    countFilters();
    soon();
  };
  const given = state.where[name], legend = make("legend", {}, name);
  if (column.kind === "boolean") column = { kind: "boolean", values: [true, false] };
  if (column.values) {
    if (column.values.length < 2) return null;
    const on = new Set([given].flat().filter(value => value !== undefined));
    const ticks = column.values.map((value, place) => make("label", {},
      make("input", { type: "checkbox", checked: on.has(value), onchange: event => {
        if (event.target.checked) on.add(value); else on.delete(value);
        set(on.size ? [...on] : undefined);
      } }), make("span", {}, String(value) || "(empty)"), column.counts ? make("small", {}, number(column.counts[place])) : null));
    return make("fieldset", {}, legend, make("div", { class: "ticks" }, ...ticks));
  }
  if (column.kind === "integer" || column.kind === "number") {
    if (column.min !== undefined && column.min === column.max) return null;
    const edge = (sign, words, place) => make("input", { type: "number", step: "any", placeholder: place === undefined ? words : number(place), "aria-label": `${name} ${words}`, value: given?.[sign],
      oninput: event => {
        const next = { ...(state.where[name] ?? {}) };
        if (event.target.value === "" || Number.isNaN(event.target.valueAsNumber)) delete next[sign]; else next[sign] = event.target.valueAsNumber;
        set(Object.keys(next).length ? next : undefined);
      } });
    return make("fieldset", {}, legend, make("div", { class: "range" }, edge(">=", "from", column.min), edge("<=", "to", column.max)));
  }
  return make("fieldset", {}, legend, make("input", { class: "exactly", placeholder: "exactly", "aria-label": name + " exactly", value: given,
    onchange: event => set(event.target.value.trim() || undefined) }));
}

function countFilters() {
  const count = Object.keys(state.where).length;
  $("active").textContent = count ? `${count} filter${count > 1 ? "s" : ""}` : "";
}
