// Judgements: whether a hit is right for the words that were asked, saved as the file that `diptych index judge` reads.

import { $, make, number, say } from "./dom.js";
import { searching } from "./search.js";
import { found, state } from "./state.js";

const KEPT = "judgements";   // of this tab, over a reload
const grades = new Map(JSON.parse(sessionStorage.getItem(KEPT) ?? "[]").map(([words, given]) => [words, new Map(given)]));
let judging = false, asked = "", query = "";   // the words of the question under way, and those of the hits that are shown

/** Only words alone are judged: a file of judgements has no pictures, examples or filters. */
const judgeable = () => Boolean(query && !state.picture && !state.like.length && !Object.keys(state.where).length && found.sides.some(side => side.hits.length));

/** Give a grade; the same one again takes it back. */
function judge(uid, grade) {
  const given = grades.get(query) ?? new Map();
  if (given.get(uid) === grade) given.delete(uid); else given.set(uid, grade);
  if (given.size) grades.set(query, given); else grades.delete(query);
  keep();
}

function keep() {
  sessionStorage.setItem(KEPT, JSON.stringify([...grades].map(([words, given]) => [words, [...given]])));
  show();
}

function buttons(card) {
  const uid = card.dataset.uid, name = card.querySelector(".title").textContent;
  const button = (grade, label) => make("button", { type: "button", "data-grade": grade, "aria-label": `${label}: ${name}`, onclick: () => judge(uid, grade) }, label);
  return make("div", { class: "verdict", role: "group" }, button(1, "Right"), button(0, "Wrong"));
}

function show() {
  const on = judging && judgeable(), given = grades.get(query);
  $("judge").hidden = !judgeable();
  $("judge").setAttribute("aria-pressed", String(on));
  for (const card of document.querySelectorAll(".card")) {
    if (!on) { card.querySelector(".verdict")?.remove(); continue; }
    if (!card.querySelector(".verdict")) card.append(buttons(card));
    for (const button of card.querySelectorAll(".verdict button")) button.setAttribute("aria-pressed", String(given?.get(card.dataset.uid) === Number(button.dataset.grade)));
  }
  const count = [...grades.values()].reduce((sum, one) => sum + one.size, 0);
  $("judgements").hidden = !(judging && count);
  $("judged").textContent = `${number(count)} judged in ${number(grades.size)} ${grades.size === 1 ? "query" : "queries"}`;
}

const field = text => `"${text.replaceAll('"', '""')}"`;

function save() {
  const useful = [...grades].filter(([, given]) => [...given.values()].includes(1)), left = grades.size - useful.length;
  if (!useful.length) { say("Nothing is marked as right yet.", true); return; }
  const rows = useful.flatMap(([words, given]) => [...given].map(([uid, grade]) => [field(words), field(uid), grade].join(",")));
  const address = URL.createObjectURL(new Blob([["query,uid,grade", ...rows].join("\n") + "\n"], { type: "text/csv" }));
  make("a", { href: address, download: "queries.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
  say(`Saved as queries.csv${left ? `, without ${number(left)} that ${left === 1 ? "has" : "have"} nothing right` : ""}. Next: diptych index judge INDEX queries.csv`);
}

$("judge").onclick = () => { judging = !judging; show(); };
$("savejudged").onclick = save;
$("dropjudged").onclick = () => { grades.clear(); keep(); };
searching.addEventListener("asked", () => { asked = state.text; });
searching.addEventListener("found", () => { query = asked; show(); });
