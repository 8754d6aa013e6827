// Many files at once: a few a request, a row each, and all of it as CSV.

import { byId, make, name, pictures, probability } from "./markup.js";
import { predictions } from "./server.js";

const PER_REQUEST = 8;
const CLASSES = 3; // a row, as `vitrail predict` gives
const FORM_BYTES = 1024; // that a file's headers in a form take at most

const body = byId("rows");
let run = null; // {rows, controller}: what the table shows
let order = { by: "", isRising: true };

/** Ask about files; `refused` maps those that are not to be sent to the reason. `open` shows a file in full. */
export async function askMany(files, refused, model, open, announce) {
  run?.controller.abort();
  const rows = files.map((file) => ({ file, error: refused.get(file) ?? null, prediction: null, element: null }));
  const own = { rows, controller: new AbortController(), open, isBusy: true };
  run = own;
  begin(own);
  try {
    for (const part of requests(rows.filter((row) => row.error === null), model.limits)) {
      await askPart(own, part);
      if (run === own) showProgress(own);
    }
  } finally {
    own.isBusy = false;
    if (run === own) end(own, announce);
  }
}

export function hideTable() {
  run?.controller.abort();
  run = null;
  byId("many").hidden = true;
}

byId("cancel").addEventListener("click", () => run?.controller.abort());
byId("download").addEventListener("click", () => download(csvOf(run.rows)));
for (const button of document.querySelectorAll("button.sort")) {
  button.addEventListener("click", () => sortBy(button.dataset.by));
}

/** The rows in parts that a request may hold. */
function* requests(rows, { max_body_bytes: most, max_pictures: count }) {
  let [part, bytes] = [[], FORM_BYTES];
  for (const row of rows) {
    const size = row.file.size + FORM_BYTES;
    if (part.length === Math.min(PER_REQUEST, count) || (part.length && bytes + size > most)) {
      yield part;
      [part, bytes] = [[], FORM_BYTES];
    }
    part.push(row);
    bytes += size;
  }
  if (part.length) yield part;
}

async function askPart(own, part) {
  const { signal } = own.controller;
  const waiting = (seconds) => {
    byId("progress-text").textContent = `The server is busy; asking again in ${seconds} s.`;
  };
  try {
    signal.throwIfAborted();
    const found = await predictions(part.map((row) => row.file), { top_k: CLASSES }, { signal, waiting });
    part.forEach((row, place) => settle(own, row, named(found[place], row.file.name)));
  } catch (error) {
    const said = error.name === "AbortError" ? "Cancelled before it was asked about." : error.message;
    for (const row of part) settle(own, row, { error: said });
  }
}

/** An error under the file's own name: in a form a name is changed where it has quotes in it. */
function named({ file, error, ...prediction }, own) {
  return { ...prediction, error: error === null ? null : `${own}: ${withoutName(error, file)}` };
}

function settle(own, row, prediction) {
  row.error = prediction.error;
  row.prediction = prediction.error === null ? prediction : null;
  if (run === own) fill(row, own.open);
}

function begin(own) {
  byId("many").hidden = false;
  byId("running").hidden = false;
  byId("download").hidden = true;
  byId("many-title").textContent = pictures(own.rows.length);
  byId("many-summary").textContent = "";
  for (const row of own.rows) {
    row.element = make("tr");
    fill(row, own.open);
  }
  order = { by: "", isRising: true };
  arrange();
  showProgress(own);
}

function showProgress({ rows }) {
  const done = rows.filter(isSettled).length;
  byId("progress").max = rows.length;
  byId("progress").value = done;
  byId("progress-text").textContent = `${done.toLocaleString("en")} of ${pictures(rows.length)}`;
}

function isSettled(row) {
  return row.prediction !== null || row.error !== null;
}

function end({ rows, controller }, announce) {
  const answered = rows.filter((row) => !isBare(row)).length;
  const without = rows.length - answered;
  const said =
    `${controller.signal.aborted ? "Cancelled: " : ""}${pictures(answered)} answered` +
    (without ? `, ${without.toLocaleString("en")} without an answer.` : ".");
  byId("running").hidden = true;
  byId("download").hidden = false;
  byId("many-summary").textContent = said;
  announce(said);
  arrange();
}

function fill(row, open) {
  const { file, prediction, error } = row;
  const heading = make("th", "", prediction ? opener(file, open) : name(file.name));
  heading.scope = "row";
  if (prediction === null) {
    const said = error === null ? "waiting" : withoutName(error, file.name);
    const cell = make("td", error === null ? "none" : "bad", said);
    cell.colSpan = 3;
    row.element.replaceChildren(heading, cell);
    return;
  }
  const [, ...others] = prediction.top;
  const more = others.flatMap((one, place) => [
    place ? ", " : "",
    name(one.label),
    ` ${probability(one.probability)}`,
  ]);
  row.element.replaceChildren(
    heading,
    make("td", "", name(prediction.label)),
    make("td", "number", probability(prediction.probability)),
    make("td", "none", ...more),
  );
}

function opener(file, open) {
  const button = make("button", "link", name(file.name));
  button.type = "button";
  button.title = "Show it in full";
  button.addEventListener("click", () => open(file));
  return button;
}

function sortBy(by) {
  order = { by, isRising: order.by === by ? !order.isRising : true };
  arrange();
}

/** Put the rows into their order: as they came, or by a column; those without an answer come last. */
function arrange() {
  const rows = [...run.rows];
  if (order.by) rows.sort((one, other) => (order.isRising ? 1 : -1) * compare(one, other));
  if (order.by && order.by !== "file") rows.sort((one, other) => isBare(one) - isBare(other));
  body.replaceChildren(...rows.map((row) => row.element));
  for (const button of document.querySelectorAll("button.sort")) {
    const isOrder = button.dataset.by === order.by;
    button.closest("th").setAttribute("aria-sort", isOrder ? (order.isRising ? "ascending" : "descending") : "none");
  }
}

function isBare(row) {
  return row.prediction === null;
}

function compare(one, other) {
  if (order.by === "file") return one.file.name.localeCompare(other.file.name, "en", { numeric: true });
  if (isBare(one) || isBare(other)) return 0;
  const [first, second] = [one.prediction[order.by], other.prediction[order.by]];
  return typeof first === "string" ? first.localeCompare(second, "en") : first - second;
}

/** The text that `vitrail predict --csv` writes. */
export function csvOf(rows) {
  const classes = Math.max(1, ...rows.map((row) => row.prediction?.top.length ?? 0));
  const more = Array.from({ length: classes - 1 }, (_, place) => [`label_${place + 2}`, `probability_${place + 2}`]);
  const lines = rows.map(({ file, prediction, error }) => {
    const answers = (prediction?.top ?? []).flatMap((one) => [one.label, sixDigits(one.probability)]);
    return [file.name, ...answers, ...Array(2 * classes - answers.length).fill(""), error ?? ""];
  });
  return [["file", "label", "probability", ...more.flat(), "error"], ...lines].map(line).join("");
}

function line(fields) {
  return `${fields.map((field) => (/[",\r\n]/.test(field) ? `"${field.replaceAll('"', '""')}"` : field)).join(",")}\n`;
}

/** As Python rounds: of two that are equally near the even one. Only odd 128ths lie between two millionths. */
function sixDigits(share) {
  const text = share.toFixed(6);
  const isBetween = Number.isInteger(128 * share) && !Number.isInteger(64 * share);
  return isBetween && Number(text.at(-1)) % 2 ? (Math.floor(1e6 * share) / 1e6).toFixed(6) : text;
}

function download(text) {
  const link = make("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv;charset=utf-8" }));
  link.download = "predictions.csv";
  link.click();
  // The browser still reads it for a moment after the click.
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/** The server says of which file it speaks; where the name stands beside it, once is enough. */
export function withoutName(error, file) {
  return error.startsWith(`${file}: `) ? error.slice(file.length + 2) : error;
}
