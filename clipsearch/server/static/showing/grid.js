// Cards of images, in a grid that knows their sizes before they load.

import { thumbnailOf } from "../asking/api.js";
import { bestCaption, make, marked, rounded } from "./dom.js";
import { write } from "../asking/state.js";

function facts(hit) {
  const known = [];
  if (hit.bm25) known.push(`words ${rounded(hit.bm25, 2)}`);
  if (hit.cosine != null) known.push(`image ${rounded(hit.cosine)}`);
  return known.join(" · ");
}

/** A card. `more` may hold a badge before the caption. */
export function card(hit, state, more = null) {
  const best = bestCaption(hit.highlights?.length ? hit.highlights : [[]]);
  const caption = hit.captions[best] ?? hit.id.split("/").at(-1);
  const picture = make("img", {
    src: thumbnailOf(hit.id),
    alt: caption,
    loading: "lazy",
    decoding: "async",
    width: 320,
    height: 320,
    on: {
      error: (event) => event.target.replaceWith(make("span", { className: "gone" }, "The image is not here")),
    },
  });
  const link = make("a", { className: "frame", href: write({ ...state, open: hit.id }), data: { id: hit.id } }, picture);
  const words = make("p", { className: "caption", dir: "auto" }, marked(caption, hit.highlights?.[best]));
  const numbers = facts(hit);
  return make(
    "li",
    { className: "card", data: { id: hit.id } },
    more,
    link,
    words,
    hit.more ? make("p", { className: "facts" }, `and ${hit.more} more alike`) : null,
    numbers ? make("p", { className: "facts" }, numbers) : null,
  );
}

export const placeholders = (count) =>
  Array.from({ length: count }, () =>
    make("li", { className: "card empty", "aria-hidden": "true" }, make("span", { className: "frame" })),
  );

/** Move the focus among cards by the arrow keys, as the eye sees them; true where it moved. */
export function moveFocus(list, key) {
  const links = [...list.querySelectorAll("a.frame")];
  const at = links.indexOf(document.activeElement);
  if (at < 0) return false;
  const left = links.map((link) => link.getBoundingClientRect());
  const columns = Math.max(1, left.filter((box) => Math.abs(box.top - left[0].top) < 2).length);
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, Home: -at, End: links.length - 1 - at };
  const step = steps[key];
  if (step === undefined) return false;
  const target = links[Math.min(links.length - 1, Math.max(0, at + step))];
  target.focus();
  target.scrollIntoView({ block: "nearest" });
  return true;
}
