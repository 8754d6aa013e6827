from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vitrail.data.config import Preprocessing
from vitrail.errors import WeightsError
from vitrail.layers.position_embed import resample_position_embedding
from vitrail.models.config import ViTConfig
from vitrail.models.vit import VisionTransformer
from vitrail.weights.bundle import Bundle, BundleConfig
from vitrail.weights.surgery import adapt

VIT = ViTConfig(image_size=(8, 8), patch_size=4, num_classes=3, width=16, depth=1, num_heads=2, mlp_size=32)
LABELS = ("a", "b", "c")


def bundle_of(config: ViTConfig = VIT, labels: tuple[str, ...] = LABELS) -> Bundle:
    model = VisionTransformer(config, generator=torch.Generator().manual_seed(0)).eval()
    for head in (model.head, model.head_dist):
        if head is not None:
            torch.nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(1))
    preprocessing = Preprocessing(image_size=config.image_size)
    return Bundle(model, BundleConfig(config, labels, preprocessing), Path("bundle"))


def test_the_same_task_gets_the_same_model_and_nothing_to_report() -> None:
    bundle = bundle_of()
    model, report = adapt(bundle, VIT, LABELS)
    assert report == []
    for name, tensor in bundle.model.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)


def test_other_labels_get_a_head_of_zeros_and_keep_the_rest() -> None:
    bundle = bundle_of()
    model, report = adapt(bundle, replace(VIT, num_classes=5), tuple("vwxyz"))
    assert report == ["head: fresh, starting at zero (3 labels -> 5 others)"]
    assert model.head.weight.shape == (5, 16)
    assert not model.head.weight.any()
    for name, tensor in bundle.model.state_dict().items():
        if not name.startswith("head."):
            assert torch.equal(model.state_dict()[name], tensor), name


def test_labels_in_another_order_are_other_labels() -> None:
    model, report = adapt(bundle_of(), VIT, ("b", "a", "c"))
    assert not model.head.weight.any()
    assert "another order" in report[0]


def test_positions_are_stretched_and_prefix_rows_kept() -> None:
    bundle = bundle_of()
    model, report = adapt(bundle, replace(VIT, image_size=(12, 16)), LABELS)
    assert report == ["position embedding 2x2 -> 3x4 (bilinear align corners)"]
    expected = resample_position_embedding(bundle.model.pos_embed, (2, 2), (3, 4), 1)
    assert torch.equal(model.pos_embed, expected)
    assert torch.equal(model.pos_embed[:, 0], bundle.model.pos_embed[:, 0])
    assert model(torch.zeros(1, 3, 12, 16)).shape == (1, 3)


def test_tables_of_rows_and_columns_are_stretched_each_along_itself() -> None:
    config = replace(VIT, position_embedding="learned_2d")
    bundle = bundle_of(config)
    model, _ = adapt(bundle, replace(config, image_size=(12, 8)), LABELS)
    assert torch.equal(model.pos_embed.columns, bundle.model.pos_embed.columns)
    ends = [0, -1]  # corners stay on corners
    assert torch.allclose(model.pos_embed.rows[:, ends], bundle.model.pos_embed.rows[:, ends])
    middle = bundle.model.pos_embed.rows.mean(dim=1)
    assert torch.allclose(model.pos_embed.rows[:, 1], middle, atol=1e-6)


def test_fixed_positions_are_computed_anew_and_said_so() -> None:
    config = replace(VIT, position_embedding="sincos_2d_mae")
    _, report = adapt(bundle_of(config), replace(config, image_size=(12, 12)), LABELS)
    assert report == ["positions 2x2 -> 3x3: nothing learned, computed anew"]


def test_relative_positions_cannot_be_stretched() -> None:
    config = replace(VIT, position_embedding="relative")
    with pytest.raises(WeightsError, match="relative positions"):
        adapt(bundle_of(config), replace(config, image_size=(12, 12)), LABELS)


def test_the_whole_hidden_head_goes_with_the_labels() -> None:
    config = replace(VIT, pre_logits_size=8)
    model, report = adapt(bundle_of(config), replace(VIT, num_classes=2), ("x", "y"))
    assert model.head.weight.shape == (2, 16)
    assert "hidden layer" in report[0]


def test_both_heads_of_a_distilled_model_start_afresh() -> None:
    config = replace(VIT, distillation_token=True)
    model, _ = adapt(bundle_of(config), replace(config, num_classes=2), ("x", "y"))
    assert model.head_dist is not None
    assert not model.head_dist.weight.any()


def test_another_architecture_is_refused_by_its_fields() -> None:
    with pytest.raises(WeightsError, match=r"width 16 -> 32.*mlp_size 32 -> 64"):
        adapt(bundle_of(), replace(VIT, width=32, mlp_size=64), LABELS)
    with pytest.raises(WeightsError, match="2 labels for a head of 3"):
        adapt(bundle_of(), VIT, ("x", "y"))


def test_rates_that_hold_no_weights_may_change() -> None:
    model, report = adapt(bundle_of(), replace(VIT, dropout_rate=0.1, stochastic_depth_rate=0.1), LABELS)
    assert report == []
    assert model.training


def test_the_bundles_own_model_is_left_alone() -> None:
    bundle = bundle_of()
    model, _ = adapt(bundle, VIT, LABELS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert bundle.model.head.weight.any()
