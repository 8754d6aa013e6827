// Elements and figures of the page. Names of files and classes come from others: they are text here, never HTML.

const NBSP = "\u00a0";

/** A new element with a class, and with children that are elements or text. */
export function make(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

/** A user's name (class, file) that cannot turn the direction of the text around it. */
export function name(text) {
  return make("bdi", "", text);
}

export function byId(id) {
  return document.getElementById(id);
}

/** "83 %", with a space that does not break. */
export function percent(share, digits = 0) {
  return `${(100 * share).toFixed(digits)}${NBSP}%`;
}

/** As `percent`, and never "100 %" for what is not certain, nor "0 %" for what is possible. */
export function probability(share) {
  if (share > 0 && share < 0.005) return `<${NBSP}1${NBSP}%`;
  return share >= 0.995 && share < 1 ? `>${NBSP}99${NBSP}%` : percent(share);
}

/** "84 to 90 %". */
export function range([low, high], digits = 0) {
  const [from, to] = [low, high].map((share) => (100 * share).toFixed(digits));
  return from === to ? `${to}${NBSP}%` : `${from} to ${to}${NBSP}%`;
}

/** "1 picture", "1,284 pictures". */
export function pictures(number) {
  return `${number.toLocaleString("en")} ${number === 1 ? "picture" : "pictures"}`;
}

/** A bar of `share` with a name and a figure above it, and the limits of an interval where there is one. */
export function bar(said, figure, share, { interval = null, className = "" } = {}) {
  const fill = make("i");
  fill.style.width = `${100 * share}%`;
  const track = make("dd", "", fill);
  track.setAttribute("aria-hidden", "true");
  if (interval) {
    const whiskers = make("u");
    whiskers.style.left = `${100 * interval[0]}%`;
    whiskers.style.right = `${100 * (1 - interval[1])}%`;
    track.append(whiskers);
  }
  return make("div", className, make("dt", "", make("span", "", said), make("b", "", figure)), track);
}
