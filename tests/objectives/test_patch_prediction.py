"""Laws of what is predicted of a patch, of what is hidden, and of what may be seen."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TypeVar

import numpy as np
import pytest
import torch

from vitrail.data.config import Preprocessing
from vitrail.data.loader import Batch
from vitrail.errors import ConfigError
from vitrail.models.config import ViTConfig
from vitrail.models.vit import VisionTransformer
from vitrail.objectives.config import MaskedPatchesConfig, NextPatchConfig
from vitrail.objectives.masked_patches import MaskedPatches, draw_corruption
from vitrail.objectives.next_patch import NextPatch
from vitrail.objectives.patch_prediction import PatchPrediction, color_classes

T = TypeVar("T", bound=PatchPrediction)
TARGETS = ["mean_color", "downsampled", "pixels"]
PREPROCESSING = Preprocessing(image_size=(16, 16))
MODEL = ViTConfig(
    image_size=(16, 16), patch_size=4, num_classes=0, width=12, depth=2, num_heads=2, mlp_size=24, num_register_tokens=2
)


def network(config: ViTConfig = MODEL) -> VisionTransformer:
    model = VisionTransformer(config)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return model


def masked(**options: object) -> MaskedPatches:
    learner = MaskedPatches(network(), MaskedPatchesConfig(**options), PREPROCESSING)  # type: ignore[arg-type]
    return with_head(learner)


def causal(config: ViTConfig = MODEL, **options: object) -> NextPatch:
    return with_head(NextPatch(network(config), NextPatchConfig(**options), PREPROCESSING))  # type: ignore[arg-type]


def with_head(learner: T) -> T:
    torch.nn.init.normal_(learner.head.weight, std=0.3, generator=torch.Generator().manual_seed(1))
    return learner


def batch_of(count: int, seed: int = 0) -> Batch:
    images = torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return Batch(images=images, labels=torch.zeros(count, dtype=torch.int64), indices=torch.arange(count), epoch=0)


def test_a_colour_is_three_octal_digits_the_first_channel_last() -> None:
    colors = torch.tensor([[0.1, 0.5, 0.9], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.125, 0.1249, 0.0]])
    assert color_classes(255 * colors).tolist() == [0 + 4 * 8 + 7 * 64, 0, 511, 1]


def test_targets_are_the_means_of_a_plain_loop_over_patches() -> None:
    batch = batch_of(2)
    pictures = batch.images.numpy().astype(np.float64)

    def code(cell: np.ndarray) -> int:
        levels = np.minimum(np.floor(8 * cell.mean(axis=(1, 2)) / 255), 7)
        return int(levels @ [1, 8, 64])

    learner = MaskedPatches(VisionTransformer(replace(MODEL, patch_size=8)), MaskedPatchesConfig(), PREPROCESSING)
    fine = MaskedPatches(learner.model, MaskedPatchesConfig(target="downsampled"), PREPROCESSING)
    coarse_targets, fine_targets = learner.targets_of(batch.images), fine.targets_of(batch.images)
    for picture in range(2):
        for patch in range(4):
            top, left = 8 * (patch // 2), 8 * (patch % 2)
            cell = pictures[picture, :, top : top + 8, left : left + 8]
            assert coarse_targets[picture, patch].tolist() == [code(cell)]
            expected = [code(cell[:, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2]) for r in range(4) for c in range(4)]
            assert fine_targets[picture, patch].tolist() == expected


@pytest.mark.parametrize(("share", "num_pictures", "count"), [(0.5, 400, 32), (0.15, 1200, 10)])
def test_a_share_of_each_picture_is_corrupted_80_10_10(share: float, num_pictures: int, count: int) -> None:
    """Half of 64 patches by default; 15 %, BERT's rate, are 9.6 of them."""
    config = MaskedPatchesConfig() if share == 0.5 else MaskedPatchesConfig(corrupted_share=share)
    places, replacements = draw_corruption(num_pictures, 64, config, torch.Generator().manual_seed(0))
    assert places.shape == (num_pictures, count)
    assert all(len(set(row)) == count for row in places.tolist())  # no place twice
    kept, hidden = replacements == places, replacements == 64
    assert hidden.float().mean().item() == pytest.approx(0.8, abs=0.01)
    assert kept.float().mean().item() == pytest.approx(0.1, abs=0.01)
    assert int(replacements.min()) >= 0
    assert int(replacements.max()) <= 64
    # Another patch is any of the others alike: the step round the picture is uniform over 1 to 63.
    steps = ((replacements - places) % 64)[~kept & ~hidden]
    counts = torch.bincount(steps, minlength=64)
    assert counts[0] == 0
    assert int(counts[1:].min()) > 0


def test_corruption_follows_the_generator_alone() -> None:
    learner, batch = masked(), batch_of(3)
    one, same, other = (learner.prepare(batch, torch.Generator().manual_seed(seed)) for seed in (5, 5, 6))
    assert torch.equal(one["places"], same["places"])
    assert torch.equal(one["replacements"], same["replacements"])
    assert not torch.equal(one["places"], other["places"])


def test_only_the_corrupted_embeddings_change_and_as_drawn() -> None:
    learner = masked()
    torch.nn.init.constant_(learner.mask_token, 7.0)
    patches = torch.randn(1, 16, 12)
    corrupted = learner.corrupt(patches, torch.tensor([[3, 5, 9]]), torch.tensor([[16, 2, 9]]))
    assert torch.equal(corrupted[0, 3], torch.full((12,), 7.0))
    assert torch.equal(corrupted[0, 5], patches[0, 2])
    untouched = [index for index in range(16) if index not in (3, 5)]
    assert torch.equal(corrupted[0, untouched], patches[0, untouched])


def test_what_is_under_the_mask_is_not_seen() -> None:
    learner = masked(mask_rate=1.0, replace_rate=0.0)
    inputs = learner.prepare(batch_of(2), torch.Generator().manual_seed(0))
    hidden = torch.zeros(2, 16, dtype=torch.bool).scatter(1, inputs["places"], True)
    pixels = hidden.view(2, 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    other = {**inputs, "images": torch.where(pixels, 9.0, inputs["images"])}
    torch.testing.assert_close(learner(inputs, 0).loss, learner(other, 0).loss)
    seen = {**inputs, "images": torch.where(pixels, inputs["images"], 9.0)}
    assert not torch.allclose(learner(inputs, 0).loss, learner(seen, 0).loss)


@pytest.mark.parametrize("placement", ["input", "every_layer"])
def test_no_prediction_sees_the_patch_it_is_for_or_a_later_one(placement: str) -> None:
    learner = causal(replace(MODEL, position_placement=placement)).eval()
    images = torch.randn(1, 3, 16, 16)
    images.requires_grad_(True)
    seen: list[torch.Tensor] = []
    learner.head.register_forward_hook(lambda module, arguments, output: seen.append(output))
    learner({"images": images, "targets": torch.zeros(1, 15, 1, dtype=torch.int64)}, 0)
    predictions = seen[0][0]  # (15, 512): row i is for patch i + 1
    assert len(predictions) == 15
    for row in (0, 6, 14):
        gradient = torch.autograd.grad(predictions[row].square().sum(), images, retain_graph=True)[0][0]
        by_patch = gradient.abs().sum(0).view(4, 4, 4, 4).sum((1, 3)).flatten()
        assert bool((by_patch[: row + 1] > 0).all())
        assert bool((by_patch[row + 1 :] == 0).all())


def test_the_target_of_a_prediction_is_the_next_patch() -> None:
    learner, batch = causal(), batch_of(2)
    inputs = learner.prepare(batch, torch.Generator())
    assert torch.equal(inputs["targets"], learner.targets_of(batch.images)[:, 1:])


def test_causal_training_leaves_the_model_with_full_attention() -> None:
    learner = causal().eval()
    inputs = learner.prepare(batch_of(2), torch.Generator())
    before = learner.model(inputs["images"])
    learner(inputs, 0)
    assert torch.equal(learner.model(inputs["images"]), before)
    changed = inputs["images"].clone()
    changed[:, :, 12:, 12:] += 1  # the last patch is seen by all tokens
    first = learner.model.config.num_prefix_tokens
    features = [learner.model.forward_features(x)[:, first] for x in (inputs["images"], changed)]
    assert not torch.allclose(*features)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_recomputed_blocks_are_causal_too(checkpointing: bool) -> None:
    learner = causal()
    inputs = learner.prepare(batch_of(2), torch.Generator())
    learner(inputs, 0).loss.backward()
    expected = learner.model.blocks[0].attn.qkv.weight.grad.clone()
    learner.zero_grad()
    learner.model.gradient_checkpointing = checkpointing
    learner(inputs, 0).loss.backward()
    torch.testing.assert_close(learner.model.blocks[0].attn.qkv.weight.grad, expected)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("make", [masked, causal])
def test_the_loss_of_a_batch_is_the_weighted_mean_of_its_parts(make: object, target: str) -> None:
    learner = make(target=target)  # type: ignore[operator]
    inputs = learner.prepare(batch_of(5), torch.Generator().manual_seed(0))
    first = {name: tensor[:2] for name, tensor in inputs.items()}
    rest = {name: tensor[2:] for name, tensor in inputs.items()}
    parts = learner(first, 0).loss * 0.4 + learner(rest, 0).loss * 0.6
    torch.testing.assert_close(parts, learner(inputs, 0).loss)


@pytest.mark.parametrize("target", TARGETS)
def test_guessing_costs_what_the_best_constant_answer_costs(target: str) -> None:
    """Against the loss itself, with the constant answer in the head's bias."""
    learner, batch = masked(target=target), batch_of(8)
    with torch.no_grad():
        targets = learner.targets_of(batch.images)
        torch.nn.init.zeros_(learner.head.weight)
        if target == "pixels":
            answer = targets.flatten(0, 1).mean(0)
        else:
            shares = torch.nn.functional.one_hot(targets.flatten(0, 1), 512).float().mean(0)
            answer = shares.clamp(min=1e-30).log().flatten()
        learner.head.bias.copy_(answer)
        expected = learner.loss_of(torch.zeros(8, 16, 12), targets).loss.item()
    halves = [batch.images[:3], batch.images[3:]]
    assert learner.guessing_loss(halves) == pytest.approx(expected, rel=1e-4)


def test_the_untrained_head_guesses_evenly() -> None:
    learner = MaskedPatches(network(), MaskedPatchesConfig(), PREPROCESSING)
    loss = learner(learner.prepare(batch_of(2), torch.Generator()), 0).loss.item()
    assert loss == pytest.approx(math.log(512), rel=1e-5)


def test_its_own_networks_are_part_of_the_state() -> None:
    names = set(masked().state_dict())
    assert {"mask_token", "head.weight", "head.bias"} < names
    assert all(name.startswith("model.") for name in names - {"mask_token", "head.weight", "head.bias"})


def test_models_that_would_leak_are_refused() -> None:
    stem = ViTConfig(image_size=(16, 16), patch_size=4, num_classes=0, stem="conv", stem_widths=(8,))
    with pytest.raises(ConfigError, match="stem 'conv'"):
        MaskedPatches(VisionTransformer(stem), MaskedPatchesConfig(), PREPROCESSING)
    with pytest.raises(ConfigError, match="single patch"):
        NextPatch(VisionTransformer(replace(MODEL, patch_size=16)), NextPatchConfig(), PREPROCESSING)
    with pytest.raises(ConfigError, match="patch_size that 4 divides"):
        MaskedPatches(
            VisionTransformer(replace(MODEL, patch_size=2)), MaskedPatchesConfig(target="downsampled"), PREPROCESSING
        )
    with pytest.raises(ConfigError, match="corrupted_share"):
        MaskedPatchesConfig(corrupted_share=0)
