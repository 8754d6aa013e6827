"""A finished run as what its report shows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from vitrail.configuration import to_dict
from vitrail.data.sources.base import Source
from vitrail.data.split import SPLIT_NAMES
from vitrail.errors import ImageError
from vitrail.evaluators.evaluation import evaluate
from vitrail.models.kinds import ModelConfig
from vitrail.models.resnet_config import ResNetConfig
from vitrail.models.timm_config import TimmConfig
from vitrail.report.data import DataFinding, Floor, HeadDistances, Mistake, ReportData, Thumbnail
from vitrail.report.tiles import lit
from vitrail.tasks.floor import FloorModel
from vitrail.tasks.looking import look_at, measure_distance
from vitrail.tasks.result import RunResult, compare_with
from vitrail.training.events import read_metrics
from vitrail.training.run_folder import ENVIRONMENT_FILE, METRICS_FILE
from vitrail.weights.bundle import Bundle, load_bundle

MAX_MISTAKES = 24
MAX_GROUPS = 6  # of pictures shown with a finding
MAX_IN_GROUP = 4
# Which groups of samples in the data check's record a finding speaks of.
_GROUPS = {"exact": "exact_groups", "near": "near_groups", "conflict": "conflicts", "leak": "leaks"}
_STEMS = {"patch": "", "conv": "convolutional stem, ", "resnet": "ResNet stem, "}


def report_data(result: RunResult) -> ReportData:
    bundle = load_bundle(result.folder / "bundle", verify=False)
    prepared, source, config = result.prepared, result.prepared.source, result.config
    model = config.model
    return ReportData(
        title=source.name,
        classes=source.classes,
        test=result.evaluation,
        floors=[_floor(floor, result) for floor in result.floor.models],
        split_counts={
            SPLIT_NAMES[split]: prepared.class_counts(split).tolist()
            for split in range(3)
            if len(prepared.indices(split))
        },
        findings=[_finding(finding, prepared.check, source) for finding in prepared.check["findings"]],
        history=[_history_row(row) for row in read_metrics(result.folder / METRICS_FILE)],
        best_step=result.best_step,
        kept=result.kept(),
        tried_rates=_tried_rates(result),
        mistakes=_mistakes(result, bundle),
        distances=_distances(result, bundle),
        recipe=config.recipe,
        recipe_reason=result.recipe_reason,
        advice=result.advice(),
        config=to_dict(config),
        command=result.command,
        run_folder=str(result.folder),
        environment=_environment(result),
        durations=result.durations,
        model=f"{_what(model)}, {model.image_size[1]}x{model.image_size[0]} pixels",
        num_parameters=result.num_parameters,
    )


def _tried_rates(result: RunResult) -> list[tuple[float, float | None, bool]]:
    sweep = result.sweep
    return [] if sweep is None else [(one.learning_rate, one.accuracy, one == sweep.chosen) for one in sweep.rates]


def _what(model: ModelConfig) -> str:
    if isinstance(model, TimmConfig):
        return model.family
    if isinstance(model, ResNetConfig):
        return f"{model.family} of {model.num_layers} layers, {model.width_factor:g} times as wide as usual"
    return f"{model.family}, width {model.width}, {model.depth} blocks, {_STEMS[model.stem]}patch {model.patch_size}"


def _environment(result: RunResult) -> dict[str, str]:
    """environment.json as names and short texts."""
    values: dict[str, Any] = json.loads((result.folder / ENVIRONMENT_FILE).read_bytes())
    packages = values.pop("packages", {})
    plain = {name: ", ".join(map(str, value)) if isinstance(value, list) else value for name, value in values.items()}
    return {name.replace("_", " "): str(value) for name, value in {**plain, **packages}.items() if value}


def _history_row(row: dict[str, Any]) -> dict[str, float]:
    names = {"train_loss": "loss"}
    return {names.get(name, name): value for name, value in row.items() if value is not None}


def _floor(floor: FloorModel, result: RunResult) -> Floor:
    labels = result.prepared.source.labels[floor.test_indices]
    classes = result.prepared.source.classes
    evaluation = evaluate(labels, classes, predicted=floor.test_predictions, split="test")
    return Floor(floor.name, evaluation, compare_with(floor, result.test))


def _finding(finding: dict[str, Any], check: dict[str, Any], source: Source) -> DataFinding:
    code = finding["code"]
    if code in _GROUPS:
        groups: Sequence[Sequence[int]] = check[_GROUPS[code]]
        causes: dict[int, str] = {}
    elif code == "broken":
        causes = dict(check["broken"])
        groups = [[index] for index in causes]
    else:
        groups, causes = [], {}
    shown = [
        [_thumbnail(index, causes.get(index), source) for index in group[:MAX_IN_GROUP]]
        for group in groups[:MAX_GROUPS]
    ]
    return DataFinding(finding["severity"], finding["message"], shown, len(groups) if groups else None)


def _thumbnail(index: int, cause: str | None, source: Source) -> Thumbnail:
    label = source.classes[int(source.labels[index])]
    return Thumbnail(source.key(index), _pixels(source, index), cause or label)


def _pixels(source: Source, index: int) -> np.ndarray | None:
    try:
        return source.open(index).pixels(at_least=(160, 160))
    except ImageError:
        return None


def _mistakes(result: RunResult, bundle: Bundle) -> list[Mistake]:
    source, answers = result.prepared.source, result.test
    probabilities = answers.probabilities
    predicted = probabilities.argmax(axis=1)
    confidence = probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != answers.labels)
    chosen = wrong[np.argsort(-confidence[wrong], kind="stable")][:MAX_MISTAKES]
    looks = look_at(bundle, source, answers.indices[chosen])
    return [
        Mistake(
            key=source.key(index),
            true=source.classes[int(answers.labels[row])],
            predicted=source.classes[int(predicted[row])],
            probability=float(confidence[row]),
            picture=_pixels(source, index),
            rollout=lit(looks[index].pixels, looks[index].rollout) if index in looks else None,
        )
        for row, index in zip(chosen.tolist(), answers.indices[chosen].tolist(), strict=True)
    ]


def _distances(result: RunResult, bundle: Bundle) -> HeadDistances | None:
    found = measure_distance(bundle, result.prepared.source, result.test.indices)
    if found is None:
        return None
    return HeadDistances(found.pixels, found.even, found.definition, found.num_pictures)
