"""`vitrail probe BACKBONE PHOTOS`: whether a backbone is good for some pictures, before any training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tyro.conf import Positional

from vitrail.cli.output import percent, write_columns, write_json, write_line
from vitrail.cli.parsing import parse
from vitrail.cli.terminal import Terminal


@dataclass(frozen=True)
class Probe:
    """How much a backbone's features know of the pictures: few-shot classification in closed form and, where none of
    --knn, --linear and --sgd is named, nearest neighbours. Features are computed once and kept for the next time."""

    backbone: Positional[str]
    """A bundle, a run, a weights file of any layout, a name of `vitrail models --weights`, or hf-hub:owner/name."""
    photos: Positional[str]
    """Labelled pictures, as for `vitrail fit`; they are split in the same way."""
    shots: tuple[int, ...] = ()
    """Pictures a class to learn from; by default those of 1 5 10 25 that at least half of the classes have."""
    seeds: int = 3
    """How many times they are drawn; mean and spread are said."""
    knn: bool = False
    """Also vote among the nearest neighbours of all training pictures."""
    linear: bool = False
    """Also fit a logistic regression on all training pictures."""
    sgd: Literal["dino", "mae", "moco-v3"] | None = None
    """Also train a linear classifier on all training pictures by momentum SGD, with the settings of one of these."""
    choose_penalty: bool = False
    """Choose the few-shot penalty on each few-shot set, in place of the usual 1024."""
    features: Literal[
        "pre_logits", "class_token", "patch_mean", "class_token_and_patch_mean", "last_4_class_tokens"
    ] = "pre_logits"
    """What the head sees, the class token, the mean over the patches, both, or the last 4 blocks' class tokens."""
    layer: int | None = None
    """Take them from this block of a Vision Transformer, counted from 0, or from -1 backwards: networks that were
    trained without labels often know most in the middle."""
    untrained: bool = False
    """Few-shot also with the same network as it is before any training."""
    max_pictures: int = 20_000
    """Of each split; more are sampled."""
    strict: bool = False
    """Refuse pictures that are broken, contradictory or in two splits, instead of leaving them out."""
    out: str | None = None
    """A folder for probe.json and probe.csv."""
    json: bool = False
    """Everything as JSON."""


def run(arguments: list[str]) -> int:
    command = parse(Probe, arguments, prog="vitrail probe")
    from vitrail.tasks.probe import ProbeConfig, probe
    from vitrail.training.events import Events

    config = ProbeConfig(
        model=command.backbone,
        data=command.photos,
        shots=command.shots,
        seeds=command.seeds,
        knn=command.knn or not (command.linear or command.sgd),
        linear=command.linear,
        sgd=command.sgd,
        choose_penalty=command.choose_penalty,
        features=command.features,
        layer=command.layer,
        untrained=command.untrained,
        max_pictures=command.max_pictures,
        strict=command.strict,
    )
    with Events(Terminal()) as events:
        result = probe(config, events)
    if command.out is not None:
        result.write(command.out)
    if command.json:
        write_json(result.to_json())
        return 0
    for line in result.describe():
        write_line(line)
    write_line()
    rows = [["probe", "accuracy", "spread", ""]]
    for name, note, accuracy, spread in result.table():
        rows.append([name, percent(accuracy), "" if spread is None else f"{100 * spread:.1f}", note])
    write_columns(rows, right=(1, 2))
    return 0
