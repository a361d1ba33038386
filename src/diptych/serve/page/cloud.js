// The point cloud of an item, turning: dragged, by keys, or by itself.

import { ask } from "./ask.js";
import { $, make, number } from "./dom.js";
import { lay, view } from "./stage.js";

const SIDE = 640, SPEED = .5;   // pixels of the canvas; radians a second
const still = matchMedia("(prefers-reduced-motion: reduce)");

/** Show the cloud in place of the picture, and keys and buttons below it. */
export async function cloudPanel(item) {
  const mine = view.shown, note = make("p", { class: "quiet" }, "Reading the points …");
  $("panel").replaceChildren(note);
  try {
    const cloud = await ask("cloud/" + encodeURIComponent(item.uid));
    if (view.shown === mine && note.isConnected) turnCloud(cloud, item);
  } catch (error) { note.className = "error"; note.textContent = error.message; }
}

function turnCloud(cloud, item) {
  const name = item.texts[0]?.text ?? item.uid;
  const canvas = make("canvas", { class: "cloud", width: SIDE, height: SIDE, tabindex: "0", role: "img", "aria-label": `Point cloud of ${name}; arrow keys turn it` });
  const pose = { turn: .8, tilt: .45, zoom: 1, moves: !still.matches };
  const pause = make("button", { type: "button", class: "button", onclick: () => move(!pose.moves) });
  const move = moves => { pose.moves = moves; pause.textContent = moves ? "Pause" : "Turn"; if (moves) requestAnimationFrame(frame); };
  const change = (turn, tilt, zoom = 1) => {
    pose.turn += turn;
    pose.tilt = Math.max(-Math.PI / 2, Math.min(Math.PI / 2, pose.tilt + tilt));
    pose.zoom = Math.max(.5, Math.min(8, pose.zoom * zoom));
    if (pose.moves) move(false);
    draw(canvas, cloud, pose);
  };
  let last = null;
  const frame = now => {
    if (!pose.moves || !canvas.isConnected) { last = null; return; }
    pose.turn += SPEED * Math.min(100, now - (last ?? now)) / 1000;
    last = now;
    draw(canvas, cloud, pose);
    requestAnimationFrame(frame);
  };
  const keys = {
    ArrowLeft: () => change(-.15, 0), ArrowRight: () => change(.15, 0), ArrowUp: () => change(0, .1), ArrowDown: () => change(0, -.1),
    "+": () => change(0, 0, 1.2), "=": () => change(0, 0, 1.2), "-": () => change(0, 0, 1 / 1.2), " ": () => move(!pose.moves),
    Home: () => { Object.assign(pose, { turn: .8, tilt: .45, zoom: 1 }); change(0, 0); },
  };
  canvas.addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
    event.preventDefault(); event.stopPropagation();   // arrows turn the cloud, and do not go on to the next item
    keys[event.key]();
  });
  canvas.addEventListener("pointerdown", event => canvas.setPointerCapture(event.pointerId));
  canvas.addEventListener("pointermove", event => { if (event.buttons) change(event.movementX / 120, event.movementY / 120); });
  canvas.addEventListener("wheel", event => { event.preventDefault(); change(0, 0, event.deltaY < 0 ? 1.1 : 1 / 1.1); }, { passive: false });
  lay(canvas);
  const shown = cloud.points.length < cloud.count ? `${number(cloud.points.length)} of ${number(cloud.count)} points` : `${number(cloud.count)} points`;
  $("panel").replaceChildren(pause, make("p", { class: "quiet" }, `${shown}. Drag it or use the arrow keys; + and − zoom, Space stops it, Home turns it back.`));
  draw(canvas, cloud, pose);
  move(pose.moves);
}

function draw(canvas, cloud, { turn, tilt, zoom }) {
  const [sinA, cosA, sinB, cosB] = [Math.sin(turn), Math.cos(turn), Math.sin(tilt), Math.cos(tilt)], pen = canvas.getContext("2d");
  const dot = Math.max(1.5, Math.min(30, 1.1 * zoom * SIDE / Math.sqrt(cloud.points.length))), scale = zoom * (SIDE - dot) / 2;
  const seen = cloud.points.map(([x, y, z], place) => {
    const far = sinA * x + cosA * y;
    return [cosA * x - sinA * y, cosB * far - sinB * z, sinB * far + cosB * z, place];   // right, away, up
  }).sort((one, other) => other[1] - one[1]);   // the farthest first
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, SIDE, SIDE);
  for (const [right, away, up, place] of seen) {
    const light = cloud.colours ? .825 - .175 * away : 1, colour = cloud.colours?.[place] ?? Array(3).fill(20 + 90 * (away + 1));
    pen.fillStyle = `rgb(${colour.map(value => Math.round(light * value)).join(" ")})`;
    pen.fillRect(SIDE / 2 + scale * right - dot / 2, SIDE / 2 - scale * up - dot / 2, dot, dot);
  }
}
