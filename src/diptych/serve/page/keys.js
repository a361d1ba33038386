// Keys, for all of the page; and dialogs that close by a click beside them.

import { pick } from "./basket.js";
import { $ } from "./dom.js";
import { looks, move, rove } from "./focus.js";
import { stepItem } from "./item.js";
import { compare } from "./models.js";
import { example } from "./search.js";
import { current, empty, found } from "./state.js";

const open = () => document.querySelector("dialog[open]");

addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.matches?.("input:not([type=checkbox], [type=range]), textarea, select"), card = event.target.closest?.(".card");
  if (open()) {
    if (open() === $("item") && !typing && (event.key === "ArrowLeft" || event.key === "ArrowRight")) { event.preventDefault(); stepItem(event.key === "ArrowLeft" ? -1 : 1); }
    return;
  }
  if (event.target === $("text")) {
    if (event.key === "ArrowDown" && looks().length) { event.preventDefault(); rove(looks().find(node => node.tabIndex === 0), true); }
    return;
  }
  if (typing) return;
  if (event.key === "/") { event.preventDefault(); $("text").focus(); $("text").select(); }
  else if (event.key === "?") { event.preventDefault(); $("help").showModal(); }
  else if (event.key === "c") compare();
  else if (card && event.target.matches(".look")) {
    const uid = card.dataset.uid;
    if (/^(Arrow|Home$|End$)/.test(event.key)) { event.preventDefault(); move(event.target, event.key); }
    else if (event.key === " ") { event.preventDefault(); pick(uid, found.sides.flatMap(side => side.hits).find(hit => hit.uid === uid)?.payload); }
    else if (event.key === "+" || event.key === "=") example(uid, true);
    else if (event.key === "-" && current()?.combines && !empty()) example(uid, false);
  }
});

for (const dialog of document.querySelectorAll("dialog")) dialog.addEventListener("click", event => { if (event.target === dialog && dialog.id !== "ask") dialog.close(); });
$("keys").onclick = () => $("help").showModal();
