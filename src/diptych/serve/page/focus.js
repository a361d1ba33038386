// Keyboard focus in the grid: one card can be reached with Tab, arrows go on from there.

import { $ } from "./dom.js";

export function looks() { return [...document.querySelectorAll(".card .look")]; }

export function rove(node, focus = false) {
  const all = looks();
  for (const other of all) other.tabIndex = -1;
  const target = node ?? all[0];
  if (!target) return;
  target.tabIndex = 0;
  if (focus) { target.focus({ preventScroll: true }); target.closest(".card").scrollIntoView({ block: "nearest" }); }
}

export function move(from, name) {
  const grid = from.closest(".grid"), all = [...grid.querySelectorAll(".look")], place = all.indexOf(from);
  const columns = getComputedStyle(grid).gridTemplateColumns.split(" ").length;
  if (name === "ArrowUp" && place < columns) { $("text").focus(); return; }
  const grids = [...document.querySelectorAll(".grid")];
  const edge = name === "ArrowRight" ? place % columns === columns - 1 || place === all.length - 1 : place % columns === 0;
  const beside = grids[grids.indexOf(grid) + (name === "ArrowRight" ? 1 : -1)];
  if ((name === "ArrowRight" || name === "ArrowLeft") && grids.length > 1 && edge && beside) { rove(beside.querySelector(".look"), true); return; }
  const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, Home: -place, End: all.length - 1 - place }[name];
  rove(all[Math.min(all.length - 1, Math.max(0, place + by))], true);
}
