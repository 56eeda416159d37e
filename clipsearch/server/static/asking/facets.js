// Filters as on the command line: class=a|b, year=2010..2014.

import { counted, make, on } from "../showing/dom.js";

const SHOWN = 8;
const NEEDS_QUOTES = /["\\|=]/;

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

/** A filter of two fields: from a value to another, or within a distance of a place. */
function pair({ column, between, needsBoth, fields }, state, change) {
  const isOwn = (filter) => filter.startsWith(`${column}=`) && filter.includes(between);
  const given = state.filter.find(isOwn);
  const cut = given?.lastIndexOf(between);
  const values = given && [given.slice(column.length + 1, cut), given.slice(cut + between.length)];
  const inputs = fields.map(({ name, ...field }, at) =>
    make("input", { ...field, ...(values && { value: values[at] }), "aria-label": `${column} ${name}`, data: { column, name } }),
  );
  const apply = () => {
    if (!inputs.every((each) => each.reportValidity())) return;
    const [first, second] = inputs.map((each) => each.value.trim());
    const others = state.filter.filter((each) => !isOwn(each));
    const isGiven = needsBoth ? first && second : first || second;
    change({ filter: isGiven ? [...others, `${column}=${first}${between}${second}`] : others });
  };
  for (const input of inputs) on(input, "change", apply);
  return make("fieldset", { className: "facet range" }, make("legend", {}, column), ...inputs);
}

/** Show what can be filtered by; `facets` of the last answer. */
export function show(place, facets, config, state, change) {
  const active = document.activeElement;
  const focus = place.contains(active) ? { ...active.dataset } : null;
  const tags = Object.entries(facets).filter(([column, counts]) => counts.length > 1 || valuesOf(state.filter, column).length);
  place.replaceChildren(
    ...tags.map(([column, counts]) => values(column, counts, state, change)),
    ...config.pairs.map((each) => pair(each, state, change)),
  );
  if (!focus) return;
  const again = [...place.querySelectorAll("button, input")].find((each) =>
    Object.entries(focus).every(([name, value]) => each.dataset[name] === value),
  );
  again?.focus();
}
