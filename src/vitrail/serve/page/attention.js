// Where the model looked: its picture, dark where a map is low, with sliders over the depth and the heads.

import { byId } from "./markup.js";

const DARKEST = 0.2; // share of its light that the picture keeps where the map is zero
const LEAST_SIDE = 448; // pixels of the canvas, so that the maps stay smooth over small pictures

const canvas = byId("attention-canvas");
const [depth, head, plain] = ["depth", "head", "plain"].map(byId);

let shown = null; // {attention, rollout, maps, light} of the picture on the canvas
let isDue = false;

for (const control of [depth, head, plain]) control.addEventListener("input", drawSoon);

/** Show an answer's attention, or nothing where it has none. */
export async function showAttention(attention) {
  byId("attention").hidden = !attention;
  shown = null;
  if (!attention) return;
  const next = { attention, rollout: bytesOf(attention.rollout), maps: bytesOf(attention.maps), light: null };
  shown = next;
  setUpControls(attention);
  const picture = new Image();
  picture.src = `data:image/jpeg;base64,${attention.picture}`;
  await picture.decode();
  // Another answer may have come in the meantime.
  if (shown !== next) return;
  next.light = lightOf(picture);
  draw();
}

function setUpControls({ depth: blocks, heads, source }) {
  // What was chosen stays chosen from picture to picture, where it can.
  const isFirst = !depth.dataset.blocks;
  const wasLast = isFirst || depth.value === depth.dataset.blocks;
  depth.max = blocks;
  depth.dataset.blocks = blocks;
  if (wasLast) depth.value = blocks;
  head.max = heads;
  if (isFirst) head.value = 0;
  const whose = source === "class token" ? "of the class token, from which the answer is read," : "of all patches";
  byId("attention-is").textContent =
    `The picture as the model saw it, bright where the attention ${whose} went: either of all heads together,` +
    " followed through the blocks from the first one (“rollout”), or of one head in one block.";
  tell();
}

function tell() {
  const [block, which, blocks] = [depth.value, Number(head.value), depth.max];
  const ofDepth = which === 0 ? `through ${block} of ${blocks} blocks` : `block ${block} of ${blocks}`;
  const ofHead = which === 0 ? "all, followed through the blocks (rollout)" : `head ${which} of ${head.max}`;
  byId("depth-said").textContent = ofDepth;
  byId("head-said").textContent = ofHead;
  depth.setAttribute("aria-valuetext", ofDepth);
  head.setAttribute("aria-valuetext", ofHead);
  canvas.setAttribute(
    "aria-label",
    plain.checked
      ? "The picture as the model saw it"
      : `Where the model looked: ${which === 0 ? `all heads, ${ofDepth}` : `${ofHead}, ${ofDepth}`}`,
  );
}

/** The picture's pixels, enlarged by a whole number onto the canvas. */
function lightOf(picture) {
  const times = Math.max(1, Math.ceil(LEAST_SIDE / Math.max(picture.naturalWidth, picture.naturalHeight)));
  canvas.width = times * picture.naturalWidth;
  canvas.height = times * picture.naturalHeight;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

// A slider that is dragged speaks more often than a screen can show.
function drawSoon() {
  tell();
  if (isDue) return;
  isDue = true;
  requestAnimationFrame(() => {
    isDue = false;
    draw();
  });
}

function draw() {
  if (!shown?.light) return;
  const { attention, light } = shown;
  const context = canvas.getContext("2d");
  if (plain.checked) {
    context.putImageData(light, 0, 0);
    return;
  }
  const lit = new ImageData(new Uint8ClampedArray(light.data), light.width, light.height);
  shade(lit, chosenMap(shown), attention.grid);
  context.putImageData(lit, 0, 0);
}

function chosenMap({ attention: { grid, heads }, rollout, maps }) {
  const size = grid[0] * grid[1];
  const block = Number(depth.value) - 1;
  const which = Number(head.value);
  const start = which === 0 ? block * size : (block * heads + which - 1) * size;
  return (which === 0 ? rollout : maps).subarray(start, start + size);
}

/** Darken the pixels by a map of `grid`, resized bilinearly. */
function shade(image, map, [rows, columns]) {
  const across = places(image.width, columns);
  places(image.height, rows).forEach(([top, bottom, down], y) => {
    const above = map.subarray(top * columns, (top + 1) * columns);
    const below = map.subarray(bottom * columns, (bottom + 1) * columns);
    across.forEach(([left, right, along], x) => {
      const upper = above[left] + (above[right] - above[left]) * along;
      const lower = below[left] + (below[right] - below[left]) * along;
      const share = DARKEST + ((1 - DARKEST) * (upper + (lower - upper) * down)) / 255;
      const at = 4 * (y * image.width + x);
      for (let channel = at; channel < at + 3; channel += 1) image.data[channel] *= share;
    });
  });
}

/** For each of `size` pixels the two cells of `count` it lies between, and how far; centres on centres. */
function places(size, count) {
  return Array.from({ length: size }, (_, pixel) => {
    const place = Math.min(Math.max(((pixel + 0.5) * count) / size - 0.5, 0), count - 1);
    const cell = Math.floor(place);
    return [cell, Math.min(cell + 1, count - 1), place - cell];
  });
}

function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}
