// Elements and numbers: what every other module builds with.

export const $ = id => document.getElementById(id);

const ACTIVE = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\u200b\u2028\u2029\u2060-\u2064\ufeff\ufff9-\ufffb]/g;

/** Text from data as it is shown: control characters and those that turn the direction of what follows are spelled out. */
export function inert(text) {
  return text.replace(ACTIVE, one => {
    const code = one.codePointAt(0).toString(16);
    return code.length > 2 ? "\\u" + code.padStart(4, "0") : "\\x" + code.padStart(2, "0");
  });
}

const spelled = child => (typeof child === "string" ? inert(child) : child);
const SHOWN = ["title", "aria-label", "alt", "placeholder"];   // attributes that people read

export function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "class") node.className = value;
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, SHOWN.includes(name) ? inert(String(value)) : value);
  }
  node.append(...children.filter(child => child !== null && child !== undefined).map(spelled));
  return node;
}

export function shape(tag, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, SHOWN.includes(name) ? inert(String(value)) : value);
  node.append(...children.map(spelled));
  return node;
}

export const number = value => value.toLocaleString("en", { maximumFractionDigits: 3 });

/** The line above the results. */
export function say(words, bad = false) { $("said").textContent = inert(words); $("say").classList.toggle("bad", bad); }
