// The page says everything without this script. With it, a head that is pointed at, tapped or reached by the arrow keys
// is shown large over the picture and marked in the plot of distances, rollout can be followed block by block, and each
// figure can be saved as a PNG.
"use strict";
(() => {
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  // Light on a picture

  const ramp = document.querySelector("[data-ramp]").dataset.ramp.split(" ").map(Number);

  /** The share, 0 to 1, whose colour has this sum of red, green and blue. */
  function shareOf(sum) {
    const next = Math.max(1, ramp.findIndex((end) => sum <= end));
    return (next - 1 + (sum - ramp[next - 1]) / (ramp[next] - ramp[next - 1])) / (ramp.length - 1);
  }

  /** Tile `place` of `count` in a row, a clear line between them, as darkness: black where it has nothing. */
  function darkness(sheet, place, count) {
    const width = (sheet.naturalWidth + 1) / count - 1, height = sheet.naturalHeight;
    const tile = make("canvas", { width, height });
    const context = tile.getContext("2d", { willReadFrequently: true });
    context.drawImage(sheet, place * (width + 1), 0, width, height, 0, 0, width, height);
    const pixels = context.getImageData(0, 0, width, height), bytes = pixels.data;
    for (let at = 0; at < bytes.length; at += 4) {
      const share = shareOf(bytes[at] + bytes[at + 1] + bytes[at + 2]);
      bytes.set([0, 0, 0, Math.round(204 * (1 - share))], at); // as much as the pictures of rollout have
    }
    context.putImageData(pixels, 0, 0);
    return tile;
  }

  /** Lay a tile over the picture of a stage; without one, show the picture as it is. */
  function light(stage, sheet, place, count) {
    const picture = stage.querySelector("img");
    if (!picture) return; // it could not be shown
    let canvas = stage.querySelector("canvas");
    if (!canvas) {
      const scale = Math.ceil(448 / Math.max(picture.naturalWidth, picture.naturalHeight));
      canvas = make("canvas", { width: scale * picture.naturalWidth, height: scale * picture.naturalHeight });
      stage.append(canvas);
    }
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, canvas.width, canvas.height);
    if (sheet) context.drawImage(darkness(sheet, place, count), 0, 0, canvas.width, canvas.height);
  }

  // Rollout, block by block

  for (const figure of all(".rolled")) {
    const stage = figure.querySelector(".stage"), sheet = figure.querySelector("img[hidden]");
    const caption = figure.querySelector("figcaption span"), plain = caption.textContent;
    const depth = Number(figure.dataset.depth);
    const slider = make("input", { type: "range", min: 0, max: depth, value: 0, "aria-label": "Blocks of rollout" });
    const follow = () => {
      const blocks = Number(slider.value);
      light(stage, blocks ? sheet : null, blocks - 1, depth);
      caption.textContent = blocks ? `through ${blocks} of ${depth} blocks` : plain;
      slider.setAttribute("aria-valuetext", caption.textContent);
    };
    slider.addEventListener("input", follow);
    figure.append(slider);
  }

  // Heads: one is chosen at a time, in every picture and in both models where they have it

  const live = make("p", { class: "unseen", "aria-live": "polite" });
  document.body.append(live);

  /** What the script needs of one model: its blocks of tiles, one a picture, and its plot of distances. */
  function modelOf(id) {
    const within = (selector) => all(`[data-model="${id}"] ${selector}`);
    const blocks = within("details:has(.heads)").map((details) => ({
      details,
      view: details.querySelector(".view"),
      table: details.querySelector(".heads"),
      rows: all("tr[data-entropy]", details).map((row) => ({
        sheet: row.querySelector(".sheet"),
        entropy: row.dataset.entropy.split(" "),
        tiles: [],
      })),
    }));
    const dots = within("[data-far]");
    const far = [];
    for (const dot of dots) (far[dot.dataset.layer] ??= [])[dot.dataset.head] = dot;
    return { blocks, dots, far, plot: dots[0]?.ownerSVGElement, ring: null, views: [] };
  }

  const models = [0, 1].map(modelOf).filter((model) => model.blocks.length);

  const named = (layer, head) => `layer ${layer + 1}, head ${head + 1}`;

  function says(model, block, layer, head) {
    const far = Math.round(Number(model.far[layer][head].dataset.far));
    return `${named(layer, head)}: mean distance ${far} px, entropy ${block.rows[layer].entropy[head]} nats`;
  }

  /** Show a head wherever it is; `model` and `block` are those that were pointed at, and are read aloud. */
  function choose(layer, head, model, block = model.blocks[0]) {
    live.textContent = says(model, block, layer, head);
    for (const one of models) if (one.far[layer]?.[head]) show(one, layer, head);
  }

  function show(model, layer, head) {
    const count = model.far[layer].length;
    model.blocks.forEach((block, index) => {
      const sheet = block.rows[layer].sheet.querySelector("img");
      light(block.view.querySelector(".stage"), sheet, head, count);
      block.view.querySelector("figcaption span").textContent = says(model, block, layer, head);
      if (model.views[index]) light(model.views[index], sheet, head, count);
      for (const row of block.rows) for (const tile of row.tiles) mark(tile, false);
      if (block.rows[layer].tiles.length) mark(block.rows[layer].tiles[head], true);
    });
    for (const dot of model.dots) mark(dot, false);
    const dot = model.far[layer][head], circle = dot.querySelector("circle");
    mark(dot, true);
    model.ring.setAttribute("cx", circle.getAttribute("cx"));
    model.ring.setAttribute("cy", circle.getAttribute("cy"));
    model.plot.append(model.ring);
    model.said.textContent = `${named(layer, head)}: mean distance ${Math.round(Number(dot.dataset.far))} px`;
  }

  /** A choice of many is one stop of the Tab key: the chosen one. */
  function mark(element, isChosen) {
    element.setAttribute("aria-pressed", isChosen);
    element.setAttribute("tabindex", isChosen ? 0 : -1);
  }

  /** Where the Tab key comes in as long as nothing is chosen. */
  const enter = (element) => element.setAttribute("tabindex", 0);

  const hint = (what) => make("span", { class: "hint" }, `Point at a ${what} or tap it, or move with the arrow keys.`);

  const within = (value, most) => Math.min(Math.max(value, 0), most);

  /** Buttons over the tiles of one picture, made when it is opened. */
  function makeTiles(model, block) {
    if (block.rows[0].tiles.length) return;
    block.rows.forEach((row, layer) => {
      const count = row.entropy.length, width = row.sheet.querySelector("img").naturalWidth;
      row.tiles = row.entropy.map((_, head) => {
        const tile = make("button", { type: "button", class: "tile", "aria-label": named(layer, head) });
        mark(tile, false);
        tile.style.left = `${(100 * head * ((width + 1) / count)) / width}%`;
        tile.style.width = `${(100 * ((width + 1) / count - 1)) / width}%`;
        for (const kind of ["pointerenter", "focus", "click"])
          tile.addEventListener(kind, () => choose(layer, head, model, block));
        tile.addEventListener("keydown", (event) => {
          const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0],
            Home: [0, -count], End: [0, count] }[event.key];
          if (!step) return;
          event.preventDefault();
          const [down, right] = step;
          block.rows[within(layer + down, block.rows.length - 1)].tiles[within(head + right, count - 1)].focus();
        });
        return tile;
      });
      row.sheet.append(...row.tiles);
    });
    const chosen = model.dots.find((dot) => dot.getAttribute("aria-pressed") === "true");
    const { layer, head } = chosen?.dataset ?? { layer: 0, head: 0 };
    if (chosen) mark(block.rows[layer].tiles[head], true);
    else enter(block.rows[layer].tiles[head]);
  }

  /** The dots of a plot: left and right go from layer to layer, up and down from near to far. */
  function makeDots(model) {
    const svg = model.plot;
    svg.setAttribute("role", "group"); // no longer one picture: its dots can be reached
    model.ring = document.createElementNS(svg.namespaceURI, "circle");
    model.ring.setAttribute("class", "ring");
    model.ring.setAttribute("r", 7);
    model.dots.forEach((dot) => {
      const layer = Number(dot.dataset.layer), head = Number(dot.dataset.head);
      dot.setAttribute("role", "button");
      dot.setAttribute("aria-label", dot.querySelector("title").textContent);
      mark(dot, false);
      dot.addEventListener("focus", () => choose(layer, head, model));
      dot.addEventListener("keydown", (event) => {
        const ranked = [...model.far[layer]].sort((one, other) => one.dataset.far - other.dataset.far);
        const place = ranked.indexOf(dot), last = model.far.length - 1;
        const next = {
          ArrowUp: () => ranked[within(place + 1, ranked.length - 1)],
          ArrowDown: () => ranked[within(place - 1, ranked.length - 1)],
          ArrowLeft: () => model.far[within(layer - 1, last)][head],
          ArrowRight: () => model.far[within(layer + 1, last)][head],
          Home: () => model.far[0][head],
          End: () => model.far[last][head],
        }[event.key];
        if (!next) return;
        event.preventDefault();
        next().focus();
      });
    });
    enter(model.dots[0]);
    // Dots are small: the nearest one within reach of a finger is meant.
    for (const kind of ["pointermove", "pointerdown"])
      svg.addEventListener(kind, (event) => {
        const distance = (dot) => {
          const box = dot.querySelector("circle").getBoundingClientRect();
          return Math.hypot(box.x + box.width / 2 - event.clientX, box.y + box.height / 2 - event.clientY);
        };
        const nearest = model.dots.reduce((one, other) => (distance(other) < distance(one) ? other : one));
        const isNews = nearest.getAttribute("aria-pressed") === "false" || !live.textContent;
        if (isNews && distance(nearest) < 24)
          choose(Number(nearest.dataset.layer), Number(nearest.dataset.head), model);
      });
  }

  /** Beside the plot, the first pictures once more, so that the head of a dot is seen where it is pointed at. */
  function makeViews(model) {
    const stages = model.blocks.slice(0, 4).map((block) => block.view.querySelector(".stage").cloneNode(true));
    model.views = stages;
    model.said = make("span");
    const caption = make("figcaption", {}, model.said, hint("dot"));
    model.plot.closest(".by-plot").append(make("figure", { class: "views" }, make("div", {}, ...stages), caption));
  }

  for (const model of models) {
    makeViews(model);
    makeDots(model);
    for (const block of model.blocks) {
      block.view.querySelector("figcaption").append(hint("tile"));
      if (block.details.open) makeTiles(model, block);
      block.details.addEventListener("toggle", () => makeTiles(model, block));
    }
  }

  // Each figure as a PNG, drawn from what is shown

  const DRAWN = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "stroke-linecap",
    "stroke-linejoin", "opacity", "paint-order", "r", "font-family", "font-size", "font-weight", "text-anchor"];

  /** Pictures and words of an element, each with its place on the screen. */
  function* shownIn(element) {
    if (!element.checkVisibility() || element.matches(".take, .tile, .hint, input")) return;
    if (element.matches("img, canvas, svg")) yield { element, box: element.getBoundingClientRect() };
    else
      for (const node of element.childNodes) {
        if (node.nodeType === Node.TEXT_NODE) yield* wordsOf(node);
        else if (node.nodeType === Node.ELEMENT_NODE) yield* shownIn(node);
      }
  }

  function* wordsOf(node) {
    const range = document.createRange(), style = getComputedStyle(node.parentElement);
    const place = (start, end) => {
      range.setStart(node, start);
      range.setEnd(node, end);
      return range.getClientRects();
    };
    for (const { 0: word, index } of node.data.matchAll(/\S+/g)) {
      const boxes = place(index, index + word.length);
      if (boxes.length === 1) yield { text: word, style, box: boxes[0] };
      else
        for (let at = 0; at < word.length; at++) {
          const [box] = place(index + at, index + at + 1); // a word that is broken over lines
          if (box) yield { text: word[at], style, box };
        }
    }
  }

  /** An SVG as a picture of its own: the styles that the page gives it are written into it. */
  async function rasterized(svg, width, height) {
    const copy = svg.cloneNode(true);
    const copies = [copy, ...all("*", copy)];
    [svg, ...all("*", svg)].forEach((element, index) => {
      const style = getComputedStyle(element);
      for (const name of DRAWN) copies[index].style.setProperty(name, style.getPropertyValue(name));
    });
    copy.setAttribute("width", width);
    copy.setAttribute("height", height);
    const image = new Image();
    image.src = `data:image/svg+xml,${encodeURIComponent(new XMLSerializer().serializeToString(copy))}`;
    await image.decode();
    return image;
  }

  async function painted(figure) {
    const parts = [...shownIn(figure)].filter(({ box }) => box.width && box.height);
    const margin = 16;
    const left = Math.min(...parts.map(({ box }) => box.left)) - margin;
    const top = Math.min(...parts.map(({ box }) => box.top)) - margin;
    const width = Math.max(...parts.map(({ box }) => box.right)) - left + margin;
    const height = Math.max(...parts.map(({ box }) => box.bottom)) - top + margin;
    const scale = Math.min(2, 8192 / Math.max(width, height)); // browsers refuse larger canvases, each its own way
    const canvas = make("canvas", { width: Math.round(scale * width), height: Math.round(scale * height) });
    const context = canvas.getContext("2d");
    context.scale(scale, scale);
    context.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--card");
    context.fillRect(0, 0, width, height);
    for (const { element, text, style, box } of parts) {
      const x = box.left - left, y = box.top - top;
      if (text) {
        context.font = `${style.fontStyle} ${style.fontWeight} ${style.fontSize} ${style.fontFamily}`;
        context.fillStyle = style.color;
        const { fontBoundingBoxAscent: above, fontBoundingBoxDescent: below } = context.measureText(text);
        context.fillText(text, x, y + (box.height + above - below) / 2);
        continue;
      }
      const isPlot = element.matches("svg");
      context.imageSmoothingEnabled = getComputedStyle(element).imageRendering !== "pixelated";
      const image = isPlot ? await rasterized(element, scale * box.width, scale * box.height) : element;
      context.drawImage(image, x, y, box.width, box.height);
    }
    return canvas;
  }

  for (const button of all("[data-save]")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const canvas = await painted(button.closest(".exhibit"));
      // At once: `toBlob` waits for a page with nothing to do, and in some browsers for ever.
      const encoded = atob(canvas.toDataURL("image/png").split(",")[1]);
      const bytes = Uint8Array.from(encoded, (character) => character.charCodeAt(0));
      const address = URL.createObjectURL(new Blob([bytes], { type: "image/png" }));
      make("a", { download: button.dataset.save, href: address }).click();
      setTimeout(() => URL.revokeObjectURL(address), 60_000);
    });
  }
})();
