"""A run without labels: it ends in features to start from, and one that learns nothing ends with the reason."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitrail.data.config import Augmentation, DataConfig, LoaderConfig, Preprocessing
from vitrail.errors import DataError, RunError
from vitrail.models.config import ViTConfig
from vitrail.objectives.config import MaskedPatchesConfig, NextPatchConfig, ObjectiveConfig, SupervisedConfig
from vitrail.tasks import pretraining
from vitrail.tasks.fit import resume
from vitrail.tasks.pretraining import PretrainingResult
from vitrail.tasks.train import train
from vitrail.training.config import OptimizerConfig, ScheduleConfig, TrainConfig
from vitrail.training.events import Events, SilentSink, read_metrics
from vitrail.weights.load import load
from vitrail.weights.surgery import adapt

MODEL = ViTConfig(
    image_size=(16, 16),
    patch_size=4,
    num_classes=0,
    width=16,
    depth=2,
    num_heads=2,
    mlp_size=32,
    pooling="gap",
    class_token=False,
)


def config(photos: Path, objective: ObjectiveConfig, steps: int = 20, rate: float = 1e-2) -> TrainConfig:
    return TrainConfig(
        recipe="test",
        data=DataConfig(str(photos)),
        model=MODEL,
        preprocessing=Preprocessing(image_size=(16, 16)),
        augmentation=Augmentation(crop="evaluation", flip_rate=0.0),
        loader=LoaderConfig(num_workers=0),
        objective=objective,
        optimizer=OptimizerConfig(learning_rate=rate),
        schedule=ScheduleConfig(steps=steps, warmup_epochs=1, decay="constant"),
        batch_size=16,
        precision="float32",
        num_threads=1,
        evaluate_every_epochs=5,
        checkpoint_every_steps=10,
    )


def write_pictures(folder: Path, colors: list[tuple[int, int, int]], noise: int) -> Path:
    """Two classes of 32 pictures of four plain quarters with noise: a patch is told by its neighbours."""
    random = np.random.default_rng(0)
    for label in ("left", "right"):
        (folder / label).mkdir(parents=True)
        for number in range(32):
            quarters = np.array(colors)[random.integers(0, len(colors), (2, 2))]
            pixels = quarters.repeat(8, 0).repeat(8, 1) + random.integers(0, noise, (16, 16, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / label / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    colors = [(20, 20, 20), (180, 20, 20), (20, 180, 180)]
    return write_pictures(tmp_path_factory.mktemp("colours") / "photos", colors, 40)


@pytest.fixture(autouse=True)
def _short_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitrail.tasks.begin.TRIAL_SECONDS", 0.05)


class Notes(SilentSink):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def run(config: TrainConfig, out: Path) -> tuple[PretrainingResult, Notes]:
    notes = Notes()
    with Events(notes) as events:
        result = train(config, str(out), events)
    assert isinstance(result, PretrainingResult)
    return result, notes


@pytest.mark.parametrize("objective", [MaskedPatchesConfig(), NextPatchConfig(), MaskedPatchesConfig(target="pixels")])
def test_a_run_without_labels_ends_in_features_that_a_classifier_starts_from(
    objective: ObjectiveConfig, photos: Path, tmp_path: Path
) -> None:
    result, notes = run(config(photos, objective, steps=60), tmp_path / "run")
    health = result.best_validation
    assert health["loss"] < health["guessing_loss"]
    assert any("guessing" in note and "feature rank" in note and "untrained" in note for note in notes.notes)
    assert not (tmp_path / "run" / "report.html").exists()
    last = read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]
    assert last["validation_guessing_loss"] == health["guessing_loss"]
    assert result.describe()[-1].endswith(f"vitrail fit {photos} --weights {tmp_path / 'run'}")
    no_better = {**result.best_validation, "loss": result.best_validation["guessing_loss"]}
    assert replace(result, best_validation=no_better).describe()[0].startswith("Nothing learned yet")
    assert json.loads(json.dumps(result.to_json()))["objective"] == objective.kind

    bundle = load(str(tmp_path / "run"))
    assert bundle.config.model.num_classes == 0
    model, _ = adapt(bundle, replace(bundle.config.model, num_classes=2), ("left", "right"))
    assert model(torch.zeros(1, 3, 16, 16)).shape == (1, 2)


def test_pictures_without_class_folders_will_do(photos: Path, tmp_path: Path) -> None:
    """The same pictures as with class folders, learned from alike; only what needs labels is not said."""
    flat = tmp_path / "album"
    flat.mkdir()
    for number, picture in enumerate(sorted(photos.rglob("*.png"))):
        (flat / f"{number}.png").write_bytes(picture.read_bytes())
    result, notes = run(config(flat, MaskedPatchesConfig(), steps=60), tmp_path / "run")
    assert result.best_validation["loss"] < result.best_validation["guessing_loss"]
    assert "feature_rank" in result.best_validation
    assert not any("neighbour" in name for name in result.best_validation)
    assert any("pictures in 1 class; one class: loss and feature rank" in note for note in notes.notes)
    assert not any("nearest neighbours name" in note for note in notes.notes)
    assert result.describe()[-1] == f"Next:   vitrail fit LABELLED_PHOTOS --weights {tmp_path / 'run'}"
    with Events() as events:
        again = resume(str(tmp_path / "run"), events)
    assert dict(again.best_validation) == dict(result.best_validation)  # type: ignore[union-attr]
    supervised = replace(config(flat, MaskedPatchesConfig()), objective=SupervisedConfig())
    with pytest.raises(DataError, match="holds 64 pictures but no class folders"), Events() as events:
        train(supervised, str(tmp_path / "labelled"), events)


def test_an_ended_run_is_written_again_unchanged(photos: Path, tmp_path: Path) -> None:
    place = tmp_path / "run"
    result, _ = run(config(photos, MaskedPatchesConfig()), place)
    weights = (place / "bundle" / "model.safetensors").read_bytes()
    with Events() as events:
        again = resume(str(place), events)
    assert isinstance(again, PretrainingResult)
    assert dict(again.best_validation) == dict(result.best_validation)
    assert (place / "bundle" / "model.safetensors").read_bytes() == weights


def test_the_evaluation_draws_the_same_patches_every_time(photos: Path, tmp_path: Path) -> None:
    first, _ = run(config(photos, MaskedPatchesConfig(), steps=3), tmp_path / "one")
    second, _ = run(config(photos, MaskedPatchesConfig(), steps=3), tmp_path / "two")
    assert dict(first.best_validation) == dict(second.best_validation)


def test_targets_that_are_all_the_same_are_refused_before_training(tmp_path: Path) -> None:
    """The pictures differ, their 3-bit mean colours do not."""
    photos = write_pictures(tmp_path / "photos", [(98, 98, 98), (106, 102, 98)], 20)
    with pytest.raises(RunError, match="same target, so there is nothing to learn"):
        run(config(photos, MaskedPatchesConfig()), tmp_path / "run")


def test_a_run_that_learns_nothing_is_stopped_halfway(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretraining, "MIN_JUDGED", 10)
    with pytest.raises(RunError, match=r"after step 1\d of 20: the run learns nothing, .* guessing") as stopped:
        run(config(photos, MaskedPatchesConfig(), rate=1e-9), tmp_path / "run")
    assert "--optimizer.learning-rate" in str(stopped.value)


def test_features_that_are_all_the_same_stop_a_run(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A final norm without any scale: the head's bias still learns, the features are gone."""
    monkeypatch.setattr(pretraining, "MIN_JUDGED", 10)
    build = pretraining.PretrainingRun.validate

    def collapse(self: pretraining.PretrainingRun, model: torch.nn.Module) -> dict[str, float]:
        torch.nn.init.zeros_(model.norm.weight)
        self.guessing_loss = 100.0
        return build(self, model)

    monkeypatch.setattr(pretraining.PretrainingRun, "validate", collapse)
    with pytest.raises(RunError, match=r"features of all pictures are nearly the same \(effective rank 0 of 16\)"):
        run(config(photos, MaskedPatchesConfig()), tmp_path / "run")
