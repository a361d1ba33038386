// What is asked, what was found, what was chosen; and the question in the address of the page.

import { $, number } from "./dom.js";

export const PAGE = 48;
export const facts = JSON.parse(document.body.dataset.facts);
export const state = { text: "", picture: null, like: [], unlike: [], weight: 2, distinct: 1, cut: 0, k: PAGE, where: {}, model: "", compare: false };
export const chosen = new Map();   // uid -> caption, over all searches
export const info = { models: [], writers: [], limits: { k: 200 }, columns: {} };   // what /info says
export const found = { sides: [] };   // a list of hits for each model that was asked

export const current = () => info.models.find(model => model.name === state.model) ?? info.models[0];
export const caption = payload => String(payload.text ?? payload.caption ?? payload.label ?? "");
export const empty = () => !state.text && !state.picture && !state.like.length;
export const sides = () => (state.compare && info.models.length > 1 ? info.models.slice(0, 2) : [current()]).filter(Boolean);
export const searchable = () => info.models.some(model => model.index);

export function question() {
  const body = { k: state.k };
  if (state.text) body.text = state.text;
  if (state.picture) body.image = state.picture;
  if (state.like.length) body.like = state.like;
  if (state.unlike.length) body.unlike = state.unlike;
  if (state.text && (state.picture || state.like.length)) body.weight = state.weight;
  if (state.distinct < 1) body.distinct = state.distinct;
  if (Object.keys(state.where).length) body.where = state.where;
  return body;
}

/** The lowest score that is shown: a share of the way from the worst hit to the best. */
export function least() {
  const scores = found.sides.flatMap(side => side.hits.map(hit => hit.score));
  if (!scores.length || !state.cut) return -Infinity;
  const low = Math.min(...scores);
  return low + state.cut * (Math.max(...scores) - low);
}
export const visible = side => side.hits.filter(hit => hit.score >= least());

export function summary() {
  const hits = found.sides.flatMap(side => visible(side).length), all = found.sides[0]?.side.count;
  return `${hits.map(number).join(" and ")} of ${all == null ? "?" : number(all)} items`;
}

/** Write the question into the address, so that it can be sent to somebody else. */
export function remember() {
  const address = new URLSearchParams();
  if (state.text) address.set("q", state.text);
  for (const name of ["like", "unlike"]) for (const uid of state[name]) address.append(name, uid);
  if (Object.keys(state.where).length) address.set("where", JSON.stringify(state.where));
  if (state.distinct < 1) address.set("distinct", state.distinct);
  if (state.compare) address.set("compare", "1");
  if (state.model && state.model !== info.models[0]?.name) address.set("model", state.model);
  const text = address.toString();
  history.replaceState(null, "", text ? "?" + text : location.pathname);
}

/** Read it from there again. */
export function recall() {
  const address = new URLSearchParams(location.search);
  state.text = address.get("q") ?? "";
  state.like = address.getAll("like"); state.unlike = address.getAll("unlike");
  try { state.where = JSON.parse(address.get("where") ?? "{}") ?? {}; } catch { state.where = {}; }
  state.distinct = Math.min(1, Math.max(.5, Number(address.get("distinct") ?? 1) || 1));
  state.compare = address.get("compare") === "1" && info.models.length > 1;
  state.model = info.models.find(model => model.name === address.get("model"))?.name ?? info.models[0]?.name ?? "";
  $("text").value = state.text;
}
