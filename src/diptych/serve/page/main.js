// The page starts here.

import { ask } from "./ask.js";
import { $, say } from "./dom.js";
import "./judge.js";
import "./keys.js";
import { showModels } from "./models.js";
import { showFilters } from "./narrow.js";
import "./parts.js";
import { again, search, soon } from "./search.js";
import { PAGE, info, recall, state } from "./state.js";
import "./theme.js";
import "./upload.js";

$("form").addEventListener("submit", event => { event.preventDefault(); state.text = $("text").value.trim(); again(); });
$("text").addEventListener("input", () => { state.text = $("text").value.trim(); state.k = PAGE; soon(); });
$("filters").addEventListener("submit", event => event.preventDefault());
$("more").onclick = () => { state.k = Math.min(state.k + PAGE, info.limits.k); search(); };

async function start() {
  if (matchMedia("(max-width: 60rem)").matches) $("narrow").open = false;
  try { Object.assign(info, await ask("info")); }
  catch (error) { showFilters(); say(error instanceof TypeError ? "The service does not answer." : error.message, true); return; }
  recall();
  showModels();
  showFilters();
  await search();
  document.body.dataset.ready = "";
}

start();
