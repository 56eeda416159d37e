// What is asked, as the address has it: links, reload and the back button give it again.

const NOTHING = {
  q: "",
  mode: "",
  weight: 0, // -100 words alone, 0 as the index weighs them, 100 the image part alone
  least: 0, // cosine below which nothing is shown, in hundredths; 0 shows all
  one: false, // one of each group of near duplicates
  filter: [],
  sort: "",
  like: [], // ids of indexed images
  vector: [], // of other images, as `packed` has them
  compare: false,
  open: "", // id of the image that is shown large
};
const LOWEST = { weight: -100, least: 0 };

export const nothing = () => structuredClone(NOTHING);

function value(given, name, empty) {
  if (Array.isArray(empty)) return given.getAll(name);
  if (typeof empty === "boolean") return given.has(name);
  const text = given.get(name) ?? "";
  return typeof empty === "string" ? text : Math.min(100, Math.max(LOWEST[name], parseInt(text, 10) || 0));
}

export function read(address) {
  const given = new URLSearchParams(address);
  return Object.fromEntries(Object.entries(NOTHING).map(([name, empty]) => [name, value(given, name, empty)]));
}

export function write(state) {
  const given = new URLSearchParams();
  for (const [name, empty] of Object.entries(NOTHING)) {
    const now = state[name];
    if (Array.isArray(empty)) for (const each of now) given.append(name, each);
    else if (now) given.set(name, now === true ? "" : now);
  }
  return given.size ? `?${given}` : location.pathname;
}

export const asksNothing = (state) => !state.q.trim() && !state.like.length && !state.vector.length;

/** All that decides which hits there are; what is shown large does not. */
export const question = (state) => write({ ...state, open: "" });

// An uploaded image lives in the address as its vector, a byte a value: its cosine to the vector
// is above .9999, and the link works for others without the image.
export function packed(vector) {
  const most = Math.max(...vector.map(Math.abs)) || 1;
  const bytes = vector.map((value) => Math.round((value / most) * 127) & 255);
  return btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
}

export function unpacked(text) {
  const bytes = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
  return Array.from(bytes, (byte) => (byte.charCodeAt(0) << 24) >> 24);
}
