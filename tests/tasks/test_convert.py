"""From a checkpoint that timm saved to every layout and back: the same bits, the same logits, a true certificate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vitrail
from vitrail.errors import ConfigError, WeightsError
from vitrail.tasks.convert import LAYOUTS, ConvertConfig, convert
from vitrail.training.events import Events
from vitrail.weights.adapters import WRITERS
from vitrail.weights.load import load
from vitrail.weights.sidecar import SIDECAR

timm = pytest.importorskip("timm")


def timm_model(**changes: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    shape = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}
    model = timm.models.VisionTransformer(**{**shape, **changes})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("timm") / "model.pth"
    torch.save(timm_model().state_dict(), path)
    return path


def run(source: Path | str, out: Path, to: str, **choices: Any) -> Any:
    from vitrail.weights.checkpoint import Choices

    with Events() as events:
        return convert(ConvertConfig(str(source), str(out), to, Choices(num_heads=3, **choices)), events)


def back(source: Path, out: Path) -> Any:
    with Events() as events:
        return convert(ConvertConfig(str(source), str(out), "vitrail"), events)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_to_a_layout_and_back_is_the_same_bit_for_bit(layout: str, saved: Path, tmp_path: Path) -> None:
    there = run(saved, tmp_path / "there", layout)
    assert there.certificate.checks, "nothing was compared"
    read_again = [check for check in there.certificate.checks if "read again" in check.against]
    assert [check.largest_difference for check in read_again] == [0.0]
    back(tmp_path / "there", tmp_path / "back")
    first, last = load(saved, choices=_three_heads()), vitrail.load(tmp_path / "back")
    assert last.config.model == first.config.model
    assert last.config.preprocessing == first.config.preprocessing
    assert last.config.labels == first.config.labels
    tensors = last.model.state_dict()
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(tensor, tensors[name]), name


def _three_heads() -> Any:
    from vitrail.weights.checkpoint import Choices

    return Choices(num_heads=3)


@pytest.mark.parametrize(("layout", "library"), [("timm", "timm"), ("huggingface", "transformers"),
                                                 ("torchvision", "torchvision"), ("google", "timm")])  # fmt: skip
def test_the_peers_own_code_answers_the_same(layout: str, library: str, saved: Path, tmp_path: Path) -> None:
    pytest.importorskip(library)
    certificate = run(saved, tmp_path / "out", layout).certificate
    [check] = [check for check in certificate.checks if check.against.startswith(library)]
    assert check.largest_difference <= 1e-5 * check.largest_logit


def test_what_a_layout_cannot_say_is_measured(saved: Path, tmp_path: Path) -> None:
    certificate = run(saved, tmp_path / "out", "google").certificate
    [check] = [check for check in certificate.checks if "gelu_tanh in place of gelu" in check.against]
    assert 0 < check.largest_difference < 0.1


def test_one_file_is_written_where_one_is_named(saved: Path, tmp_path: Path) -> None:
    run(saved, tmp_path / "model.npz", "google")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.npz", f"model.npz.{SIDECAR}"]
    with np.load(tmp_path / "model.npz") as arrays:
        assert "Transformer/encoderblock_0/LayerNorm_0/scale" in arrays.files
    assert vitrail.load(tmp_path / "model.npz").config.model.activation == "gelu"


def test_without_its_sidecar_a_layout_is_read_by_its_own_rules(saved: Path, tmp_path: Path) -> None:
    run(saved, tmp_path / "out", "google")
    (tmp_path / "out" / SIDECAR).unlink()
    read = vitrail.load(tmp_path / "out")
    assert read.config.model.activation == "gelu_tanh"
    assert read.certificate is not None
    assert any(setting.source == "the family's rule" for setting in read.certificate.settings)


def test_weights_that_are_not_those_of_their_sidecar_are_refused(saved: Path, tmp_path: Path) -> None:
    run(saved, tmp_path / "a", "torchvision")
    other = timm_model()
    with torch.no_grad():
        other.head.bias.add_(1)  # type: ignore[union-attr]
    torch.save(other.state_dict(), tmp_path / "other.pth")
    run(tmp_path / "other.pth", tmp_path / "b", "torchvision")
    (tmp_path / "b" / "model.safetensors").replace(tmp_path / "a" / "model.safetensors")
    with pytest.raises(WeightsError, match=r"disagree.*delete vitrail\.json"):
        vitrail.load(tmp_path / "a")


def test_nothing_is_overwritten_and_nothing_is_left_behind(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(WeightsError, match="not overwritten"):
        run(saved, tmp_path / "there", "timm")
    torch.save(timm_model(reg_tokens=2).state_dict(), tmp_path / "registers.pth")
    with pytest.raises(WeightsError, match="num_register_tokens"):
        run(tmp_path / "registers.pth", tmp_path / "out", "google")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["registers.pth", "there"]


def test_an_unknown_layout_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'timm'"):
        ConvertConfig("a", "b", "tim")


def test_the_certificate_is_json_and_text(saved: Path, tmp_path: Path) -> None:
    result = run(saved, tmp_path / "out", "timm")
    plain = json.loads(json.dumps(result.to_json()))["certificate"]
    assert plain["num_tensors"] == len(timm_model().state_dict())
    assert plain["unused"] == []
    text = "\n".join(result.certificate.lines())
    assert "layer_norm_eps 1e-06" in text
    assert "bit for bit" in text


def test_every_layout_that_is_written_has_a_name() -> None:
    assert set(LAYOUTS) == {*WRITERS, "vitrail"}
