// Elements made and filled; text from outside only ever becomes text nodes.

export const find = (selector, root = document) => root.querySelector(selector);

/** Call `act` at events of an element, or of the one that a selector finds. */
export const on = (element, kind, act) => (typeof element === "string" ? find(element) : element).addEventListener(kind, act);

/** Make an element; `given` are properties or attributes. */
export function make(tag, given = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (value == null) continue;
    if (name === "on") for (const [kind, act] of Object.entries(value)) on(element, kind, act);
    else if (name === "data") Object.assign(element.dataset, value);
    else if (name.includes("-") || !(name in element) || name === "role") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

/** A caption as a fragment, its spans [start, end] in Unicode characters as marks. */
export function marked(caption, spans = []) {
  const characters = [...caption];
  const fragment = document.createDocumentFragment();
  let end = 0;
  for (const [from, to] of spans) {
    fragment.append(characters.slice(end, from).join(""), make("mark", {}, characters.slice(from, to).join("")));
    end = to;
  }
  fragment.append(characters.slice(end).join(""));
  return fragment;
}

/** The place of the caption with the most marks; the first of equal ones. */
export function bestCaption(highlights) {
  let best = 0;
  highlights.forEach((spans, place) => {
    if (spans.length > highlights[best].length) best = place;
  });
  return best;
}

/** A number with so many digits, and never -0. */
export const rounded = (number, digits = 3) =>
  number == null ? "–" : (Number(Number(number).toFixed(digits)) || 0).toFixed(digits);

export const counted = (number) => number.toLocaleString("en");

/** Call `act` once nothing has asked for it for `milliseconds`. */
export function settled(act, milliseconds) {
  let timer = 0;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => act(...values), milliseconds);
  };
}
