// The service: JSON, the token that it may want, and pictures of items.

import { $, make, say } from "./dom.js";
import { facts } from "./state.js";

const key = () => sessionStorage.getItem("diptych-token") ?? "";
const headers = more => facts.token && key() ? { ...more, Authorization: "Bearer " + key() } : more;

/** GET, or POST where there is a body: the answer as JSON. */
export async function ask(path, body, signal) {
  return (await answered(path, body, signal)).json();
}

/** POST for a streamed chat completion; `heard` gets all that is written so far. */
export async function hear(path, body, heard, signal) {
  const reader = (await answered(path, { ...body, stream: true }, signal)).body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "", rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return text;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const content = event.replace(/^data: /, "");
      if (content === "[DONE]") return text;
      const said = JSON.parse(content);
      if (said.error) throw new Error(said.error.message);
      const more = said.choices[0]?.delta.content;
      if (more) heard(text += more);
    }
  }
}

/** Asks for the token and waits for a busy service by itself; what was refused is an error with the line of the refusal. */
async function answered(path, body, signal) {
  for (;;) {
    const answer = body
      ? await fetch(path, { method: "POST", headers: headers({ "Content-Type": "application/json" }), body: JSON.stringify(body), signal })
      : await fetch(path, { headers: headers({}), signal });
    if (answer.status === 401 && facts.token) { await tokenAgain(); continue; }
    if (answer.status === 429) {
      const seconds = Math.min(Number(answer.headers.get("Retry-After")) || 1, 30);
      say(`The service is busy; asking again in ${seconds} s.`);
      await new Promise((go, stop) => { setTimeout(go, 1000 * seconds); signal?.addEventListener("abort", () => stop(signal.reason)); });
      continue;
    }
    if (answer.ok) return answer;
    const content = await answer.json();
    const message = content.error?.message ?? `The service answered ${answer.status}.`;
    throw Object.assign(new Error(message), { status: answer.status });
  }
}

let tokenAsked = null;
function tokenAgain() {
  tokenAsked ??= new Promise(done => {
    $("ask").addEventListener("close", () => { sessionStorage.setItem("diptych-token", $("token").value.trim()); tokenAsked = null; done(); }, { once: true });
    $("token").value = "";
    $("ask").showModal();
  });
  return tokenAsked;
}

// With a token an <img> cannot ask for itself; then pictures are fetched when they come into view.
const inView = new IntersectionObserver(entries => {
  for (const entry of entries) if (entry.isIntersecting) { inView.unobserve(entry.target); fetchPicture(entry.target); }
}, { rootMargin: "300px" });

async function fetchPicture(image) {
  const answer = await fetch(image.dataset.from, { headers: headers({}) });
  if (!answer.ok) { image.dispatchEvent(new Event("error")); return; }
  const address = URL.createObjectURL(await answer.blob());
  image.addEventListener("load", () => URL.revokeObjectURL(address), { once: true });
  image.src = address;
}

export function pictureOf(uid, side, alt, medium = "") {
  const address = `image/${encodeURIComponent(uid)}?side=${side}${medium && `&medium=${encodeURIComponent(medium)}`}`;
  const image = make("img", { alt, loading: "lazy", decoding: "async" });
  if (facts.token) { image.dataset.from = address; inView.observe(image); } else image.src = address;
  return image;
}
