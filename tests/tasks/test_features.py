"""Features are computed once, are the model's own, and a damaged cache is noticed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitrail.data.batches import normalize
from vitrail.data.config import DataConfig, Preprocessing
from vitrail.data.sources import open_source
from vitrail.data.transforms import EvaluationTransform
from vitrail.errors import ConfigError
from vitrail.models.config import ViTConfig
from vitrail.models.vit import VisionTransformer
from vitrail.tasks import features as module
from vitrail.tasks.features import ARRAY, RECORD, extract_features
from vitrail.tasks.prepare import PreparedData, prepare_data
from vitrail.training.events import Events, SilentSink
from vitrail.weights.bundle import Bundle, BundleConfig


class _Heard(SilentSink):
    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.notes: list[str] = []

    def warning(self, text: str) -> None:
        self.warnings.append(text)

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(scope="module")
def prepared() -> PreparedData:
    return prepare_data(open_source("digits"), DataConfig(source="digits"), Events())


def _bundle(seed: int = 0, **changes: object) -> Bundle:
    config = ViTConfig(
        image_size=(8, 8), patch_size=4, in_channels=1, width=16, depth=1, num_heads=2, mlp_size=16, num_classes=0
    )
    config = replace(config, **changes)  # type: ignore[arg-type]
    model = VisionTransformer(config, generator=torch.Generator().manual_seed(seed)).eval()
    preprocessing = Preprocessing(image_size=(8, 8), mean=(0.5,), std=(0.5,))
    return Bundle(model, BundleConfig(model=config, labels=(), preprocessing=preprocessing), Path("none"))


def _refuse(*_: object) -> None:
    raise AssertionError("the model ran")


def test_the_second_call_runs_no_model(prepared: PreparedData, tmp_path: Path) -> None:
    bundle, rows = _bundle(), np.arange(150)[::-1]
    first = extract_features(bundle, prepared, rows, Events(), cache=tmp_path)
    bundle.model.forward_features = _refuse  # type: ignore[method-assign]
    second = extract_features(bundle, prepared, rows, Events(), cache=tmp_path)
    assert (first.from_cache, second.from_cache) == (False, True)
    assert isinstance(first.values, np.memmap)
    assert isinstance(second.values, np.memmap)
    np.testing.assert_array_equal(first.values, second.values)
    np.testing.assert_array_equal(second.indices, rows)


def test_features_are_what_the_model_says_of_each_picture(prepared: PreparedData, tmp_path: Path) -> None:
    bundle, rows = _bundle(depth=5), np.array([5, 3, 1700])
    transform = EvaluationTransform(bundle.config.preprocessing)
    images = torch.stack(
        [torch.from_numpy(transform(prepared.source.open(int(row)), np.random.default_rng(0))) for row in rows]
    )
    with torch.inference_mode():
        inputs = normalize(images, bundle.config.preprocessing)
        tokens, stages = bundle.model.forward_features(inputs), bundle.model.forward_intermediates(inputs)
        last = [bundle.model.norm(stages[f"blocks.{index}"])[:, 0] for index in (1, 2, 3, 4)]
    expected = {
        "pre_logits": bundle.model.forward_head(tokens, pre_logits=True),
        "class_token": tokens[:, 0],
        "patch_mean": tokens[:, 1:].mean(dim=1),
        "class_token_and_patch_mean": torch.cat([tokens[:, 0], tokens[:, 1:].mean(dim=1)], dim=1),
        "last_4_class_tokens": torch.cat(last, dim=1),
    }
    for kind, values in expected.items():
        found = extract_features(bundle, prepared, rows, Events(), kind=kind, cache=tmp_path)  # type: ignore[arg-type]
        np.testing.assert_allclose(found.values, values.detach().numpy(), atol=1e-5)
    assert len(list(tmp_path.iterdir())) == len(expected)


def test_features_of_a_block_are_its_tokens(prepared: PreparedData, tmp_path: Path) -> None:
    bundle, rows = _bundle(depth=3), np.arange(2)
    transform = EvaluationTransform(bundle.config.preprocessing)
    images = torch.stack(
        [torch.from_numpy(transform(prepared.source.open(int(row)), np.random.default_rng(0))) for row in rows]
    )
    with torch.inference_mode():
        stages = bundle.model.forward_intermediates(normalize(images, bundle.config.preprocessing))
    for layer, tokens in ((1, stages["blocks.1"]), (-1, stages["blocks.2"]), (None, stages["norm"])):
        found = extract_features(bundle, prepared, rows, Events(), kind="patch_mean", layer=layer, cache=tmp_path)
        np.testing.assert_allclose(found.values, tokens[:, 1:].mean(dim=1).numpy(), atol=1e-5)
    with pytest.raises(ConfigError, match="layer 3: the model has 3 blocks, 0 to 2"):
        extract_features(bundle, prepared, rows, Events(), layer=3, cache=tmp_path)
    with pytest.raises(ConfigError, match="are of four blocks"):
        extract_features(bundle, prepared, rows, Events(), kind="last_4_class_tokens", layer=1, cache=tmp_path)


def test_other_weights_pictures_or_preprocessing_are_other_features(prepared: PreparedData, tmp_path: Path) -> None:
    rows = np.arange(20)
    extract_features(_bundle(), prepared, rows, Events(), cache=tmp_path)
    other = _bundle()
    squashed = replace(other.config, preprocessing=replace(other.config.preprocessing, resize="squash"))
    cases = [
        (_bundle(seed=1), prepared, rows),
        (_bundle(), prepared, np.arange(1, 21)),
        (_bundle(), replace(prepared, fingerprint="another"), rows),
        (replace(other, config=squashed), prepared, rows),
    ]
    for bundle, data, indices in cases:
        assert not extract_features(bundle, data, indices, Events(), cache=tmp_path).from_cache


@pytest.mark.parametrize("damage", ["bit", "cut", "no record", "bad record"])
def test_a_damaged_cache_is_noticed_and_computed_again(prepared: PreparedData, tmp_path: Path, damage: str) -> None:
    rows = np.arange(20)
    first = np.array(extract_features(_bundle(), prepared, rows, Events(), cache=tmp_path).values)
    (folder,) = tmp_path.iterdir()
    content = bytearray((folder / ARRAY).read_bytes())
    if damage == "bit":
        content[-3] ^= 1
        (folder / ARRAY).write_bytes(content)
    elif damage == "cut":
        (folder / ARRAY).write_bytes(content[:-64])
    elif damage == "no record":
        (folder / RECORD).unlink()
    else:
        (folder / RECORD).write_text("{")
    heard = _Heard()
    again = extract_features(_bundle(), prepared, rows, Events(heard), cache=tmp_path)
    assert not again.from_cache
    assert any("damaged" in text for text in heard.warnings)
    np.testing.assert_array_equal(again.values, first)
    assert extract_features(_bundle(), prepared, rows, Events(), cache=tmp_path).from_cache


def test_what_is_not_finished_is_no_cache(
    prepared: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, calls = _bundle(), iter(range(2))
    forward = bundle.model.forward_features

    def fail_in_the_second_batch(images: torch.Tensor) -> torch.Tensor:
        if next(calls):
            raise KeyboardInterrupt
        return forward(images)

    monkeypatch.setattr(bundle.model, "forward_features", fail_in_the_second_batch)
    with pytest.raises(KeyboardInterrupt):
        extract_features(bundle, prepared, np.arange(100), Events(), cache=tmp_path)
    assert not list(tmp_path.iterdir())
    (tmp_path / ".old.1.partial").mkdir()
    monkeypatch.setattr(module, "ABANDONED_SECONDS", -1)
    assert not extract_features(_bundle(), prepared, np.arange(100), Events(), cache=tmp_path).from_cache
    assert len(list(tmp_path.iterdir())) == 1


def test_pictures_that_cannot_be_read_have_no_row(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(8):
            pixels = generator.integers(0, 256, (10, 10), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")
    data = prepare_data(open_source(str(tmp_path / "photos")), DataConfig(source=str(tmp_path / "photos")), Events())
    gone = tmp_path / "photos" / data.source.key(3)
    gone.unlink()
    heard = _Heard()
    for is_second in (False, True):
        found = extract_features(_bundle(), data, np.arange(16), Events(heard), cache=tmp_path / "cache")
        assert found.from_cache == is_second
        np.testing.assert_array_equal(found.indices, np.delete(np.arange(16), 3))
        assert found.values.shape == (15, 16)
        assert np.isfinite(found.values).all()
    assert sum("left out" in text for text in heard.warnings) == 1


def test_a_cache_that_cannot_be_written_is_said_and_done_without(prepared: PreparedData, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    heard = _Heard()
    found = extract_features(_bundle(), prepared, np.arange(10), Events(heard), cache=tmp_path / "file" / "cache")
    assert found.values.shape == (10, 16)
    assert any("VITRAIL_CACHE" in text for text in heard.warnings)


def test_a_model_without_a_class_token_is_refused(prepared: PreparedData, tmp_path: Path) -> None:
    bundle = _bundle(class_token=False, pooling="gap")
    with pytest.raises(ConfigError, match="class_token"):
        extract_features(bundle, prepared, np.arange(3), Events(), kind="class_token", cache=tmp_path)
