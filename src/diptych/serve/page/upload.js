// A picture from outside: chosen, dropped or pasted.

import { $, make, say } from "./dom.js";
import { lookAtPicture } from "./item.js";
import { showParts } from "./parts.js";
import { again } from "./search.js";
import { searchable, state } from "./state.js";

async function take(file) {
  if (!file) return;
  if (!file.type.startsWith("image/")) { say("That is not a picture.", true); return; }
  try { state.picture = await smaller(file); } catch { say("The picture could not be read.", true); return; }
  state.like = []; state.unlike = [];
  if (searchable()) again(); else { showParts(); lookAtPicture(); }
}

// Models look at a few hundred pixels; a photograph of twenty megabytes need not travel.
async function smaller(file) {
  const SIDE = 1024;
  const whole = () => new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result); reader.onerror = failed;
    reader.readAsDataURL(file);
  });
  if (file.size < 400_000) return whole();
  let bitmap;
  try { bitmap = await createImageBitmap(file); } catch { return whole(); }
  const scale = Math.min(1, SIDE / Math.max(bitmap.width, bitmap.height));
  const canvas = make("canvas", { width: Math.max(1, Math.round(bitmap.width * scale)), height: Math.max(1, Math.round(bitmap.height * scale)) });
  const pen = canvas.getContext("2d");
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL("image/jpeg", .92);
}

const carried = event => [...event.dataTransfer?.types ?? []].includes("Files");
addEventListener("dragover", event => { if (carried(event)) { event.preventDefault(); $("drop").hidden = false; } });
addEventListener("dragleave", event => { if (!event.relatedTarget) $("drop").hidden = true; });
addEventListener("drop", event => {
  $("drop").hidden = true;
  if (carried(event)) { event.preventDefault(); take(event.dataTransfer.files[0]); }
  // A picture dragged out of another page comes as its address, which a browser would go to.
  else if ([...event.dataTransfer?.types ?? []].includes("text/uri-list")) { event.preventDefault(); say("That is the address of a picture: save the picture, then drop the file.", true); }
});
addEventListener("paste", event => { const file = [...event.clipboardData.files][0]; if (file) { event.preventDefault(); take(file); } });
$("choose").onclick = () => $("file").click();
$("file").onchange = () => { take($("file").files[0]); $("file").value = ""; };
