"""The folded model is the model: for every option, shape and way, from bytes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_models import AXIAL, OPTIONS, pictures, vit_bundle

from vitrail.data.batches import normalize
from vitrail.engines.folding import AttentionWay, FoldedViT, can_fold, has_kernel
from vitrail.engines.linear import can_pack
from vitrail.models.variants import VARIANTS
from vitrail.models.vit import VisionTransformer


def both(changes: dict[str, Any], **how: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, K) of the model and of its folded form."""
    bundle = vit_bundle(**changes)
    images = pictures(bundle, 3)
    assert isinstance(bundle.model, VisionTransformer)
    folded = FoldedViT(bundle.model, bundle.config.preprocessing, **how)
    with torch.inference_mode():
        return bundle.model(normalize(images, bundle.config.preprocessing)), folded(images)


@pytest.mark.parametrize("way", ["products", "fused"])
@pytest.mark.parametrize("changes", OPTIONS, ids=str)
def test_it_answers_as_the_model_but_for_the_order_of_sums(changes: dict[str, Any], way: AttentionWay) -> None:
    own, folded = both(changes, attention=way)
    assert (own - folded).abs().max() < 3e-6 * own.abs().max().clamp_min(1)


@pytest.mark.parametrize("changes", OPTIONS, ids=str)
@pytest.mark.parametrize("way", ["products", "kernel"])
def test_in_bfloat16_it_stays_near(changes: dict[str, Any], way: AttentionWay) -> None:
    model = vit_bundle(**changes).model
    assert isinstance(model, VisionTransformer)
    if way == "kernel" and not has_kernel(model, torch.bfloat16):
        pytest.skip("no kernel for it here: relative positions, or no processor with AVX512-BF16")
    own, folded = both(changes, dtype=torch.bfloat16, attention=way)
    assert (own - folded).abs().max() < 0.04 * own.abs().max()
    assert torch.cosine_similarity(own, folded).min() > 0.998


@pytest.mark.parametrize("changes", [{}, {"pooling": "map", "class_token": False}, {"pre_logits_size": 9}], ids=str)
def test_its_features_are_what_the_head_sees(changes: dict[str, Any]) -> None:
    bundle = vit_bundle(**changes)
    model, images = bundle.model, pictures(bundle, 2)
    assert isinstance(model, VisionTransformer)
    folded = FoldedViT(model, bundle.config.preprocessing, answer="features")
    with torch.inference_mode():
        tokens = model.forward_features(normalize(images, bundle.config.preprocessing))
        torch.testing.assert_close(folded(images), model.forward_head(tokens, pre_logits=True), atol=1e-5, rtol=1e-5)


def test_the_model_it_was_made_from_stays_as_it_was() -> None:
    bundle = vit_bundle(pooling="map", class_token=False, layer_scale_init=0.1)
    before = {name: tensor.clone() for name, tensor in bundle.model.state_dict().items()}
    assert isinstance(bundle.model, VisionTransformer)
    FoldedViT(bundle.model, bundle.config.preprocessing, dtype=torch.bfloat16)
    after = bundle.model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert all(parameter.requires_grad for parameter in bundle.model.parameters())


def test_the_last_block_computes_what_is_pooled_and_nothing_else() -> None:
    bundle = vit_bundle(pooling="token")
    assert isinstance(bundle.model, VisionTransformer)
    folded = FoldedViT(bundle.model, bundle.config.preprocessing)
    seen: list[torch.Size] = []
    folded.blocks[-1].register_forward_hook(lambda _, inputs, output: seen.append(output.shape))
    folded(pictures(bundle, 2))
    assert seen == [torch.Size([2, 1, 32])]


def test_axial_attention_is_refused() -> None:
    bundle = vit_bundle(**AXIAL)
    assert not can_fold(bundle.model)
    with pytest.raises(ValueError, match="axial attention has no folded form"):
        FoldedViT(bundle.model, bundle.config.preprocessing)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["ViT-S/32", "R26+ViT-S/32", "R+ViT-Ti/16"])
def test_listed_variants_fold(name: str) -> None:
    torch.manual_seed(0)
    model = VisionTransformer(VARIANTS[name].config).eval()
    torch.nn.init.normal_(model.head.weight, std=0.02)  # type: ignore[union-attr,arg-type]
    bundle = vit_bundle()
    images = torch.randint(0, 256, (1, 3, 224, 224), dtype=torch.uint8)
    with torch.inference_mode():
        own = model(normalize(images, bundle.config.preprocessing))
        folded = FoldedViT(model, bundle.config.preprocessing)(images)
    assert (own - folded).abs().max() < 1e-5 * own.abs().max().clamp_min(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("changes", OPTIONS, ids=str)
def test_packed_weights_give_the_same_answers(changes: dict[str, Any], dtype: torch.dtype) -> None:
    if not can_pack(dtype):
        pytest.skip(f"no packed products of {dtype} here")
    bundle = vit_bundle(**changes)
    assert isinstance(bundle.model, VisionTransformer)
    folded, images = FoldedViT(bundle.model, bundle.config.preprocessing, dtype=dtype), pictures(bundle, 3)
    with torch.inference_mode():
        own = bundle.model(normalize(images, bundle.config.preprocessing))
        folded.pack(3 * bundle.model.config.num_tokens)
        packed = folded(images)
    tolerance = 1e-5 if dtype == torch.float32 else 0.04
    assert (packed - own).abs().max() < tolerance * own.abs().max().clamp_min(1)
