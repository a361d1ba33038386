// What a model says of a picture: the words of a text laid over it, and the things in it with their relations.

import { ask } from "./ask.js";
import { $, make } from "./dom.js";
import { drawGraph } from "./graph.js";
import { lay, pictureBody, view } from "./stage.js";
import { current, info, state } from "./state.js";

export function wordsPanel(item) {
  const text = state.text || item.texts.find(one => one.origin !== "negative")?.text || "";
  const field = make("input", { value: text, "aria-label": "Words to lay over the picture", placeholder: "words" });
  const out = make("div", {});
  const go = async () => {
    const words = field.value.trim(), mine = view.shown;
    if (!words) return;
    out.replaceChildren(make("p", { class: "quiet" }, "Asking the model …"));
    try {
      const side = current()?.aligns ? current() : info.models.find(model => model.aligns);
      const found = await ask("explain", { ...pictureBody(), text: words, model: side.name });
      if (view.shown === mine) heat(found, out);
    } catch (error) { out.replaceChildren(make("p", { class: "error" }, error.message)); }
  };
  lay();
  $("panel").replaceChildren(make("form", { class: "words", onsubmit: event => { event.preventDefault(); go(); } }, field, make("button", { class: "button" }, "Show")), out);
  go();
}

function heat(found, out) {
  const canvas = make("canvas", { width: found.columns, height: found.rows, "aria-hidden": "true" });
  const [x0, y0, x1, y1] = found.box;
  Object.assign(canvas.style, { left: 100 * x0 + "%", top: 100 * y0 + "%", width: 100 * (x1 - x0) + "%", height: 100 * (y1 - y0) + "%" });
  const buttons = found.words.map((word, place) => make("button", { type: "button", "aria-pressed": "false", onclick: () => paint(place) }, place ? word : "all of it"));
  function paint(place) {
    buttons.forEach((button, other) => button.setAttribute("aria-pressed", String(other === place)));
    const values = found.weights[place].flat(), low = found.method === "occlusion" ? 0 : Math.min(...values), high = Math.max(...values, low + 1e-6);
    const pen = canvas.getContext("2d"), pixels = pen.createImageData(found.columns, found.rows);
    values.forEach((value, at) => {
      const part = Math.max(0, (value - low) / (high - low));   // a veil with holes where the word is: it works on any picture
      pixels.data.set([12, 16, 32, Math.round(205 * (1 - part) ** 1.5)], 4 * at);
    });
    pen.putImageData(pixels, 0, 0);
  }
  lay(canvas);
  const how = { patches: "Light: patches that fit the word.", lexicon: "Light: patches that say the word, or what it stands for." }[found.method] ?? "Light: parts whose loss would cost most of the score.";
  out.replaceChildren(make("p", { class: "chips", role: "group", "aria-label": "Words" }, ...buttons), make("div", { class: "quiet" }, `${how} Score ${found.score.toFixed(3)}.`));
  paint(0);
}

export async function becomesPanel() {   // the words that a lexical model makes of the picture, as bars; each lays its places over it
  const out = make("div", {}), mine = view.shown;
  lay();
  $("panel").replaceChildren(out);
  out.replaceChildren(make("p", { class: "quiet" }, "Asking the model …"));
  try {
    const side = current()?.lexical ? current() : info.models.find(model => model.lexical);
    const found = await ask("words", { ...pictureBody(), model: side.name });
    if (view.shown === mine) bars(found, out);
  } catch (error) { out.replaceChildren(make("p", { class: "error" }, error.message)); }
}

function bars(found, out) {
  if (!found.words.length) { out.replaceChildren(make("p", { class: "quiet" }, "No word of the vocabulary fits this picture.")); return; }
  const inner = make("div", {}), most = Math.max(...found.weights);
  const rows = found.words.map((word, place) => {
    const bar = make("span", { class: "weight", "aria-hidden": "true" });
    bar.style.width = 100 * found.weights[place] / most + "%";
    return make("button", { type: "button", class: "wordbar", "aria-pressed": "false", onclick: () => {
      rows.forEach((row, other) => row.setAttribute("aria-pressed", String(other === place)));
      heat({ ...found, method: "lexicon", words: [word], weights: [found.places[place]], score: found.weights[place] }, inner);
      inner.replaceChildren();
    } }, make("span", { class: "word" }, word), make("span", { class: "track" }, bar), make("span", { class: "number" }, found.weights[place].toFixed(3)));
  });
  out.replaceChildren(make("div", { class: "wordbars", role: "group", "aria-label": "Words of the picture" }, ...rows),
    make("p", { class: "quiet" }, `${found.words.length} of ${found.count} words, heaviest first. Choose one to see where it stands.`), inner);
}

export async function tokensPanel() {   // which patches each image token of a language model stands for
  const out = make("div", {}), mine = view.shown;
  lay();
  $("panel").replaceChildren(out);
  out.replaceChildren(make("p", { class: "quiet" }, "Asking the model …"));
  try {
    const writer = info.writers.find(one => one.reduces && one.name === current()?.name) ?? info.writers.find(one => one.reduces);
    const found = await ask("tokens", { ...pictureBody(), model: writer.name });
    if (view.shown === mine) outlines(found, out);
  } catch (error) { out.replaceChildren(make("p", { class: "error" }, error.message)); }
}

function outlines(found, out) {
  const CELL = 16, { rows, columns, owner } = found, [x0, y0, x1, y1] = found.box;
  const canvas = make("canvas", { width: columns * CELL, height: rows * CELL, "aria-hidden": "true" });
  Object.assign(canvas.style, { left: 100 * x0 + "%", top: 100 * y0 + "%", width: 100 * (x1 - x0) + "%", height: 100 * (y1 - y0) + "%", pointerEvents: "auto" });
  const chooser = make("input", { type: "range", min: 0, max: found.tokens, value: 0, "aria-label": "Token" }), count = make("span", {});
  const paint = token => {   // token 0 is none: lines alone
    const pen = canvas.getContext("2d");
    let patches = 0;
    pen.clearRect(0, 0, canvas.width, canvas.height);
    owner.forEach((line, row) => line.forEach((own, column) => {
      const [x, y] = [column * CELL, row * CELL];
      if (own === token - 1) patches += 1;
      else if (token) { pen.fillStyle = "rgb(12 16 32 / .7)"; pen.fillRect(x, y, CELL, CELL); }
      pen.fillStyle = "#fff";
      if (column && line[column - 1] !== own) pen.fillRect(x - 1, y, 2, CELL);
      if (row && owner[row - 1][column] !== own) pen.fillRect(x, y - 1, CELL, 2);
    }));
    count.textContent = token ? `Token ${token} of ${found.tokens}: ${patches} patches` : "All tokens";
  };
  const choose = token => { chooser.value = token; paint(token); };
  chooser.addEventListener("input", () => paint(Number(chooser.value)));
  chooser.addEventListener("keydown", event => { if (event.key.startsWith("Arrow")) event.stopPropagation(); });   // not the next item
  canvas.addEventListener("pointerdown", event => {
    const area = canvas.getBoundingClientRect();
    choose(1 + owner[Math.min(rows - 1, Math.floor((event.clientY - area.top) / area.height * rows))][Math.min(columns - 1, Math.floor((event.clientX - area.left) / area.width * columns))]);
  });
  lay(canvas);
  out.replaceChildren(make("label", {}, chooser, " ", count),
    make("p", { class: "quiet" }, `${found.tokens} tokens for ${rows} × ${columns} patches. Lines: between patches of different tokens. Choose a token here, or in the picture.`));
  paint(0);
}

export function detectPanel() {
  const objects = make("input", { value: info.objects.slice(0, 20).join(", "), "aria-label": "Things to look for", placeholder: "things: person, dog" });
  const relations = make("input", { value: info.relations.slice(0, 20).join(", "), "aria-label": "Relations to look for", placeholder: "relations: riding, holding" });
  const out = make("div", {});
  const list = field => field.value.split(",").map(word => word.trim()).filter(Boolean);
  const go = async () => {
    const mine = view.shown;
    out.replaceChildren(make("p", { class: "quiet" }, "Asking the model …"));
    try {
      const graph = await ask("detect", { ...pictureBody(), objects: list(objects), relations: list(relations) });
      if (view.shown === mine) drawGraph(graph, out, `Found by ${info.detector}`);
    } catch (error) { out.replaceChildren(make("p", { class: "error" }, error.message)); }
  };
  lay();
  $("panel").replaceChildren(make("form", { onsubmit: event => { event.preventDefault(); go(); } },
    make("div", { class: "words" }, objects), make("div", { class: "words" }, relations, make("button", { class: "button" }, "Detect"))), out);
  go();
}

export function graphPanel(graph, words) {
  const out = make("div", {});
  $("panel").replaceChildren(out);
  drawGraph(graph, out, words);
}
