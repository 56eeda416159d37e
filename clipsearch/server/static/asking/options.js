// How it is ranked.

import { collapses } from "./api.js";
import { find, on, settled } from "../showing/dom.js";
import { asksNothing } from "./state.js";

const AT_ONCE = 60;

function saidWeight(weight) {
  if (weight === 0) return "words and image as the index weighs them";
  return weight < 0 ? `${-weight} % towards words` : `${weight} % towards the image`;
}

/** Wire the controls. `change(part of the state, isAdjusting)` asks anew. */
export function options({ change }) {
  const [mode, weight, least, one, sort, compare] = ["#mode", "#weight", "#least", "#one", "#sort", "#compare"].map((id) => find(id));
  const adjust = settled((part) => change(part, true), AT_ONCE);
  for (const select of [mode, sort]) on(select, "change", () => change({ [select.id]: select.value }));
  for (const slider of [weight, least]) {
    on(slider, "input", () => {
      say();
      adjust({ [slider.id]: Number(slider.value) });
    });
  }
  on(one, "change", () => change({ one: one.checked }));
  on(compare, "click", () => change({ compare: compare.getAttribute("aria-pressed") !== "true" }));

  function say() {
    find("#weight-said").textContent = saidWeight(Number(weight.value));
    find("#least-said").textContent = Number(least.value) ? `cosine ≥ ${(least.value / 100).toFixed(2)}` : "all";
  }

  return function show(state) {
    find(".controls").classList.toggle("idle", asksNothing(state));
    for (const each of [mode, weight, least, sort]) each.value = state[each.id];
    one.checked = state.one;
    compare.setAttribute("aria-pressed", String(state.compare));
    weight.disabled = !["", "hybrid", "hybrid-normalized"].includes(state.mode) || state.compare;
    one.disabled = !collapses(state.mode, state);
    least.disabled = state.mode === "bm25";
    mode.disabled = state.compare;
    say();
  };
}
