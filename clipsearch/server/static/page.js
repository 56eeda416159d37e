// The page: what is asked lives in the address, and everything shown follows from it.

import { list, search } from "./asking/api.js";
import { box as queryBox } from "./asking/box.js";
import { compare } from "./showing/compare.js";
import { counted, find, make, on } from "./showing/dom.js";
import { show as showFacets } from "./asking/facets.js";
import { card, moveFocus, placeholders } from "./showing/grid.js";
import { keys } from "./keys.js";
import { options as controls } from "./asking/options.js";
import { asksNothing, question, read, write } from "./asking/state.js";
import { empty, failing } from "./showing/telling.js";
import { viewer as largeImage } from "./showing/viewer.js";

const A_PAGE = 30;
const A_SAMPLE = 6;
const SAMPLED = [0, 0.2, 0.4, 0.6, 0.8];
const DEEPEST = 9000;
const MOST_AT_ONCE = 600;
const SOON = 150; // milliseconds without a sign of waiting
const LONG = 3000;
const WORDS_TO_TRY = 12;

const config = JSON.parse(document.documentElement.dataset.config);
const [results, summary, notes, end] = ["#results", "#summary", "#notes", "#end"].map((id) => find(id));

let state = read(location.search);
let asked = null; // the question whose answer is shown
let hits = [];
let total = 0;
let pages = 0;
let asking = new AbortController();
let isLoadingMore = false;

const box = queryBox({ current: () => state, change, fail, working });
const showOptions = controls({ change });
const viewer = largeImage({
  context: () => ({ state, hits, isAsked: !asksNothing(state) }),
  change,
  take: box.take,
  fail,
  step(by) {
    const at = hits.findIndex((hit) => hit.id === state.open);
    const next = hits[at + by];
    if (at >= 0 && next) change({ open: next.id }, true);
  },
});

/** Change what is asked; `isAdjusting` replaces the address rather than leave a step back. */
function change(part, isAdjusting = false) {
  keepPlace();
  state = { ...state, ...part };
  history[isAdjusting ? "replaceState" : "pushState"]({}, "", write(state));
  show(isAdjusting);
}

const keepPlace = () => history.replaceState({ pages, scrolled: scrollY }, "");

async function show(isAdjusting = false, kept = null) {
  box.show(state);
  showOptions(state);
  document.title = state.q ? `${state.q} – clipsearch` : "clipsearch";
  if (question(state) !== asked) await ask(isAdjusting, kept);
  viewer.show(state);
}

function working(sentence) {
  const soon = setTimeout(() => (summary.textContent = sentence), SOON);
  return () => clearTimeout(soon);
}

function fail(error) {
  notes.replaceChildren(make("p", { className: "problem", role: "alert" }, error.message));
}

function waiting(isAdjusting) {
  results.setAttribute("aria-busy", "true");
  const soon = setTimeout(() => {
    if (!isAdjusting) results.replaceChildren(make("ol", { className: "grid" }, ...placeholders(12)));
  }, SOON);
  const long = setTimeout(() => (summary.textContent = "Still searching… the first question loads the encoder."), LONG);
  return () => {
    clearTimeout(soon);
    clearTimeout(long);
  };
}

const isFirst = () => asksNothing(state) && !state.filter.length && !state.sort;

const fetchPage = (page, k, signal, facets) =>
  isFirst() ? sample(facets, signal)
  : asksNothing(state) ? list(state, { k, page, facets }, signal)
  : search(state, { k, page, facets }, signal);

/** Images from all over the collection. */
async function sample(facets, signal) {
  const places = SAMPLED.map((share) => 1 + Math.floor((share * Math.min(config.count, DEEPEST)) / A_SAMPLE));
  const asked = [...new Set(places)].map((page, at) => list(state, { k: A_SAMPLE, page, facets: at ? [] : facets }, signal));
  const answers = await Promise.all(asked);
  return { ...answers[0], hits: answers.flatMap((answer) => answer.hits) };
}

async function ask(isAdjusting, kept) {
  asking.abort();
  asking = new AbortController();
  const { signal } = asking;
  const mine = question(state);
  const done = waiting(isAdjusting);
  end.hidden = true;
  try {
    const isCompared = state.compare && !asksNothing(state);
    const wanted = Math.min(MOST_AT_ONCE, A_PAGE * Math.max(1, kept?.pages ?? 1));
    const answer = isCompared
      ? await compare(results, state, signal)
      : await fetchPage(1, wanted, signal, config.tags);
    if (signal.aborted) return;
    asked = mine;
    hits = answer.hits;
    total = answer.total;
    pages = Math.max(1, Math.ceil(hits.length / A_PAGE));
    if (!isCompared) results.replaceChildren(...(hits.length ? [gridOf(hits)] : empty(state, config, change)));
    tell(answer, isCompared);
    if (kept?.scrolled) scrollTo(0, kept.scrolled);
    else if (!isAdjusting && scrollY > 0) scrollTo(0, 0);
  } catch (error) {
    if (signal.aborted) return;
    asked = null;
    hits = [];
    summary.textContent = "";
    notes.replaceChildren();
    results.replaceChildren(failing(error, () => ask(false, kept)));
  } finally {
    done();
    if (!signal.aborted) results.removeAttribute("aria-busy");
  }
}

const gridOf = (found) => make("ol", { className: "grid" }, ...found.map((hit) => card(hit, state)));

function tell(answer, isCompared) {
  summary.textContent = isFirst() && answer.total
    ? `${counted(answer.total)} images. Some of them:`
    : `${answer.at_least ? "At least " : ""}${counted(answer.total)} found${answer.seconds ? ` in ${Math.max(1, Math.round(1000 * answer.seconds))} ms` : ""}`;
  const partial = answer.partial ? [`Only a part could be searched: ${answer.partial}`] : [];
  notes.replaceChildren(...[...partial, ...(answer.notes ?? [])].map((each) => make("p", {}, each)));
  for (const { word, suggestions } of answer.corrections ?? []) {
    const instead = suggestions.map((each) => {
      const meant = state.q.toLowerCase().replace(word, each.word);
      return make("button", { className: "chip", on: { click: () => change({ q: meant }) } }, meant);
    });
    notes.append(make("p", {}, "Did you mean ", ...instead));
  }
  find("aside").hidden = isCompared || !(config.tags[0] ?? config.pairs[0]);
  if (!isCompared) showFacets(find("#facets"), answer.facets ?? {}, config, state, change);
  end.hidden = isCompared || isFirst() || hits.length >= total || !hits.length;
  if (isFirst()) words();
}

/** Frequent words of the captions, to try. */
function words() {
  const counts = new Map();
  for (const word of hits.flatMap((hit) => hit.captions.join(" ").toLowerCase().match(/\p{L}{4,}/gu) ?? [])) {
    counts.set(word, (counts.get(word) ?? 0) + 1);
  }
  const chip = ([word]) => make("button", { className: "chip", on: { click: () => change({ q: word }) } }, make("bdi", {}, word));
  const most = [...counts].sort((one, other) => other[1] - one[1]).slice(0, WORDS_TO_TRY);
  if (most.length) notes.replaceChildren(make("p", {}, "Try ", ...most.map(chip)));
}

async function more() {
  if (isLoadingMore || end.hidden || !asked) return;
  isLoadingMore = true;
  const { signal } = asking;
  try {
    const answer = await fetchPage(pages + 1, A_PAGE, signal, []);
    if (signal.aborted) return;
    pages += 1;
    const known = new Set(hits.map((hit) => hit.id)); // a feed between two pages may shift them
    const fresh = answer.hits.filter((hit) => !known.has(hit.id));
    hits = [...hits, ...fresh];
    find(".grid", results).append(...fresh.map((hit) => card(hit, state)));
    end.hidden = !answer.hits.length || hits.length >= answer.total;
  } catch (error) {
    if (!signal.aborted) {
      end.hidden = true;
      fail(error);
    }
  } finally {
    isLoadingMore = false;
  }
}

on(results, "click", (event) => {
  const link = event.target.closest("a.frame");
  if (!link || event.metaKey || event.ctrlKey || event.shiftKey || event.button) return;
  event.preventDefault();
  change({ open: link.dataset.id });
});
on("#more", "click", more);
new IntersectionObserver((seen) => seen.some((each) => each.isIntersecting) && more(), { rootMargin: "600px" }).observe(end);
addEventListener("popstate", (event) => {
  state = read(location.search);
  show(false, event.state);
});
addEventListener("pagehide", keepPlace);
keys({ focusBox: box.focus, moveFocus: (key) => moveFocus(results, key), viewer: find("#viewer"), help: find("#help") });

history.scrollRestoration = "manual";
find("aside details").open = matchMedia("(min-width: 60rem)").matches;
show(false, history.state);
document.body.classList.add("alive");
