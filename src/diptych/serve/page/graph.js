// Scene graphs: boxes and arrows over a picture, nodes and edges beside it, from the drawings that the service sends.

import { make, shape } from "./dom.js";
import { lay } from "./stage.js";

export function drawGraph(graph, out, words) {
  lay(draw(graph.drawings.picture, "Boxes and arrows over the picture"));
  const rows = graph.relations.map(edge => make("li", {}, graph.regions[edge.subject].name, make("i", {}, edge.predicate), graph.regions[edge.object].name, make("small", {}, edge.score.toFixed(2))));
  out.replaceChildren(make("div", { class: "quiet" }, `${words}: ${graph.regions.length} things, ${graph.relations.length} relations.`),
    graph.regions.length ? make("div", { class: "plot" }, draw(graph.drawings.graph, "The relations as a graph")) : "", make("ul", { class: "edges" }, ...rows));
}

function draw(drawing, title) {
  const svg = shape("svg", { viewBox: `0 0 ${drawing.width} ${drawing.height}`, role: "img", "aria-label": title, class: drawing.fixed ? "fixed" : "", preserveAspectRatio: drawing.fixed ? "none" : "xMidYMid" });
  const ink = name => `var(--${name})`, points = list => list.map(point => point.join(",")).join(" ");
  const box = ([x0, y0, x1, y1]) => ({ x: x0, y: y0, width: Math.max(0, x1 - x0), height: Math.max(0, y1 - y0) });
  for (const one of drawing.shapes) {
    const dashes = one.dashed ? { "stroke-dasharray": `${3 * one.width} ${2 * one.width}` } : {};
    if (one.kind === "outline") svg.append(shape("rect", { ...box(one.rect), rx: 2, fill: "none", stroke: ink(one.colour), "stroke-width": one.width, ...dashes }));
    if (one.kind === "arrow") {
      const ring = one.halo ? { stroke: "#fff", "stroke-width": 1.5, "paint-order": "stroke" } : {};
      if (one.halo) svg.append(shape("polyline", { points: points(one.line), fill: "none", stroke: "#fff", "stroke-width": one.width + 3 }));
      svg.append(shape("polyline", { points: points(one.line), fill: "none", stroke: ink(one.colour), "stroke-width": one.width, ...dashes }),
        shape("polygon", { points: points(one.head), fill: ink(one.colour), ...ring }),
        shape("circle", { cx: one.line[0][0], cy: one.line[0][1], r: one.width * 1.6, fill: ink(one.colour), ...ring }));
    }
    if (one.kind === "label") {
      svg.append(shape("rect", { ...box(one.rect), rx: 4, fill: ink(one.ground), ...(one.edge ? { stroke: ink(one.edge) } : {}) }));
      for (const line of one.lines) svg.append(shape("text", { x: line.x, y: line.y, "text-anchor": "middle", "font-size": one.size, fill: ink(line.colour), textLength: line.length, lengthAdjust: "spacingAndGlyphs" }, line.text));
    }
  }
  return svg;
}
