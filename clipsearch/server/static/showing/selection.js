// A box over an image, drawn with a pointer or set with the arrow keys.

import { find, on } from "./dom.js";

const STEP = 0.02;
const SMALLEST = 0.02;

const within = (value, low, high) => Math.min(high, Math.max(low, value));

export function selection(stage, image, said) {
  const frame = find("#part-box");
  const button = find("#by-part");
  let box = null; // shares of the image: left, top, width, height
  let from = null;

  function show() {
    frame.hidden = !box;
    button.disabled = !box;
    said.textContent = "";
    if (!box) return;
    const [left, top, width, height] = box.map((share) => `${100 * share}%`);
    Object.assign(frame.style, { left, top, width, height });
    const [x, y, w, h] = pixels();
    said.textContent = `Part: ${w} × ${h} pixels at ${x}, ${y}.`;
  }

  function pixels() {
    const [width, height] = [image.naturalWidth, image.naturalHeight];
    const [x, y] = [Math.floor(box[0] * width), Math.floor(box[1] * height)];
    return [x, y, Math.max(1, Math.min(width - x, Math.round(box[2] * width))), Math.max(1, Math.min(height - y, Math.round(box[3] * height)))];
  }

  function at(event) {
    const { left, top, width, height } = stage.getBoundingClientRect();
    return [within((event.clientX - left) / width, 0, 1), within((event.clientY - top) / height, 0, 1)];
  }

  on(stage, "pointerdown", (event) => {
    if (event.button !== 0 || event.target === frame) return;
    event.preventDefault();
    from = at(event);
    stage.setPointerCapture(event.pointerId);
  });
  on(stage, "pointermove", (event) => {
    if (!from) return;
    const to = at(event);
    const sides = [0, 1].map((axis) => [Math.min(from[axis], to[axis]), Math.abs(from[axis] - to[axis])]);
    box = [sides[0][0], sides[1][0], sides[0][1], sides[1][1]];
    show();
  });
  const end = () => {
    if (from && box && (box[2] < SMALLEST || box[3] < SMALLEST)) box = null;
    from = null;
    show();
  };
  on(stage, "pointerup", end);
  on(stage, "pointercancel", end);

  on("#draw", "click", () => {
    box ??= [0.25, 0.25, 0.5, 0.5];
    show();
    frame.focus();
  });
  on(frame, "keydown", (event) => {
    const move = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] }[event.key];
    if (event.key === "Enter") button.click();
    if (event.key === "Delete") box = null;
    if (move && event.shiftKey) {
      box[2] = within(box[2] + move[0], SMALLEST, 1 - box[0]);
      box[3] = within(box[3] + move[1], SMALLEST, 1 - box[1]);
    } else if (move) {
      box[0] = within(box[0] + move[0], 0, 1 - box[2]);
      box[1] = within(box[1] + move[1], 0, 1 - box[3]);
    } else if (event.key !== "Delete") return;
    event.preventDefault();
    event.stopPropagation();
    show();
    if (!box) find("#draw").focus();
  });

  return {
    pixels,
    clear() {
      box = null;
      from = null;
      show();
    },
  };
}
