// What is said where there is nothing to show.

import { make } from "./dom.js";
import { nothing } from "../asking/state.js";

const offer = (name, act) => make("button", { on: { click: act } }, name);

const telling = (title, sentence, ...ways) =>
  make("section", { className: "telling" }, make("h2", {}, title), make("p", {}, sentence), make("p", { className: "ways" }, ...ways));

export function empty(state, config, change) {
  const ways = [];
  if (state.filter.length) ways.push(offer("Leave out the filters", () => change({ filter: [] })));
  if (state.least) ways.push(offer("Lower the cut-off", () => change({ least: 0 })));
  if (state.mode === "bm25" && config.hasEncoder) ways.push(offer("Search by image too", () => change({ mode: "" })));
  if (state.like.length || state.vector.length) ways.push(offer("Leave out the images", () => change({ like: [], vector: [] })));
  ways.push(offer("Start anew", () => change(nothing())));
  return [
    config.count
      ? telling("Nothing found", "Try fewer or other words, or one of these:", ...ways)
      : telling("The index is empty", `Feed it with: clipsearch feed MANIFEST --index ${config.target}`),
  ];
}

export function failing(error, again) {
  const isAsked = error.status >= 400 && error.status < 500;
  const told = telling(isAsked ? "This question cannot be answered" : "No answer", error.message, offer("Try again", again));
  told.role = "alert";
  return told;
}
