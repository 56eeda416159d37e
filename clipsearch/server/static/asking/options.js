// How it is ranked.

import { collapses } from "./api.js";
import { find, settled } from "../showing/dom.js";

const AT_ONCE = 60;

function saidWeight(weight) {
  if (weight === 0) return "words and image as the index weighs them";
  return weight < 0 ? `${-weight} % towards words` : `${weight} % towards the image`;
}

/** Wire the controls. `change(part of the state, isAdjusting)` asks anew. */
export function options({ change }) {
  const [mode, weight, least, one, sort, compare] = ["#mode", "#weight", "#least", "#one", "#sort", "#compare"].map((id) => find(id));
  const adjust = settled((part) => change(part, true), AT_ONCE);
  mode.addEventListener("change", () => change({ mode: mode.value }));
  weight.addEventListener("input", () => {
    say();
    adjust({ weight: Number(weight.value) });
  });
  least.addEventListener("input", () => {
    say();
    adjust({ least: Number(least.value) });
  });
  one.addEventListener("change", () => change({ one: one.checked }));
  sort.addEventListener("change", () => change({ sort: sort.value }));
  compare.addEventListener("click", () => change({ compare: compare.getAttribute("aria-pressed") !== "true" }));

  function say() {
    find("#weight-said").textContent = saidWeight(Number(weight.value));
    find("#least-said").textContent = Number(least.value) ? `cosine ≥ ${(least.value / 100).toFixed(2)}` : "all";
  }

  return function show(state) {
    mode.value = state.mode;
    weight.value = state.weight;
    least.value = state.least;
    one.checked = state.one;
    sort.value = state.sort;
    compare.setAttribute("aria-pressed", String(state.compare));
    weight.disabled = !["", "hybrid", "hybrid-normalized"].includes(state.mode) || state.compare;
    one.disabled = !collapses(state.mode, state);
    least.disabled = state.mode === "bm25";
    mode.disabled = state.compare;
    say();
  };
}
