// The picture of the dialog, and what is laid over it.

import { $ } from "./dom.js";

/** What the dialog is about: uid or image, and the payload of the hit. */
export const view = { shown: null };

/** Put something over the picture, and take away what was there. */
export function lay(...nodes) {
  for (const node of [...$("stage").children]) if (node.tagName !== "IMG") node.remove();
  $("stage").append(...nodes);
}

/** The picture as a request names it. */
export const pictureBody = () => view.shown.image ? { image: view.shown.image } : { uid: view.shown.uid };
