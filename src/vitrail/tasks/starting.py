"""The weights a run starts from: named by the user, or good public ones chosen for the data and the machine."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from vitrail.data.facts import DataFacts
from vitrail.errors import WeightsError
from vitrail.recipes import StartingWeights
from vitrail.storage import sha256_of, write_json
from vitrail.training.events import Events
from vitrail.weights.bundle import Bundle
from vitrail.weights.catalog import default_weights
from vitrail.weights.checkpoint import weights_in
from vitrail.weights.load import load, pinned

STARTING_FILE = "starting_weights.json"
NONE = "none"  # what a user says to train from nothing


@dataclass(frozen=True)
class Start:
    """Loaded weights, and the name under which they are found again."""

    spec: str
    bundle: Bundle

    def for_recipe(self) -> StartingWeights:
        return StartingWeights(self.spec, self.bundle.config.model, self.bundle.config.preprocessing)

    def record(self) -> dict[str, Any]:
        """Where the weights came from: for the run's folder, the bundle and the model card."""
        config, certificate = self.bundle.config, self.bundle.certificate
        origin = config.provenance.get("origin")
        path = Path(self.spec)
        known = {
            **(origin if isinstance(origin, dict) else {}),
            "weights": path.name if path.exists() else self.spec,
            "sha256": sha256_of(_weights_file(path)) if path.exists() else None,
            "name": config.name,
            "licence": config.licence,
            "family": None if certificate is None else certificate.family,
            # Of a bundle that was trained here: on what, and from which weights in its turn.
            "data": config.provenance.get("data"),
            "before": config.provenance.get("starting_weights"),
            "certificate": None if certificate is None else certificate.to_json(),
        }
        return {name: value for name, value in known.items() if value is not None}


def find_start(
    weights: str | None, facts: DataFacts, minutes: float | None, events: Events, *, choose: bool
) -> Start | None:
    """The weights to start from; None: from nothing.

    Args:
        weights: as `weights.load.load`, or "none"; None: chosen for the data and the machine where `choose` is true.
    Raises:
        WeightsError: they cannot be read, or the chosen ones cannot be downloaded; says what to do instead.
    """
    if weights == NONE:
        return None
    if weights is not None:
        return load_start(weights, events)
    if not choose:
        return None
    entry = default_weights(
        facts.num_train, facts.picture_size, os.cpu_count() or 1, torch.cuda.is_available(), minutes
    )
    if entry is None:
        return None
    events.note(f"starting weights: {entry.name}, chosen for these pictures and this machine")
    try:
        return load_start(entry.name, events)
    except WeightsError as error:
        raise WeightsError(
            f"{error}\nThese public weights were chosen because pictures like yours are learnt far better from them"
            " than from nothing. Where they cannot be had: name others with --weights FILE, or train from nothing with"
            " --weights none."
        ) from error


def load_start(weights: str, events: Events) -> Start:
    bundle = load(weights, progress=events.download)
    if bundle.certificate is not None:
        events.note(f"starting weights: {bundle.certificate.summary()}; {STARTING_FILE} says all")
    elif bundle.config.licence is not None:
        events.note(f"starting weights: licence {bundle.config.licence}")
    spec = pinned(weights, bundle)
    return Start(spec, replace(bundle, path=Path(spec) if Path(spec).exists() else bundle.path))


def _weights_file(path: Path) -> Path:
    """The file whose checksum tells weights apart: the one at `path`, or of the folder, bundle or run there."""
    if path.is_file():
        return path
    return weights_in(path / "bundle" if (path / "bundle").is_dir() else path)


def write_start(folder: Path, start: Start | None, surgery: list[str]) -> None:
    """starting_weights.json: what the run began with and what was done to it, so that its end can say so."""
    if start is not None:
        write_json(folder / STARTING_FILE, {**start.record(), "surgery": surgery})


def read_start(folder: Path) -> dict[str, Any] | None:
    """What `write_start` wrote; None for a run from nothing."""
    try:
        record = json.loads((folder / STARTING_FILE).read_bytes())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None
