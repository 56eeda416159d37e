// Filters as on the command line: class=a|b, year=2010..2014.

import { counted, make } from "../showing/dom.js";

const SHOWN = 8;
const NEEDS_QUOTES = /["\\|=]/;

export const isRange = (filter, column) => filter.startsWith(`${column}=`) && filter.includes("..");

function valuesOf(filters, column) {
  const filter = filters.find((each) => each.startsWith(`${column}=`));
  return filter ? filter.slice(column.length + 1).split("|") : [];
}

function withValues(filters, column, values) {
  const others = filters.filter((each) => !each.startsWith(`${column}=`));
  return values.length ? [...others, `${column}=${values.join("|")}`] : others;
}

function values(column, counts, state, change) {
  const chosen = valuesOf(state.filter, column);
  const missing = chosen.filter((value) => !counts.some((each) => each.value === value));
  const all = [...missing.map((value) => ({ value, count: 0 })), ...counts.filter((each) => !NEEDS_QUOTES.test(each.value))];
  const chip = ({ value, count }) => {
    const isOn = chosen.includes(value);
    return make(
      "button",
      {
        type: "button",
        className: "chip",
        "aria-pressed": String(isOn),
        data: { column, value },
        on: {
          click: () => {
            const kept = isOn ? chosen.filter((each) => each !== value) : [...chosen, value];
            change({ filter: withValues(state.filter, column, kept) });
          },
        },
      },
      make("bdi", {}, value),
      make("span", { className: "count" }, counted(count)),
    );
  };
  const more = all.length - SHOWN;
  const rest = more > 0 ? make("details", {}, make("summary", {}, `${more} more`), ...all.slice(SHOWN).map(chip)) : null;
  return make("fieldset", { className: "facet" }, make("legend", {}, column), ...all.slice(0, SHOWN).map(chip), rest);
}

function range(column, type, state, change) {
  const given = state.filter.find((each) => isRange(each, column)) ?? "";
  const [low = "", high = ""] = given.slice(column.length + 1).split("..");
  const field = (name, value) =>
    make("input", { type, step: "any", value, placeholder: name, "aria-label": `${column} ${name}`, data: { column, side: name } });
  const [from, to] = [field("from", low), field("to", high)];
  const apply = () => {
    const others = state.filter.filter((each) => !isRange(each, column));
    change({ filter: from.value || to.value ? [...others, `${column}=${from.value}..${to.value}`] : others });
  };
  for (const input of [from, to]) input.addEventListener("change", apply);
  return make("fieldset", { className: "facet range" }, make("legend", {}, column), from, make("span", { "aria-hidden": "true" }, "–"), to);
}

/** Show what can be filtered by; `facets` of the last answer. */
export function show(place, facets, config, state, change) {
  const active = document.activeElement;
  const focus = place.contains(active) ? { ...active.dataset } : null;
  const tags = Object.entries(facets).filter(([column, counts]) => counts.length > 1 || valuesOf(state.filter, column).length);
  place.replaceChildren(
    ...tags.map(([column, counts]) => values(column, counts, state, change)),
    ...config.ranges.map(([column, type]) => range(column, type, state, change)),
  );
  if (!focus) return;
  const again = [...place.querySelectorAll("button, input")].find((each) =>
    Object.entries(focus).every(([name, value]) => each.dataset[name] === value),
  );
  again?.focus();
}
