// The keyboard: / to the box, arrows among images, ? for what keys there are.

import { find, on } from "./showing/dom.js";

const isTyping = (element) => element.closest("input:not([type=range]):not([type=checkbox]), select, textarea") !== null;

export function keys({ focusBox, moveFocus, viewer, help }) {
  on(document, "keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return;
    if (viewer.open || help.open) return;
    if (event.key === "/") focusBox();
    else if (event.key === "?") help.showModal();
    else if (!moveFocus(event.key)) return;
    event.preventDefault();
  });
  // From the box, the arrow down leads to the first image.
  on("#q", "keydown", (event) => {
    if (event.key !== "ArrowDown" || event.defaultPrevented) return;
    const first = find("#results a.frame");
    if (first) {
      event.preventDefault();
      first.focus();
    }
  });
  on("#keys", "click", () => help.showModal());
  for (const each of document.querySelectorAll("dialog .close")) {
    on(each, "click", () => each.closest("dialog").close());
  }
}
