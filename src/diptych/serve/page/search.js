// Asking: a question goes to each model, the newest answer counts. Views listen to `searching`: "asked", then "found".

import { ask } from "./ask.js";
import { $, inert, say } from "./dom.js";
import { PAGE, current, empty, found, question, remember, searchable, sides, state, summary } from "./state.js";

export const searching = new EventTarget();
const WAIT = 140;   // ms
let turn = 0, asking = null, timer = 0;

const tell = name => searching.dispatchEvent(new Event(name));

export async function search() {
  clearTimeout(timer);
  timer = 0;
  asking?.abort();
  remember();
  tell("asked");
  const mine = ++turn;
  if (empty() || !searchable()) { show([]); say(""); document.body.classList.remove("searching"); return; }
  asking = new AbortController();
  const begun = performance.now();
  document.body.classList.add("searching");
  try {
    const answers = await Promise.all(sides().map(side => askSide(side, asking.signal)));
    if (mine !== turn) return;
    if (answers.every(side => side.error && side.error === answers[0].error)) { refused(answers[0]); return; }
    show(answers);
    say(`${summary()} in ${Math.max(1, Math.round(performance.now() - begun))} ms`);
  } catch (error) {
    if (mine === turn && error.name !== "AbortError") { show([]); say("The service does not answer.", true); }
  } finally {
    if (mine === turn && !timer) document.body.classList.remove("searching");   // else one is due
  }
}

/** The same answer of every model is said once; a picture that the service cannot take is put away. */
function refused(answer) {
  if (state.picture && [400, 413].includes(answer.status)) { state.picture = null; tell("asked"); }
  show([]);
  say(answer.error, true);
}

function show(answers) {
  found.sides = answers;
  const meant = answers.map(side => side.suggestion).find(Boolean) ?? "";
  $("meant").hidden = !meant;
  $("meant").textContent = inert(`Did you mean “${meant}”?`);
  $("meant").onclick = () => { state.text = $("text").value = meant; again(); };
  tell("found");
}

async function askSide(side, signal) {
  if (!side.index) return { side, hits: [], error: `${side.name} has no index.` };
  try {
    const { hits, suggestion } = await ask("search", { ...question(), model: side.name }, signal);
    return { side, hits, suggestion };
  } catch (error) {
    if (error.name === "AbortError" || error instanceof TypeError) throw error;
    return { side, hits: [], error: error.message, status: error.status };
  }
}

/** After a pause in typing. */
export const soon = () => { document.body.classList.add("searching"); clearTimeout(timer); timer = setTimeout(search, WAIT); };

/** At once, from the first page of results. */
export const again = () => { state.k = PAGE; search(); };

/** Ask for more, or less, like an item. */
export function example(uid, good) {
  const [to, from] = good ? ["like", "unlike"] : ["unlike", "like"];
  if (!current()?.combines) { state.text = $("text").value = ""; state.picture = null; state.like = [uid]; state.unlike = []; }
  else {
    state[from] = state[from].filter(other => other !== uid);
    if (!state[to].includes(uid)) state[to].push(uid);
    if (good && !state.unlike.length && state.like.length === 1) { state.text = $("text").value = ""; state.picture = null; }
  }
  $("item").close();
  scrollTo({ top: 0 });
  again();
}
