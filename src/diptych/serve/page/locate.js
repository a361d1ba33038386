// Where in a large picture a text fits: the map of its windows over the scene, and a frame around each peak.

import { ask } from "./ask.js";
import { $, make } from "./dom.js";
import { lay, pictureBody, view } from "./stage.js";
import { current, info, state } from "./state.js";

export function locatePanel() {
  const field = make("input", { value: state.text || "", "aria-label": "What to look for in the picture", placeholder: "a plane beside a hangar" });
  const out = make("div", {});
  const go = async () => {
    const text = field.value.trim(), mine = view.shown;
    if (!text) return;
    out.replaceChildren(make("p", { class: "quiet" }, "Comparing windows of the picture …"));
    try {
      const side = current()?.aligns ? current() : info.models.find(model => model.aligns);
      const answer = await ask("locate", { ...pictureBody(), text, model: side.name });
      if (view.shown === mine) show(answer, out);
    } catch (error) { out.replaceChildren(make("p", { class: "error" }, error.message)); }
  };
  lay();
  $("panel").replaceChildren(make("form", { class: "words", onsubmit: event => { event.preventDefault(); go(); } }, field, make("button", { class: "button" }, "Locate")), out);
  if (field.value) go();
}

function show(answer, out) {
  const canvas = make("canvas", { width: answer.columns, height: answer.rows, "aria-hidden": "true" });
  Object.assign(canvas.style, { left: 0, top: 0, width: "100%", height: "100%" });
  const pen = canvas.getContext("2d"), pixels = pen.createImageData(answer.columns, answer.rows);
  answer.values.flat().forEach((value, at) => pixels.data.set([12, 16, 32, Math.round(205 * (1 - value) ** 1.5)], 4 * at));
  pen.putImageData(pixels, 0, 0);
  const frames = answer.hits.map((hit, index) => {
    const [x0, y0, x1, y1] = hit.box, frame = make("div", { class: "located", "aria-hidden": "true" }, String(index + 1));
    Object.assign(frame.style, { left: 100 * x0 + "%", top: 100 * y0 + "%", width: 100 * (x1 - x0) + "%", height: 100 * (y1 - y0) + "%" });
    return frame;
  });
  lay(canvas, ...frames);
  const rows = answer.hits.map(hit => make("li", {}, `probability ${hit.probability.toFixed(2)}, cosine ${hit.cosine.toFixed(3)}`));
  out.replaceChildren(rows.length ? make("ol", { class: "quiet" }, ...rows) : make("p", { class: "quiet" }, "No peak: the map is even."),
    make("div", { class: "quiet" }, `Light: windows that fit the text, of ${answer.windows}. There is always a best one; the cosine says how well it fits.`));
}
