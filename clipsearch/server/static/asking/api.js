// The HTTP API as the page uses it.

import { unpacked } from "./state.js";

const LONGEST_WAIT = 30_000;
const TRIES = 3;

/** An error as the service tells it (RFC 9457), or why it could not be asked. */
export class Problem extends Error {
  constructor(sentence, status = 0) {
    super(sentence);
    this.status = status;
  }
}

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

async function sentence(answer) {
  try {
    return (await answer.json()).detail;
  } catch {
    return `${answer.status} ${answer.statusText}`;
  }
}

async function once(path, { signal, ...given }) {
  const late = AbortSignal.timeout(LONGEST_WAIT);
  try {
    return await fetch(path, { ...given, signal: signal ? AbortSignal.any([signal, late]) : late });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Problem(
      late.aborted ? "The service has not answered for 30 seconds." : "The service cannot be reached.",
    );
  }
}

/** Ask; an overloaded service is asked again when it says. */
async function ask(path, given = {}) {
  for (let left = TRIES; ; left -= 1) {
    const answer = await once(path, given);
    if (answer.ok) return answer.json();
    if (answer.status !== 503 || left <= 1) throw new Problem(await sentence(answer), answer.status);
    await pause(1000 * Math.min(10, Number(answer.headers.get("Retry-After")) || 1));
    given.signal?.throwIfAborted();
  }
}

const json = (body) => ({
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify(body),
});

const ofImage = (id, what) => `v1/images/${encodeURIComponent(id)}${what}`;
export const fileOf = (id) => ofImage(id, "/file");
export const thumbnailOf = (id, width = 320) => ofImage(id, `/thumbnail?w=${width}`);

let weighed = {}; // what the index weighs the question of last by

/** Weights for where the slider stands, between those of the index and either part alone. */
async function weights(state, signal) {
  const key = state.q + state.mode;
  if (weighed.key !== key) {
    const { hits } = await search({ ...state, weight: 0 }, { k: 1, page: 1, explain: true }, signal);
    weighed = { key, ...hits[0]?.explanation };
  }
  const less = 1 - Math.abs(state.weight) / 100;
  return {
    bm25_weight: (weighed.bm25_weight ?? 1) * (state.weight < 0 ? 1 : less),
    vector_weight: (weighed.vector_weight ?? 1) * (state.weight < 0 ? less : 1),
  };
}

export const collapses = (mode, state) => !state.sort && !/rrf|normalized/.test(mode);

async function body(state, { k, page, mode, facets = [], ...more }, signal) {
  const asked = mode ?? state.mode;
  const weighted = !asked || asked === "hybrid" || asked === "hybrid-normalized";
  const isMixed = state.q.trim() !== "" && weighted;
  return {
    ...(state.q.trim() ? { text: state.q } : {}),
    parts: [
      ...state.like.map((id) => ({ kind: "id", value: id })),
      ...state.vector.map((vector) => ({ kind: "vector", value: unpacked(vector) })),
    ],
    ...(asked ? { mode: asked } : {}),
    ...(state.weight && isMixed ? await weights(state, signal) : {}),
    ...(state.least && asked !== "bm25" ? { min_cosine: state.least / 100 } : {}),
    ...(state.one && collapses(asked, state) ? { collapse: true } : {}),
    ...(state.sort ? { sort: state.sort } : {}),
    filters: state.filter,
    facets,
    k,
    page,
    ...more,
  };
}

export const search = async (state, asked, signal) =>
  ask("v1/search", { ...json(await body(state, asked, signal)), signal });

/** Images without a question: the collection as the filters leave it. */
export function list(state, { k, page, facets = [] }, signal) {
  const given = new URLSearchParams({ k, page });
  for (const filter of state.filter) given.append("filter", filter);
  for (const column of facets) given.append("facet", column);
  if (state.sort) given.set("sort", state.sort);
  return ask(`v1/images?${given}`, { signal });
}

export const image = (id) => ask(ofImage(id, ""));

export const locate = (id, text, signal) =>
  ask(ofImage(id, `/locate?${new URLSearchParams({ text })}`), { signal });

export const suggest = (prefix, limit, signal) =>
  ask(`v1/suggest?${new URLSearchParams({ prefix, limit })}`, { signal });

/** The vector of an image, or of the part `crop` ([x, y, width, height] in its pixels) of it. */
export async function embed(blob, crop = null) {
  const [x, y, width, height] = crop ?? [];
  const part = { kind: "image", value: "image", ...(crop ? { crop: { x, y, width, height } } : {}) };
  const form = new FormData();
  form.append("question", JSON.stringify({ parts: [part] }));
  form.append("image", blob, blob.name ?? "image");
  return (await ask("v1/embed", { method: "POST", body: form })).embedding;
}

/** The file of an indexed image. */
export async function fetchFile(id) {
  const answer = await once(fileOf(id), {});
  if (!answer.ok) throw new Problem(await sentence(answer), answer.status);
  return answer.blob();
}
