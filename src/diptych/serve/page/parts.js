// The parts of a question that are no words: its picture and its examples.

import { pictureOf } from "./ask.js";
import { $, make } from "./dom.js";
import { look, lookAtPicture } from "./item.js";
import { again, searching } from "./search.js";
import { current, info, state } from "./state.js";

export function showParts() {
  const parts = [];
  const part = (kind, image, open, off, name) => make("span", { class: "part " + (kind === "−" ? "bad" : "") },
    kind ? make("b", {}, kind) : null,
    make("button", { type: "button", class: "open", title: name, "aria-label": name, onclick: open }, image),
    make("button", { type: "button", class: "off", "aria-label": "Take away: " + name, onclick: off }, "×"));
  if (state.picture) {
    const image = make("img", { src: state.picture, alt: "" });
    parts.push(part("", image, () => lookAtPicture(), () => { state.picture = null; again(); }, "The picture to search by"));
  }
  for (const [name, sign, words] of [["like", "+", "More like "], ["unlike", "−", "Less like "]])
    for (const uid of state[name]) {
      const drop = () => { state[name] = state[name].filter(other => other !== uid); again(); };
      parts.push(part(sign, info.data ? pictureOf(uid, 64, "") : make("span", {}, uid), () => look(uid), drop, words + uid));
    }
  $("parts").replaceChildren(...parts);
  $("weighing").hidden = !(state.text && (state.picture || state.like.length)) || !current()?.combines;
}

searching.addEventListener("asked", showParts);
