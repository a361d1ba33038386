// One item in a dialog: its picture, its texts, where it comes from.

import { ask, pictureOf } from "./ask.js";
import { pick } from "./basket.js";
import { cloudPanel } from "./cloud.js";
import { $, inert, make, number, shape } from "./dom.js";
import { rove } from "./focus.js";
import { locatePanel } from "./locate.js";
import { becomesPanel, detectPanel, graphPanel, tokensPanel, wordsPanel } from "./panels.js";
import { example } from "./search.js";
import { lay, view } from "./stage.js";
import { chosen, current, empty, found, info, searchable, state, visible } from "./state.js";
import { tellPanel } from "./tell.js";

export async function look(uid, payload = {}) {
  view.shown = { uid, image: null, payload };
  frameItem(payload.caption ?? uid, null);
  if (!$("item").open) $("item").showModal();
  if (!info.data) { fillItem({ uid, texts: [], columns: payload, licence: "", source: "", group: "", graph: null, image: false }); return; }
  const mine = view.shown;
  try {
    const item = await ask("items/" + encodeURIComponent(uid));
    if (view.shown === mine) fillItem(item);
  } catch (error) {
    if (view.shown === mine) $("facts").replaceChildren(make("p", { class: "error" }, error.message));
  }
}

export function lookAtPicture() {
  view.shown = { uid: null, image: state.picture, payload: {} };
  frameItem("The picture to search by", state.picture);
  $("item").showModal();
  const image = $("stage").querySelector("img");
  const size = () => { $("stage").style.aspectRatio = `${image.naturalWidth} / ${image.naturalHeight}`; };
  if (image.complete) size(); else image.addEventListener("load", size, { once: true });
  fillItem({ uid: null, texts: [], columns: {}, licence: "", source: "", group: "", graph: null, image: true });
}

function frameItem(title, source) {
  const button = (label, name, done, path) => {
    const node = make("button", { type: "button", class: "icon", "aria-label": label, title: label, onclick: done });
    node.append(shape("svg", { viewBox: "0 0 24 24" }, shape("path", { d: path })));
    return node;
  };
  const stage = make("div", { class: "stage", id: "stage" });
  stage.style.aspectRatio = "1";
  if (source) stage.append(make("img", { src: source, alt: title }));
  const step = view.shown.uid ? [button("Before (←)", "", () => stepItem(-1), "M15 5l-7 7 7 7"), button("Next (→)", "", () => stepItem(1), "M9 5l7 7-7 7")] : [];
  $("item").replaceChildren(make("div", { class: "sheet" },
    make("div", { class: "left" }, stage, make("div", { class: "tabs", id: "tabs", role: "group", "aria-label": "What is laid over the picture" }), make("div", { id: "panel" })),
    make("div", { class: "right" },
      make("div", { class: "titlebar" }, make("h2", { id: "itemtitle" }, title), ...step, button("Close (Esc)", "", () => $("item").close(), "M6 6l12 12M18 6L6 18")),
      make("div", { id: "facts" }))));
}

function fillItem(item) {
  const positive = item.texts.find(text => text.origin !== "negative");
  if (positive) $("itemtitle").textContent = inert(positive.text);
  if (view.shown.uid && item.shown) {
    const stage = $("stage");
    if (item.image) stage.style.aspectRatio = `${item.width} / ${item.height}`;
    stage.append(pictureOf(item.uid, 1024, positive?.text ?? item.uid));
  } else if (!view.shown.image) $("stage").hidden = true;
  $("facts").replaceChildren(...itemActions(item), ...itemTexts(item), ...itemProvenance(item));
  itemTabs(item);
}

function itemActions(item) {
  if (!item.uid) return [];
  const pressed = make("button", { type: "button", class: "button", "aria-pressed": String(chosen.has(item.uid)), onclick: () => {
    pick(item.uid, view.shown.payload);
    pressed.setAttribute("aria-pressed", String(chosen.has(item.uid)));
    pressed.textContent = chosen.has(item.uid) ? "✓ Chosen" : "Choose";
  } }, chosen.has(item.uid) ? "✓ Chosen" : "Choose");
  const more = searchable() ? make("button", { type: "button", class: "button", onclick: () => example(item.uid, true) }, "More like this") : null;
  const less = current()?.combines && !empty() ? make("button", { type: "button", class: "button", onclick: () => example(item.uid, false) }, "Less like this") : null;
  return [make("div", { class: "row" }, pressed, more, less)];
}

function itemTexts(item) {
  if (!item.texts.length) return [];
  const rows = item.texts.map(text => make("li", {}, make("span", { class: text.origin, lang: text.language || null }, text.text),
    make("small", {}, [text.language, text.origin === "caption" ? "" : text.origin].filter(Boolean).join(" · "))));
  return [make("h3", {}, `Texts (${item.texts.length})`), make("ul", { class: "texts" }, ...rows)];
}

function itemProvenance(item) {
  const known = { uid: item.uid, source: item.source, licence: item.licence, group: item.group, media: Object.keys(item.media ?? {}).join(", "), size: item.width ? `${item.width} × ${item.height} pixels` : "" };
  const rows = Object.entries({ ...known, ...item.columns }).filter(([name, value]) => value !== "" && value != null && name !== "caption");
  const shownAs = value => Array.isArray(value) ? value.join(", ") : typeof value === "number" ? number(value) : String(value);
  return rows.length ? [make("h3", {}, "Where it comes from"), make("dl", {}, ...rows.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, shownAs(value))]))] : [];
}

function itemTabs(item) {
  $("item").classList.remove("graph");
  const tabs = [["Picture", () => { lay(); $("panel").replaceChildren(); }]];
  if (item.image && info.models.some(model => model.aligns)) tabs.push(["Words", () => wordsPanel(item)]);
  if (item.image && Math.min(item.width, item.height) >= 256 && info.models.some(model => model.aligns)) tabs.push(["Locate", () => locatePanel()]);
  if (item.image && info.models.some(model => model.lexical)) tabs.push(["Its words", () => becomesPanel()]);
  if (Object.values(item.media ?? {}).includes("cloud")) tabs.push(["Cloud", () => cloudPanel(item)]);
  if (item.media?.place) tabs.push(["Place", () => {
    lay();
    const map = pictureOf(item.uid, 512, `Where it lies on ${item.columns.slide ?? "its slide"}`, "place");
    map.addEventListener("load", () => map.scrollIntoView({ block: "nearest" }), { once: true });
    $("panel").replaceChildren(map);
  }]);
  if (item.graph) tabs.push(["Relations", () => graphPanel(item.graph, "In the data")]);
  if (item.image && info.detector) tabs.push(["Detect", () => detectPanel()]);
  if (item.image && info.writers.length) tabs.push(["Ask", () => tellPanel()]);
  if (item.image && info.writers.some(writer => writer.reduces)) tabs.push(["Tokens", () => tokensPanel()]);
  const buttons = tabs.map(([name, open], place) => make("button", { type: "button", class: "button", "aria-pressed": String(place === 0), onclick: () => {
    for (const other of buttons) other.setAttribute("aria-pressed", String(other === buttons[place]));
    $("item").classList.toggle("graph", name === "Relations" || name === "Detect");
    open();
  } }, name));
  $("tabs").replaceChildren(...(buttons.length > 1 ? buttons : []));
  if (!item.image) buttons[tabs.findIndex(([name]) => name === "Cloud")]?.click();
}

export function stepItem(by) {
  const order = [...new Set(found.sides.flatMap(side => visible(side).map(hit => hit.uid)))], place = order.indexOf(view.shown?.uid);
  if (place < 0 || !order[place + by]) return;
  look(order[place + by], found.sides.flatMap(side => side.hits).find(hit => hit.uid === order[place + by]).payload);
}

$("item").addEventListener("close", () => {
  const node = view.shown?.uid && document.querySelector(`.card[data-uid="${CSS.escape(view.shown.uid)}"] .look`);
  view.shown = null;
  if (node) rove(node, true);
});
