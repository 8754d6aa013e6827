from __future__ import annotations

from typing import Any

import pytest
import torch
from small_models import OPTIONS, pictures, vit_bundle

from vitrail.data.batches import normalize
from vitrail.engines.config import InferenceConfig
from vitrail.engines.folding import FoldedViT
from vitrail.engines.linear import Linear
from vitrail.engines.prepare import Labelled, prepare
from vitrail.engines.quantization import Int8Linear, Observed, has_int8, observe, quantize_weight
from vitrail.errors import ConfigError
from vitrail.models.vit import VisionTransformer

pytestmark = pytest.mark.skipif(not has_int8(), reason="this processor has no exact 8-bit products")
INT8 = InferenceConfig(precision="int8", compile=False, batch_size=4)


def test_a_weight_is_within_half_a_step_of_its_row() -> None:
    weight = torch.randn(9, 33, generator=torch.Generator().manual_seed(0))
    quantized, step = quantize_weight(weight)
    assert quantized.dtype == torch.int8
    assert quantized.abs().max() == 127
    assert ((quantized.float() * step[:, None] - weight).abs() <= 0.5001 * step[:, None]).all()


@pytest.mark.parametrize("features", [(24, 16), (30, 7), (1, 5)])
def test_a_layer_of_integers_is_near_its_own_in_spite_of_channels_far_apart(features: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(300, features[0], generator=generator) * 10 ** torch.linspace(-1, 1, features[0]) + 3
    linear = Linear(torch.randn(features[1], features[0], generator=generator), torch.randn(features[1]))
    observed = Observed(rows.amin(0), rows.amax(0), rows)
    wanted, got = linear(rows), Int8Linear(linear, observed, torch.float32)(rows)
    assert (wanted - got).square().mean().sqrt() < 0.02 * wanted.std()


def test_ranges_are_those_of_all_pictures() -> None:
    bundle = vit_bundle()
    assert isinstance(bundle.model, VisionTransformer)
    folded = FoldedViT(bundle.model, bundle.config.preprocessing)
    images = pictures(bundle, 6)
    together, apart = observe(folded, [images]), observe(folded, images.split(2))
    assert together.keys() == {f"0.{name}" for name in ("qkv", "proj", "mlp.fc1", "mlp.fc2")} | {
        f"1.{name}" for name in ("query", "key_value", "proj", "mlp.fc1", "mlp.fc2")
    }
    for name, observed in together.items():
        torch.testing.assert_close(observed.low, apart[name].low, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(observed.high, apart[name].high, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("changes", [o for o in OPTIONS if o.get("num_classes") != 0], ids=str)
def test_every_option_keeps_its_answers_in_integers(changes: dict[str, Any]) -> None:
    bundle = vit_bundle(**changes)
    answer = prepare(bundle, INT8, calibration=pictures(bundle, 16, seed=1))
    images = pictures(bundle, 5)
    with torch.inference_mode():
        own = bundle.model(normalize(images, bundle.config.preprocessing))
    # Of a network of width 32 with random weights, on noise; the trained ones of docs/bench.md have 0.9999.
    assert torch.cosine_similarity(own, answer(images)).mean() > 0.99
    assert answer.description.precision == "int8"
    assert "head in float32" in str(answer.description)


def test_it_needs_pictures() -> None:
    with pytest.raises(ConfigError, match="int8 needs some of your pictures"):
        prepare(vit_bundle(), INT8)


def test_more_loss_than_allowed_is_refused_and_less_is_not() -> None:
    bundle = vit_bundle()
    images = pictures(bundle, 40)
    with torch.inference_mode():
        own = bundle.model(normalize(images, bundle.config.preprocessing)).argmax(1)
    # Calibrated on one even picture: far from what will come.
    even = torch.full_like(images[:1], 128)
    with pytest.raises(ConfigError, match=r"torch in int8 loses \d+\.\d\d points .* on 40 labelled pictures"):
        prepare(bundle, INT8, calibration=even, labelled=Labelled(images, own))
    prepare(bundle, INT8, calibration=even, labelled=Labelled(images, own), max_loss=1.0)
