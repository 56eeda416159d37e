// One image, large, and all about it.

import { fetchFile, fileOf, image, locate, Problem, search } from "../asking/api.js";
import { find, make, marked, on, rounded } from "./dom.js";
import { drawHeat } from "./heat.js";
import { selection } from "./selection.js";

function table(entries) {
  return make("dl", {}, ...entries.flatMap(([name, value]) => [make("dt", { dir: "auto" }, name), make("dd", { dir: "auto" }, String(value))]));
}

function metadata(hit) {
  const known = [["id", hit.id], ["path", hit.path ?? ""]];
  return table([...known, ...Object.entries(hit.tags ?? {}), ...Object.entries(hit.numbers ?? {})].filter(([, value]) => value !== ""));
}

function reasons(hit) {
  const known = (name, value) => (value == null ? [] : [[name, value]]);
  const why = hit.explanation ?? {};
  const found = [
    ["score", rounded(hit.score, 4)],
    ...known("words (bm25)", hit.bm25 && rounded(hit.bm25, 4)),
    ...known("image (cosine)", hit.cosine && rounded(hit.cosine, 4)),
    ...known("weight of words", why.bm25_weight?.toPrecision(3)),
    ...known("weight of the image", why.vector_weight?.toPrecision(3)),
    ...known("rank by words", why.rank_by_words),
    ...known("rank by image", why.rank_by_image),
  ];
  if (!why.terms?.length) return table(found);
  const row = (kind, first, ...rest) =>
    make("tr", {}, make("th", { scope: kind, dir: "auto" }, first), ...rest.map((text) => make(kind === "col" ? "th" : "td", {}, text)));
  const rows = why.terms.map((each) => row("row", each.word, rounded(each.idf, 2), String(each.frequency), rounded(each.share)));
  return make("div", {}, table(found), make("table", {}, make("thead", {}, row("col", "word", "idf", "times", "of bm25")), make("tbody", {}, ...rows)));
}

/** Wire the dialog. `context()` gives what is asked and the hits. */
export function viewer({ context, change, take, fail, step }) {
  const dialog = find("#viewer");
  const told = find("#where-said");
  let shown = null;
  let looking = new AbortController();
  const box = selection(find("#stage"), find("#large"), find("#box-said"));

  on(dialog, "close", () => {
    if (context().state.open) change({ open: "" });
  });
  on(dialog, "click", (event) => event.target === dialog && dialog.close());
  on("#close", "click", () => dialog.close());
  on("#like", "click", () => {
    const id = shown.id;
    change({ like: [id], vector: [], q: "", open: "", mode: "", sort: "" });
  });
  on("#both", "click", () => change({ like: [...context().state.like, shown.id], open: "" }));
  on("#copy", "click", async () => {
    await navigator.clipboard.writeText(shown.id);
    find("#copied").textContent = "Copied.";
  });
  on("#where", "submit", async (event) => {
    event.preventDefault();
    const text = find("#where-text").value.trim();
    if (text) await showWhere(text);
  });
  on("#where-off", "click", clearHeat);
  on("#by-part", "click", async () => {
    try {
      await take(await fetchFile(shown.id), box.pixels());
    } catch (error) {
      fail(error);
    }
  });
  on(dialog, "keydown", (event) => {
    if (event.target.closest("input, #part-box")) return;
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });

  function clearHeat() {
    looking.abort();
    told.textContent = "";
    showHeat(false);
  }

  function showHeat(isShown) {
    for (const id of ["#heat", "#where-off"]) find(id).hidden = !isShown;
  }

  async function showWhere(text) {
    clearHeat();
    looking = new AbortController();
    const { signal } = looking;
    told.textContent = "Looking…";
    try {
      const map = await locate(shown.id, text, signal);
      drawHeat(find("#heat"), map);
      showHeat(true);
      told.textContent = [
        `Strongest at ${Math.round(map.peak.x)}, ${Math.round(map.peak.y)} (cosine ${rounded(map.peak.cosine)}).`,
        ...(map.notes ?? []),
      ].join(" ");
    } catch (error) {
      if (!signal.aborted) told.textContent = error.message;
    }
  }

  function fill(hit) {
    find("#captions").replaceChildren(
      ...hit.captions.map((caption, place) => make("p", { dir: "auto" }, marked(caption, hit.highlights?.[place]))),
    );
    find("#about").replaceChildren(metadata(hit));
    const why = find("#why");
    why.hidden = hit.score == null;
    if (!why.hidden) find("#reasons").replaceChildren(reasons(hit));
  }

  async function explained(hit, number) {
    const { state, hits, isAsked } = context();
    if (!isAsked || hit.score === undefined) return;
    const at = hits.findIndex((each) => each.id === hit.id);
    if (at < 0) return;
    try {
      const answer = await search(state, { k: 1, page: at + 1, explain: true });
      const whole = answer.hits.find((each) => each.id === hit.id);
      if (whole && shown?.number === number) fill(whole);
    } catch {
      // The parts of the score are shown already.
    }
  }

  /** Small images are enlarged. */
  on("#large", "load", ({ target: { style, naturalWidth, naturalHeight } }) => {
    const room = find("#stage").parentElement.clientWidth / naturalWidth;
    const scale = Math.min(room, (0.7 * innerHeight) / naturalHeight, 8);
    style.width = scale > 1 ? `${scale * naturalWidth}px` : "";
  });

  let number = 0;
  async function open(id) {
    number += 1;
    const mine = number;
    const hit = context().hits.find((each) => each.id === id);
    let found = hit;
    try {
      found ??= await image(id);
    } catch (error) {
      fail(error instanceof Problem && error.status === 404 ? new Error(`No image has the id ${id} any more.`) : error);
      change({ open: "" });
      return;
    }
    if (mine !== number) return;
    shown = { id, number: mine };
    clearHeat();
    box.clear();
    find("#copied").textContent = "";
    const large = find("#large");
    large.src = fileOf(id);
    large.alt = found.captions[0] ?? `image ${id}`;
    const download = find("#download");
    download.href = fileOf(id);
    download.download = id.split("/").at(-1);
    find("#where-text").value = context().state.q;
    find("#viewer-title").textContent = found.captions[0] ?? id;
    fill(found);
    if (!dialog.open) dialog.showModal();
    await explained(found, mine);
  }

  return {
    show(state) {
      if (!state.open) {
        number += 1;
        shown = null;
        if (dialog.open) dialog.close();
      } else if (shown?.id !== state.open) open(state.open);
    },
  };
}
