// What was found: cards in one grid, or in two side by side.

import { pictureOf } from "./ask.js";
import { mark, pick, showBasket } from "./basket.js";
import { $, inert, make, number, say } from "./dom.js";
import { rove } from "./focus.js";
import { look } from "./item.js";
import { example, searching } from "./search.js";
import { caption, current, empty, found, info, searchable, state, visible } from "./state.js";

export function render() {
  const two = found.sides.length > 1, focused = document.activeElement?.closest?.(".card")?.dataset.uid;
  const old = new Map([...document.querySelectorAll(".side")].map(section => [section.dataset.name, section]));
  const ranks = found.sides.map(side => new Map(visible(side).map((hit, rank) => [hit.uid, rank + 1])));
  const sections = found.sides.map((result, place) => {
    const before = new Map([...(old.get(result.side.name)?.querySelectorAll(".card") ?? [])].map(node => [node.dataset.uid, node]));
    const seen = new Set();
    const cards = visible(result).map(hit => {
      const known = seen.has(hit.uid) ? null : before.get(hit.uid);
      seen.add(hit.uid);
      return fill(known ?? card(hit), hit, two ? ranks[1 - place].get(hit.uid) : undefined, two);
    });
    const kind = result.side.index ? `${result.side.index} index` : "no index";
    const head = two ? make("h2", {}, result.side.name, make("span", { class: "quiet" }, kind)) : null;
    const words = result.error ? make("p", { class: "error" }, result.error) : cards.length || !two ? null : make("p", { class: "quiet" }, "Nothing found.");
    return make("section", { class: "side", "data-name": result.side.name, "aria-label": result.side.name }, head, words, make("ol", { class: "grid" }, ...cards));
  });
  $("sides").classList.toggle("two", two);
  $("sides").replaceChildren(...sections);
  const more = found.sides.some(side => side.hits.length >= state.k) && state.k < info.limits.k;
  $("more").hidden = !more;
  if (found.sides.length && !two && !found.sides[0].hits.length && !found.sides[0].error) say("Nothing found.");
  rove(focused && document.querySelector(`.card[data-uid="${CSS.escape(focused)}"] .look`), Boolean(focused));
  showBasket();
}

function card(hit) {
  const uid = hit.uid, name = caption(hit.payload) || uid;
  const nothing = () => make("span", { class: "none" }, uid);
  const frame = make("span", { class: "picture" });
  if (info.data) {
    const image = pictureOf(uid, 256, name);
    image.addEventListener("error", () => image.replaceWith(nothing()));
    frame.append(image);
  } else frame.append(nothing());
  const open = make("button", { type: "button", class: "look", "aria-label": "Look at " + name, tabindex: "-1", onclick: () => look(uid, hit.payload) }, frame,
    make("span", { class: "about" }, make("span", { class: "title" }), make("span", { class: "score" }), make("span", { class: "also", hidden: true })));
  const act = (kind, sign, title, done) => make("button", { type: "button", class: kind, title, "aria-label": `${title}: ${name}`, tabindex: "-1", onclick: done }, sign);
  return make("li", { class: "card", "data-uid": uid }, open, make("div", { class: "act" },
    act("pick", "✓", "Choose (Space)", () => pick(uid, hit.payload)),
    act("plus", "+", "More like this", () => example(uid, true)),
    act("minus", "−", "Less like this", () => example(uid, false))));
}

function fill(node, hit, elsewhere, two) {
  node.querySelector(".title").textContent = inert(caption(hit.payload) || hit.uid);
  node.querySelector(".score").textContent = hit.score.toFixed(3);
  node.querySelector(".minus").hidden = !current()?.combines || empty();
  const also = node.querySelector(".also");
  also.hidden = !two;
  also.classList.toggle("only", !elsewhere);
  also.textContent = elsewhere ? `there at ${elsewhere}` : "only here";
  mark(node);
  return node;
}

// Items from all over the data, to begin with.
function examples() {
  const open = uid => {
    const image = pictureOf(uid, 128, uid), button = make("button", { type: "button", title: uid, "aria-label": "Look at " + uid, onclick: () => look(uid) }, image);
    image.addEventListener("error", () => button.remove());
    return button;
  };
  const uids = info.data ? current()?.examples ?? [] : [];
  if ($("examples").dataset.of !== current()?.name) { $("examples").dataset.of = current()?.name; $("examples").replaceChildren(...uids.map(open)); }
}

function welcome(on) {
  $("start").hidden = !on;
  if (!on) return;
  examples();
  const items = current()?.count;
  $("welcome").textContent = items ? `${number(items)} items, in your own words` : searchable() ? "In your own words" : "Look into a picture";
  $("lead").textContent = searchable()
    ? "Type what you are looking for, drop or paste a picture, or do both: the words then change the picture."
    : info.detector ? "Drop or paste a picture to see what is in it and how it is related." : "This service has no index to search; it answers /v1/embeddings.";
}

searching.addEventListener("asked", () => welcome(empty() || !searchable()));
searching.addEventListener("found", render);
