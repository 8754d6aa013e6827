// What the model is: where it comes from, and how often it was right. What a bundle does not say is left out.

import { bar, byId, make, name, percent, pictures, range } from "./markup.js";

const MOST_LETTERS = 120; // of names of classes below the title

/** Fill the card, the headings and the command for programs from GET /v1/model. */
export function showModel(model) {
  const count = model.labels.length;
  document.title = `${model.name || "Model"} \u2013 Vitrail`;
  byId("title").replaceChildren(name(model.name || "A model without a name"));
  byId("knows").replaceChildren(...knows(model.labels));
  showMeasured(model);
  const rows = facts(model, count).flatMap(([term, said]) => [make("dt", "", term), make("dd", "", text(said))]);
  byId("facts").replaceChildren(...rows);
  byId("model").hidden = false;
}

function knows(labels) {
  let letters = 0;
  const shown = labels.filter((label, place) => (letters += label.length) <= MOST_LETTERS || place === 0);
  const names = shown.flatMap((label, place) => [place === 0 ? "" : ", ", name(label)]);
  const rest = labels.length > shown.length ? ` and ${(labels.length - shown.length).toLocaleString("en")} more` : "";
  return [`Tells ${labels.length.toLocaleString("en")} classes apart: `, ...names, rest, "."];
}

function showMeasured({ metrics, provenance }) {
  const { test_accuracy: accuracy, test_accuracy_interval_95: interval, floor, floor_test_accuracy: least } = metrics;
  byId("measured").hidden = byId("measured-note").hidden = accuracy === undefined;
  if (accuracy === undefined) return;
  const said = `${percent(accuracy, 1)}${interval ? ` (${range(interval, 1)})` : ""}`;
  byId("measured").replaceChildren(
    bar("Right on test pictures", said, accuracy, { interval, className: "model" }),
    ...(least === undefined ? [] : [bar(`The floor, ${floor ?? "without a network"}`, percent(least, 1), least)]),
  );
  const tested = provenance.pictures?.test;
  byId("measured-note").textContent =
    `Measured${tested ? ` on ${pictures(tested)}` : ""} that it was not trained on` +
    `${interval ? "; in brackets the range of 95 % confidence" : ""}.` +
    (least === undefined ? "" : " The floor is what a simple method reaches on the same pictures.");
}

function facts(model, count) {
  const { metrics, provenance } = model;
  const shares = Object.entries(provenance.pictures ?? {});
  const versions = Object.entries(provenance.versions ?? {});
  const rows = [
    ["Kind", `${model.architecture.family}, ${model.preprocessing.image_size.join(" x ")} pixels`],
    ["Parameters", model.num_parameters.toLocaleString("en")],
    ["Classes", count.toLocaleString("en")],
    ["Right by class", shareOrNothing(metrics.test_balanced_accuracy, "of each class, on average")],
    ["On validation", shareOrNothing(metrics.validation_accuracy, "of pictures that chose the weights")],
    ["Data", provenance.data],
    ["Pictures", shares.map(([split, number]) => `${Number(number).toLocaleString("en")} ${split}`).join(", ")],
    ["Data fingerprint", provenance.data_fingerprint ?? provenance.fingerprint],
    ["Recipe", provenance.recipe],
    ["Started from", provenance.starting_weights],
    ["Made with", versions.map(([what, version]) => `${what} ${version}`).join(", ")],
    ["Weights", `version ${model.version}`],
    ["Calibration", model.temperature === 1 ? "none" : `temperature ${model.temperature.toFixed(3)}`],
    ["Licence", model.licence],
    ["Answers by", model.engine],
  ];
  return rows.filter(([, said]) => said !== undefined && said !== null && said !== "");
}

function shareOrNothing(share, what) {
  return typeof share === "number" ? `${percent(share, 1)} ${what}` : null;
}

// Provenance holds what its writer put there, which need not be text.
function text(value) {
  return typeof value === "string" ? value : JSON.stringify(value);
}
