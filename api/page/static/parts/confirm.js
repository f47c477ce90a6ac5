// Asks before what cannot be taken back.

import { h } from "../core/dom.js";
import { button } from "./bits.js";

/** True if the person agrees. The focus goes back to where it was. */
export function confirm(title, text, action) {
  return new Promise((resolve) => {
    const close = (agreed) => () => {
      resolve(agreed);
      dialog.close();
    };
    const dialog = h(
      "dialog",
      { class: "dialog", "aria-labelledby": "confirm-title" },
      h("h2", { id: "confirm-title" }, title),
      h("p", {}, text),
      h("div", { class: "actions" }, button("Keep it", close(false)), button(action, close(true), { look: "danger" })),
    );
    dialog.addEventListener("close", () => {
      resolve(false);
      dialog.remove();
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}
