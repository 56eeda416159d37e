// The box: text; images dropped, pasted or chosen.

import { embed, suggest, thumbnailOf } from "./api.js";
import { counted, find, make, on, settled } from "../showing/dom.js";
import { packed } from "./state.js";

const SUGGESTED = 8;
const PREVIEW = "clipsearch preview ";

/** Offer words of the index that go on from what is typed. */
function suggestions(input, list) {
  let asking = new AbortController();
  const suggested = settled(async () => {
    asking.abort();
    asking = new AbortController();
    const [before, prefix] = input.value.match(/^(.*?)([^\s"+-]*)$/u)?.slice(1) ?? ["", ""];
    if (prefix.length < 2) return list.replaceChildren();
    try {
      const { words } = await suggest(prefix, SUGGESTED, asking.signal);
      list.replaceChildren(...words.map(({ word, documents }) => make("option", { value: before + word, label: `${word} (${counted(documents)})` })));
    } catch {
      // Nothing is lost without suggestions.
    }
  }, 120);
  on(input, "input", suggested);
}

/** A small picture of an image that was chosen, kept in this tab so that reload shows it again. */
async function remember(vector, blob) {
  try {
    const image = await createImageBitmap(blob, { resizeWidth: 96, resizeQuality: "medium" });
    const canvas = make("canvas", { width: image.width, height: image.height });
    canvas.getContext("2d").drawImage(image, 0, 0);
    sessionStorage.setItem(PREVIEW + vector, canvas.toDataURL("image/webp", 0.7));
  } catch {
    // No preview then.
  }
}

function chip(name, source, remove) {
  return make(
    "li",
    { className: "part" },
    source ? make("img", { src: source, alt: "", width: 40, height: 40 }) : null,
    make("span", {}, name),
    make("button", { type: "button", "aria-label": `Leave out ${name}`, on: { click: remove } }, "×"),
  );
}

const imageIn = (transfer) => [...(transfer?.files ?? [])].find((file) => file.type.startsWith("image/"));

/** Wire the box. `change(part of the state)` asks anew; `fail(error)` says what went wrong. */
export function box({ current, change, fail, working }) {
  const form = find("#ask");
  const input = find("#q");
  const chooser = find("#file");
  suggestions(input, find("#suggestions"));

  async function take(blob, crop = null) {
    const done = working("Looking at the image…");
    try {
      const vector = packed(await embed(blob, crop));
      if (!crop) await remember(vector, blob);
      change({ vector: [...current().vector, vector], open: "" });
    } catch (error) {
      fail(error);
    } finally {
      done();
    }
  }

  on(form, "submit", (event) => {
    event.preventDefault();
    change({ q: input.value.trim() });
  });
  on("#choose", "click", () => chooser.click());
  on(chooser, "change", () => {
    if (chooser.files[0]) take(chooser.files[0]);
    chooser.value = "";
  });
  on(document, "paste", (event) => {
    const file = imageIn(event.clipboardData);
    if (file) {
      event.preventDefault();
      take(file);
    }
  });
  const over = (isOver) => document.body.classList.toggle("dropping", isOver);
  on(document, "dragover", (event) => {
    if (![...event.dataTransfer.types].includes("Files")) return;
    event.preventDefault();
    over(true);
  });
  on(document, "dragleave", (event) => event.relatedTarget ?? over(false));
  on(document, "drop", (event) => {
    over(false);
    const file = imageIn(event.dataTransfer);
    if (!event.dataTransfer.files.length) return;
    event.preventDefault();
    if (file) take(file);
    else fail(new Error("This is not an image; drop a PNG, JPEG, WebP or GIF."));
  });

  let text = input.value;
  function show(state) {
    if (state.q !== text) input.value = text = state.q; // what is being typed stays otherwise
    const without = (name, place) => () => change({ [name]: state[name].filter((_, at) => at !== place) });
    find("#parts").replaceChildren(
      ...state.like.map((id, place) => chip(id, thumbnailOf(id, 96), without("like", place))),
      ...state.vector.map((vector, place) =>
        chip("your image", sessionStorage.getItem(PREVIEW + vector), without("vector", place)),
      ),
    );
  }
  return { show, take, focus: () => input.select() };
}
