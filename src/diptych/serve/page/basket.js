// Lists for training: items that were chosen, over several searches.

import { $, make, number, say } from "./dom.js";
import { caption, chosen, found, visible } from "./state.js";

export function pick(uid, payload) {
  if (chosen.has(uid)) chosen.delete(uid); else chosen.set(uid, caption(payload ?? {}));
  for (const node of document.querySelectorAll(`.card[data-uid="${CSS.escape(uid)}"]`)) mark(node);
  showBasket();
}

export function showBasket() {
  $("basket").hidden = !chosen.size;
  $("count").textContent = number(chosen.size);
}

/** A card shows whether it is chosen. */
export function mark(card) {
  const on = chosen.has(card.dataset.uid);
  card.classList.toggle("chosen", on);
  card.querySelector(".pick").setAttribute("aria-pressed", String(on));
}

function markAll() {
  document.querySelectorAll(".card").forEach(mark);
  showBasket();
}

$("save").onclick = () => {
  const address = URL.createObjectURL(new Blob([[...chosen.keys()].join("\n") + "\n"], { type: "text/plain" }));
  make("a", { href: address, download: "subset.txt" }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
  say("Saved as subset.txt. Train on it: diptych train RECIPE --data DATA --subset subset.txt --out RUN");
};
$("all").onclick = () => { for (const side of found.sides) for (const hit of visible(side)) chosen.set(hit.uid, caption(hit.payload)); markAll(); };
$("none").onclick = () => { chosen.clear(); markAll(); };
