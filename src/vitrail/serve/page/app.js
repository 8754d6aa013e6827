// The page: takes pictures that are picked, dropped or pasted, asks the server, and keeps what was asked in this tab.

import { inWords, showAnswer } from "./answer.js";
import { showModel } from "./card.js";
import { byId, make, name } from "./markup.js";
import { describedModel, predictions } from "./server.js";
import { askMany, hideTable, withoutName } from "./table.js";

const CLASSES = 5; // shown of one picture
const NEAREST = 6;
const MOST_PAST = 50;
const THUMBNAIL = 88; // pixels a side
const FORM_BYTES = 2048; // that a form with one file takes besides the file

const past = []; // entries of the tab, the newest first: {file, url, thumbnail, state, note, error, prediction}
let current = null; // the entry that is shown
let turn = Promise.resolve(); // pictures are asked about one after another

let model = null; // what GET /v1/model says, once the server has loaded it

const loaded = describedModel(showState).then(
  (described) => {
    model = described;
    showState("");
    showModel(model);
  },
  (error) => showState(error.message),
);

takePicked();
takeDropped();
takePasted();
byId("again").addEventListener("click", () => ask(current));
byId("forget").addEventListener("click", forget);
showCommand();

function showState(text) {
  byId("state").hidden = text === "";
  byId("state").textContent = text;
}

function announce(text) {
  byId("announcer").textContent = text;
}

function takePicked() {
  const picker = byId("picker");
  picker.addEventListener("change", () => {
    const files = [...picker.files];
    picker.value = ""; // so that the same file may be picked again
    take(files);
  });
}

function takeDropped() {
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  const light = (isOver) => document.body.classList.toggle("over", isOver);
  document.addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = "copy";
    light(true);
  });
  document.addEventListener("dragleave", (event) => event.relatedTarget === null && light(false));
  document.addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    light(false);
    droppedFiles(event.dataTransfer).then(take);
  });
}

/** The files that were dropped, and the pictures in folders that were. */
async function droppedFiles({ items, files }) {
  // What was dropped can be read only while the event is handled: all of it is asked for before the first wait.
  const entries = [...items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  const [loose, folders] = [[...files], entries.filter((entry) => entry.isDirectory)];
  if (!folders.length) return loose;
  const names = new Set(folders.map((folder) => folder.name));
  const inside = await Promise.all(folders.map(picturesIn));
  return [...loose.filter((file) => file.type || !names.has(file.name)), ...inside.flat()];
}

async function picturesIn(folder) {
  const reader = folder.createReader();
  const found = [];
  for (;;) {
    // A hundred at a time, until there are none.
    const entries = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!entries.length) return found;
    const read = entries.map((entry) => (entry.isDirectory ? picturesIn(entry) : fileOf(entry)));
    found.push(...(await Promise.all(read)).flat());
  }
}

/** In a list if it is a picture; folders hold other files too, which nobody meant. */
async function fileOf(entry) {
  const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
  return byId("picker").accept.split(",").includes(file.type) ? [file] : [];
}

function takePasted() {
  document.addEventListener("paste", (event) => {
    const files = [...event.clipboardData.files];
    if (files.length) event.preventDefault();
    take(files);
  });
}

/** A few pictures are shown in full, more of them in a table. */
async function take(files) {
  if (!files.length) return;
  showRefused([]);
  await loaded;
  if (model === null) return; // the page says why, and goes on saying it
  const { limits } = model;
  const refused = new Map(files.map((file) => [file, refusal(file, limits)]).filter(([, reason]) => reason));
  if (files.length > Math.max(1, limits.max_attention)) {
    current = null;
    byId("answer").hidden = true;
    showPast();
    askMany(files, refused, model, open, announce);
    reveal("many");
    return;
  }
  showRefused([...refused.values()]);
  // The first one that was named becomes the first in the list.
  const entries = files.filter((file) => !refused.has(file)).reverse().map(remember).reverse();
  for (const entry of entries) ask(entry);
  if (!entries.length) return;
  show(entries[0]);
  reveal("answer");
}

/** Why a file is not sent; null where it is. */
function refusal(file, { formats, max_body_bytes: most }) {
  const types = formats.map((format) => `image/${format.toLowerCase()}`);
  // A file without an ending has no type: the server looks into it.
  if (file.type && !types.includes(file.type)) {
    return `${file.name}: not sent, because it is no picture of a kind that the model reads (${formats.join(", ")}).`;
  }
  if (file.size === 0) return `${file.name}: not sent, because it is empty.`;
  if (file.size + FORM_BYTES > most) {
    return (
      `${file.name}: not sent, because it has ${(file.size / 1e6).toFixed(1)} MB, and the server takes` +
      ` ${(most / 1e6).toFixed(1)} MB at most.`
    );
  }
  return null;
}

function showRefused(reasons) {
  byId("refused").hidden = !reasons.length;
  byId("refused").replaceChildren(...reasons.map((reason) => make("li", "", reason)));
}

function remember(file) {
  const entry = { file, url: URL.createObjectURL(file), thumbnail: make("canvas"), state: "waiting" };
  drawThumbnail(entry);
  past.unshift(entry);
  for (const dropped of past.splice(MOST_PAST)) URL.revokeObjectURL(dropped.url);
  return entry;
}

/** A small copy: fifty pictures of a camera would otherwise be kept in memory in full size. */
async function drawThumbnail(entry) {
  const { thumbnail } = entry;
  thumbnail.width = thumbnail.height = THUMBNAIL;
  const picture = await createImageBitmap(entry.file).catch(() => null);
  if (picture === null) {
    update(entry, { isBlank: true });
    return;
  }
  const scale = THUMBNAIL / Math.min(picture.width, picture.height);
  const [width, height] = [picture.width * scale, picture.height * scale];
  const context = thumbnail.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, (THUMBNAIL - width) / 2, (THUMBNAIL - height) / 2, width, height);
  picture.close();
}

/** A file of the table in full. */
function open(file) {
  let entry = past.find((one) => one.file === file);
  if (!entry) {
    entry = remember(file);
    ask(entry);
  }
  show(entry);
  goTo("answer-title");
}

/** On a small screen an answer may come up below what is seen. */
function reveal(id) {
  if (byId(id).getBoundingClientRect().top > innerHeight / 2) byId(id).scrollIntoView({ block: "start" });
}

function goTo(id) {
  byId(id).focus({ preventScroll: true });
  byId(id).scrollIntoView({ block: "start" });
}

function show(entry) {
  current = entry;
  showPast();
  showAnswer(entry, model);
}

function ask(entry) {
  update(entry, { state: "waiting", error: null, note: "", canRetry: false });
  turn = turn.then(() => askNow(entry));
}

async function askNow(entry) {
  update(entry, { state: "asking" });
  const waiting = (seconds) => update(entry, { note: `The server is busy; asking again in ${seconds} s.` });
  try {
    const { has_attention: hasAttention, has_nearest: hasNearest, limits } = model;
    const options = { top_k: CLASSES };
    if (hasAttention && limits.max_attention > 0) options.attention = true;
    if (hasNearest) options.nearest = NEAREST;
    const [prediction] = await predictions([entry.file], options, { waiting });
    if (prediction.error === null) update(entry, { state: "answered", prediction });
    else update(entry, { state: "failed", error: inSentence(prediction) });
  } catch (error) {
    update(entry, { state: "failed", error: error.message, canRetry: true });
  }
  announce(`${entry.file.name}: ${inWords(entry)}`);
}

function inSentence({ error, file }) {
  return `This picture cannot be read: ${withoutName(error, file)}.`;
}

function update(entry, changes) {
  Object.assign(entry, changes);
  showPast();
  if (entry === current) showAnswer(entry, model);
}

function showPast() {
  byId("past").hidden = !past.length;
  const focused = past.find((entry) => entry.button === document.activeElement);
  byId("past-list").replaceChildren(...past.map((entry) => make("li", "", buttonOf(entry))));
  focused?.button.focus();
}

function buttonOf(entry) {
  if (!entry.button) {
    entry.thumbnail.setAttribute("aria-hidden", "true");
    entry.said = make("span", "tag");
    const file = make("span", "unseen", name(entry.file.name), ": ");
    entry.button = make("button", "thumb", entry.thumbnail, file, entry.said);
    entry.button.type = "button";
    entry.button.addEventListener("click", () => show(entry));
  }
  entry.said.textContent = { answered: entry.prediction?.label, failed: "no answer" }[entry.state] ?? "…";
  entry.button.title = `${entry.file.name}: ${inWords(entry)}`;
  entry.button.setAttribute("aria-current", String(entry === current));
  return entry.button;
}

/** Let go of all pictures of the tab. */
function forget() {
  for (const entry of past.splice(0)) URL.revokeObjectURL(entry.url);
  current = null;
  byId("answer").hidden = true;
  byId("answer-picture").removeAttribute("src");
  hideTable();
  showPast();
  announce("Forgotten.");
  byId("picker").focus();
}

function showCommand() {
  byId("curl").textContent = `curl -F pictures=@holiday.jpg '${location.origin}/v1/predict?top_k=3'`;
  byId("copy").addEventListener("click", async () => {
    // Browsers give the clipboard to safe addresses only: without it the command is marked, ready to be copied.
    const isCopied = await navigator.clipboard?.writeText(byId("curl").textContent).then(() => true, () => false);
    if (!isCopied) getSelection().selectAllChildren(byId("curl"));
    byId("copy").textContent = isCopied ? "Copied" : "Marked: press Ctrl-C";
    setTimeout(() => (byId("copy").textContent = "Copy"), 3000);
  });
}
