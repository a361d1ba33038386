// Light, dark, or as the system.

import { $ } from "./dom.js";

const THEMES = ["", "light", "dark"];
function theme(name) { document.documentElement.style.colorScheme = name; localStorage.setItem("diptych-theme", name); }

$("theme").onclick = () => theme(THEMES[(THEMES.indexOf(document.documentElement.style.colorScheme) + 1) % THEMES.length]);
theme(THEMES.includes(localStorage.getItem("diptych-theme")) ? localStorage.getItem("diptych-theme") : "");
