// One picture in full: its answer, how sure it is, where the model looked, and the training pictures alike.

import { showAttention } from "./attention.js";
import { bar, byId, make, name, percent, probability, range } from "./markup.js";

const FOLLOWS = { asking: "Asking the model …", waiting: "Waiting for its turn …" };

/** Show an entry of the tab: {file, url, isBlank, state, note, error, canRetry, prediction}. */
export function showAnswer(entry, model) {
  byId("answer").hidden = false;
  byId("answer-title").replaceChildren(name(entry.file.name));
  showPicture(entry);
  const { prediction } = entry;
  byId("waiting").hidden = !(entry.state in FOLLOWS);
  byId("waiting").textContent = entry.note || FOLLOWS[entry.state] || "";
  byId("trouble").hidden = entry.state !== "failed";
  byId("trouble-text").textContent = entry.error ?? "";
  byId("again").hidden = !entry.canRetry;
  byId("says").hidden = entry.state !== "answered";
  if (prediction) {
    showClasses(prediction, model);
    showSureness(prediction, model);
  }
  showAttention(prediction?.attention);
  showNearest(prediction?.nearest);
}

/** "pants, 87 %", for lists and screen readers. */
export function inWords({ state, error, prediction }) {
  if (state === "answered") return `${prediction.label}, ${probability(prediction.probability)}`;
  return state === "failed" ? error : "no answer yet";
}

function showPicture(entry) {
  const picture = byId("answer-picture");
  picture.parentElement.hidden = Boolean(entry.isBlank); // why there is none, the answer says
  if (picture.getAttribute("src") !== entry.url) picture.src = entry.url;
}

function showClasses({ label, probability: share, top }, model) {
  byId("says-label").replaceChildren(name(label));
  byId("says-probability").textContent = probability(share);
  byId("classes").replaceChildren(...top.map((one) => classRow(one)));
  const others = model.labels.length - top.length;
  byId("classes-note").textContent =
    others > 0
      ? `${others.toLocaleString("en")} other ${others === 1 ? "class is" : "classes are"} less probable.`
      : "";
}

function classRow({ label, probability: share }) {
  const fill = make("i");
  fill.style.width = `${100 * share}%`;
  const meter = make("span", "track", fill);
  meter.setAttribute("aria-hidden", "true");
  const heading = make("th", "", name(label), meter);
  heading.scope = "row";
  return make("tr", "", heading, make("td", "", probability(share)));
}

function showSureness({ probability: share, record }, model) {
  byId("sure-text").textContent = record ? trackRecord(share, record) : calibration(share, model.temperature);
  byId("sure-bars").replaceChildren(
    ...(record ? [bar("The model says", probability(share), share, { className: "model" }), measured(record)] : []),
  );
}

function measured({ right, pictures, interval }) {
  return bar(`Right of ${pictures} like this`, percent(right / pictures), right / pictures, { interval });
}

function trackRecord(share, { right, pictures, interval, sureness }) {
  return (
    `Of the ${pictures} test pictures that it was about as sure of (${range(sureness)}), ${right} were right` +
    ` (${range(interval)}, with 95 % confidence).`
  );
}

function calibration(share, temperature) {
  return temperature === 1
    ? `The model says ${probability(share)}. That was not calibrated: it may be right less often, or more often, than` +
        " it says."
    : `The model says ${probability(share)}. Its probabilities were calibrated on validation pictures: of pictures` +
        " like those, about as many as it says are right.";
}

function showNearest(nearest) {
  byId("nearest").hidden = !nearest?.length;
  byId("nearest-list").replaceChildren(...(nearest ?? []).map(neighbour));
}

function neighbour({ name: file, label, similarity, thumbnail }) {
  const picture = new Image();
  picture.src = `data:image/jpeg;base64,${thumbnail}`;
  picture.alt = "";
  const path = make("p", "key", name(file));
  path.title = file;
  return make(
    "li",
    "shot",
    make("div", "frame", picture),
    make("div", "", make("p", "", make("b", "", name(label))), make("p", "", `${similarity.toFixed(2)} alike`), path),
  );
}
