// A caption for the picture, and answers to questions about it: written word by word, or the likeliest of given ones.

import { ask, hear } from "./ask.js";
import { $, inert, make } from "./dom.js";
import { lay, pictureBody, view } from "./stage.js";
import { current, info } from "./state.js";

export function tellPanel() {
  const writer = info.writers.find(one => one.name === current()?.name) ?? info.writers[0];
  const question = make("input", { "aria-label": "Question about the picture", placeholder: "a question, or nothing for a caption" });
  const choices = make("input", { "aria-label": "Answers to choose from", placeholder: "answers to choose from: red, green" });
  const out = make("div", { role: "status", "aria-label": "Answer" });
  let asking = null;
  const go = async () => {
    asking?.abort();
    const mine = view.shown, stop = asking = new AbortController();
    const words = question.value.trim(), given = choices.value.split(",").map(word => word.trim()).filter(Boolean);
    const show = (...nodes) => {
      if (view.shown === mine && asking === stop) out.replaceChildren(...nodes); else stop.abort();
    };
    show(make("p", { class: "quiet" }, "Asking the model …"));
    try {
      if (given.length) {
        const found = await ask("ask", { ...pictureBody(), question: words, choices: given, model: writer.name }, stop.signal);
        show(shares(found), by(writer));
        return;
      }
      const answer = make("p", { class: "answer" });
      const text = await hear("v1/chat/completions", { model: writer.name, messages: [message(words)] }, said => {
        answer.textContent = inert(said);
        show(answer);
      }, stop.signal);
      show(text ? answer : make("p", { class: "quiet" }, "The model has nothing to say."), by(writer));
    } catch (error) { if (error.name !== "AbortError") show(make("p", { class: "error" }, error.message)); }
  };
  lay();
  $("panel").replaceChildren(make("form", { onsubmit: event => { event.preventDefault(); go(); } },
    make("div", { class: "words" }, question, writer.ranks ? null : make("button", { class: "button" }, "Ask")),
    writer.ranks ? make("div", { class: "words" }, choices, make("button", { class: "button" }, "Ask")) : null), out);
  go();
}

function message(words) {
  const { image, uid } = pictureBody();
  const picture = { type: "image_url", image_url: { url: image ?? "item:" + uid } };
  return { role: "user", content: words ? [picture, { type: "text", text: words }] : [picture] };
}

function shares(found) {
  const rows = Object.entries(found.shares).sort((one, other) => other[1] - one[1]).map(([choice, share]) => {
    const bar = make("span", { class: "weight", "aria-hidden": "true" });
    bar.style.width = 100 * share + "%";
    return make("li", { class: "wordbar" }, make("span", { class: "word" }, choice), make("span", { class: "track" }, bar), make("span", { class: "number" }, share.toFixed(3)));
  });
  return make("ol", { class: "wordbars" }, ...rows);
}

const by = writer => make("p", { class: "quiet" }, `Written by ${writer.name}. It may be wrong.`);
