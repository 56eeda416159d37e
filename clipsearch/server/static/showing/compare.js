// Modes side by side; an image that several find has one number, and lines between.

import { search } from "../asking/api.js";
import { counted, make, on } from "./dom.js";
import { card } from "./grid.js";

const COLUMNS = [
  ["bm25", "Words", "bm25 over the captions"],
  ["hybrid", "Both", "words and image together"],
  ["vector", "Image", "the embedding alone"],
];
const SHOWN = 12;
const SVG = "http://www.w3.org/2000/svg";

function numbersOf(answers) {
  const seen = new Map();
  for (const answer of answers) for (const hit of answer?.hits ?? []) seen.set(hit.id, (seen.get(hit.id) ?? 0) + 1);
  const numbers = new Map();
  for (const [id, times] of seen) if (times > 1) numbers.set(id, numbers.size + 1);
  return numbers;
}

function column([mode, name, meaning], answer, reason, numbers, state) {
  const heading = make("h2", { id: `column-${mode}` }, name);
  if (!answer) return make("section", { "aria-labelledby": heading.id }, heading, make("p", { className: "facts" }, reason));
  const cards = answer.hits.map((hit) => {
    const number = numbers.get(hit.id);
    const said = number ? `#${hit.rank} · ${number}` : `#${hit.rank}`;
    return card(hit, state, make("span", { className: number ? "badge joined" : "badge" }, said));
  });
  return make(
    "section",
    { "aria-labelledby": heading.id },
    heading,
    make("p", { className: "facts" }, `${meaning} · ${counted(answer.total)} found`),
    cards.length ? make("ol", { className: "cards" }, ...cards) : make("p", {}, "Nothing found this way."),
  );
}

function line(from, to, origin, id) {
  const [x1, x2] = [from.right - origin.left, to.left - origin.left];
  const [y1, y2] = [from, to].map((box) => box.top - origin.top + Math.min(40, box.height / 2));
  const path = document.createElementNS(SVG, "path");
  const middle = (x1 + x2) / 2;
  path.setAttribute("d", `M${x1} ${y1}C${middle} ${y1} ${middle} ${y2} ${x2} ${y2}`);
  path.dataset.id = id;
  return path;
}

/** Draw a line between neighbouring columns for each image that both have. */
function join(table, drawing) {
  const origin = table.getBoundingClientRect();
  drawing.setAttribute("viewBox", `0 0 ${origin.width} ${origin.height}`);
  const columns = [...table.querySelectorAll("section")].map(
    (section) => new Map([...section.querySelectorAll(".card")].map((each) => [each.dataset.id, each.getBoundingClientRect()])),
  );
  const lines = [];
  for (let place = 1; place < columns.length; place += 1) {
    for (const [id, box] of columns[place - 1]) {
      if (columns[place].has(id)) lines.push(line(box, columns[place].get(id), origin, id));
    }
  }
  drawing.replaceChildren(...lines);
}

/** Ask in all modes and show them in `place`; how many were found by both. */
export async function compare(place, state, signal) {
  const asked = COLUMNS.map(([mode]) => search(state, { mode, k: SHOWN, page: 1 }, signal));
  const settled = await Promise.allSettled(asked);
  if (signal.aborted) throw signal.reason;
  if (settled.every((each) => each.status === "rejected")) throw settled[0].reason;
  const answers = settled.map((each) => each.value);
  const numbers = numbersOf(answers);
  const drawing = document.createElementNS(SVG, "svg");
  drawing.setAttribute("aria-hidden", "true");
  const table = make(
    "div",
    { className: "compared" },
    ...COLUMNS.map((each, at) => column(each, answers[at], settled[at].reason?.message, numbers, state)),
    drawing,
  );
  const light = (event) => {
    const id = event.target.closest?.(".card")?.dataset.id;
    for (const each of table.querySelectorAll(".card, path")) {
      each.classList.toggle("lit", id !== undefined && each.dataset.id === id);
    }
  };
  for (const kind of ["pointerover", "focusin", "pointerleave", "focusout"]) on(table, kind, light);
  place.replaceChildren(table);
  new ResizeObserver(() => join(table, drawing)).observe(table);
  return answers[1] ?? answers.find(Boolean);
}
