"""A model of timm on the whole way: trained, averaged, kept as a bundle; and where it is refused."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import vitrail
from vitrail.cli.main import main
from vitrail.configuration import from_dict, to_dict
from vitrail.data.config import DataConfig, Preprocessing
from vitrail.errors import ConfigError, WeightsError
from vitrail.models.timm_config import TimmConfig
from vitrail.models.timm_model import TimmModel
from vitrail.objectives.config import MaskedPatchesConfig
from vitrail.tasks.study import StudyConfig, run_study
from vitrail.training.averaging import Averaged
from vitrail.training.config import ScheduleConfig, TrainConfig
from vitrail.training.events import Events
from vitrail.weights.surgery import adapt

pytest.importorskip("timm")
SMALL = TimmConfig("ghostnet_050", (16, 16), in_channels=1, num_classes=10)


def config_of(model: TimmConfig = SMALL) -> TrainConfig:
    half = (0.5,)
    return TrainConfig(
        recipe="by hand",
        data=DataConfig(source="digits"),
        model=model,
        preprocessing=Preprocessing(image_size=(16, 16), mean=half, std=half),
        schedule=ScheduleConfig(epochs=1.0, steps=3, warmup_epochs=0.0),
        batch_size=16,
        precision="float32",
        num_threads=1,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("timm")
    (folder / "config.json").write_text(json.dumps(to_dict(config_of())))
    assert main(["train", "--config", str(folder / "config.json"), "--out", str(folder / "run")]) == 0
    return folder / "run"


def test_a_trained_baseline_is_a_bundle_with_the_statistics_of_its_norms(run: Path) -> None:
    bundle = vitrail.load(run)
    assert isinstance(bundle.model, TimmModel)
    assert bundle.config.model == SMALL
    buffers = dict(bundle.model.named_buffers())
    counts = [int(buffers[name]) for name in buffers if name.endswith("num_batches_tracked")]
    assert set(counts) == {3}  # every update moved them once, and the trial before it never did
    assert "model of timm, ghostnet_050" in (run / "bundle" / "README.md").read_text()
    assert "model of timm, ghostnet_050" in (run / "report.html").read_text()


def test_the_average_has_the_statistics_of_its_norms_too() -> None:
    model = TimmModel(SMALL)
    averaged = Averaged(model, 0.5)
    model.train()(torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(0)))
    averaged.update(20)
    for (name, mean), start in zip(averaged.model.named_buffers(), TimmModel(SMALL).buffers(), strict=True):
        now = dict(model.named_buffers())[name]
        expected = (start + now) / 2 if start.is_floating_point() else now
        torch.testing.assert_close(mean, expected)


def test_what_a_baseline_cannot_do_is_refused_in_words(run: Path, tmp_path: Path) -> None:
    bundle = vitrail.load(run)
    with pytest.raises(WeightsError, match="models of timm are baselines"):
        adapt(bundle, replace(SMALL, num_classes=2), ("a", "b"))
    with pytest.raises(ConfigError, match="needs a Vision Transformer, and model is a model of timm"):
        replace(config_of(), model=replace(SMALL, num_classes=0), objective=MaskedPatchesConfig())
    with pytest.raises(ConfigError, match="checkpointing: a model of timm"):
        replace(config_of(), checkpointing=True)
    assert main(["convert", str(run), str(tmp_path / "out"), "--to", "timm"]) == 1


def test_a_bundle_of_a_baseline_says_that_it_needs_timm(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(WeightsError, match="models of timm need timm, which is not installed"):
        vitrail.load(run)


def test_its_config_goes_to_json_and_back() -> None:
    assert from_dict(TrainConfig, to_dict(config_of()), "config.json") == config_of()


def test_a_baseline_is_known_before_any_run_starts_and_belongs_to_a_study_by_compute(tmp_path: Path) -> None:
    with Events() as events:
        with pytest.raises(ConfigError, match="timm has no model 'resnet19'"):
            run_study(StudyConfig("compute", "digits", baselines=("resnet19",), out=str(tmp_path / "s")), events)
        with pytest.raises(ConfigError, match="takes no baselines"):
            run_study(StudyConfig("pooling", "digits", baselines=("resnet18",), out=str(tmp_path / "s")), events)
    assert not (tmp_path / "s").exists()
