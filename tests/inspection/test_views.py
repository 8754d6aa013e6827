"""Distances, rollout, filters and positions: the published values, and laws they obey."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.inspection.test_attention import attend_evenly, images, model_of
from tests.models.test_vit_oracle import close, oracle, picture

from vitrail.inspection.distance import mean_attention_distance, patch_distances
from vitrail.inspection.filters import embedding_filters
from vitrail.inspection.positions import position_similarity
from vitrail.inspection.rollout import attention_rollout, roll_out


@pytest.mark.parametrize(
    ("side", "patch", "with_self", "without"),
    [(14, 16, 116.4922, 117.0896), (7, 32, 115.5029, 117.9092), (16, 14, 116.5651, 117.0222),
     (28, 8, 116.7216, 116.8707), (24, 16, 200.0480, 200.3959), (12, 32, 199.5058, None), (2, 16, 13.6569, 18.2091)],
)  # fmt: skip
def test_distances_of_uniform_attention(side: int, patch: int, with_self: float, without: float | None) -> None:
    distances = patch_distances((side, side), patch)
    count = side * side
    assert float(distances.mean()) == pytest.approx(with_self, abs=1e-4)
    if without is not None:
        assert float(distances.sum()) / (count * (count - 1)) == pytest.approx(without, abs=1e-4)
    assert float(distances.diagonal().abs().max()) == 0


def test_the_corner_and_the_diagonal() -> None:
    distances = patch_distances((14, 14), 16)
    assert float(distances[0].mean()) == pytest.approx(161.030, abs=1e-3)
    assert float(distances.max()) == pytest.approx(294.156, abs=1e-3)


def test_distances_of_the_oracle() -> None:
    plain = mean_attention_distance(oracle(), picture())
    close(plain.pixels.flatten().float(), [1.827656, 1.714294, 1.324715, 1.499956])
    even = mean_attention_distance(oracle(), picture(), renormalize=True)
    close(even.pixels.flatten().float(), [2.152425, 2.192918, 1.784497, 1.897771])
    assert (plain.layers, plain.renormalized, even.renormalized) == ((0, 1), False, True)


def test_a_model_that_attends_evenly_has_the_distance_of_uniform_attention() -> None:
    model = attend_evenly(model_of(num_register_tokens=2))
    uniform = float(patch_distances((4, 6), 4).mean())
    even = mean_attention_distance(model, images(), renormalize=True).pixels
    torch.testing.assert_close(even, torch.full_like(even, uniform))
    torch.testing.assert_close(mean_attention_distance(model, images(), [-1]).pixels, even[:1] * 24 / 27)


def test_rollout_of_two_matrices() -> None:
    first = torch.tensor([[0.2, 0.3, 0.5], [0.1, 0.8, 0.1], [0.6, 0.2, 0.2]])
    second = torch.tensor([[0.5, 0.25, 0.25], [0.3, 0.4, 0.3], [0.1, 0.1, 0.8]])
    rolled = roll_out([first, second])
    expected = [[0.49375, 0.2375, 0.26875], [0.17, 0.6675, 0.1625], [0.3025, 0.1425, 0.555]]
    torch.testing.assert_close(rolled, torch.tensor(expected, dtype=torch.float64), atol=1e-7, rtol=0)
    with pytest.raises(ValueError, match="no layer"):
        roll_out([])


def test_rollout_of_the_oracle() -> None:
    rollout = attention_rollout(oracle(), picture(), [-1])
    assert rollout.maps.shape == (1, 1, 2, 2)
    close(rollout.maps.flatten().float(), [0.134571, 0.184081, 0.135125, 0.153657])


@pytest.mark.parametrize("pooling", ["token", "gap"])
def test_rollout_follows_all_layers_whatever_depths_are_asked_for(pooling: str) -> None:
    model = model_of(pooling=pooling, class_token=pooling == "token")
    whole = attention_rollout(model, images())
    assert torch.equal(attention_rollout(model, images(), [2, 0]).maps, whole.maps[[0, 2]])
    with torch.no_grad():
        weights = model.attention_weights(images())
    rolled = roll_out(one.mean(1) for one in weights.values())
    row = rolled[:, 0, 1:] if pooling == "token" else rolled.mean(1)
    torch.testing.assert_close(whole.maps[-1].flatten(1), row, atol=1e-5, rtol=0)
    if pooling == "gap":
        torch.testing.assert_close(whole.maps.sum((-1, -2)), torch.ones(3, 2, dtype=torch.float64))


def test_filters_are_the_principal_components_up_to_their_sign() -> None:
    model = model_of()
    kernel = model.patch_embed.proj.weight.detach().double().permute(0, 2, 3, 1).flatten(1).numpy()
    values, vectors = np.linalg.eigh(np.cov(kernel.T))
    found = embedding_filters(model, 5)
    assert found.tiles.shape == (5, 4, 4, 3)
    for tile, vector in zip(found.tiles, vectors.T[::-1], strict=False):
        flat = tile.flatten().numpy()
        assert (flat.min(), flat.max()) == (0, 1)
        assert abs(np.corrcoef(flat, vector)[0, 1]) == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(found.variance, values[::-1][:5] / values.sum(), rtol=1e-6)
    assert len(embedding_filters(model).tiles) == 28
    assert float(embedding_filters(model, 99).variance.sum()) == pytest.approx(1)
    with pytest.raises(ValueError, match="they see features, not pixels"):
        embedding_filters(model_of(stem="conv", stem_widths=(8,)))


def test_similarities_of_the_oracle() -> None:
    found = position_similarity(oracle()).reshape(4, 4).float()
    close(found[0, 1:], [0.071755, 0.961414, 0.219233])
    close(found[1, 2:], [-0.069009, 0.094117])
    close(found[2, 3:], [0.114923])
    torch.testing.assert_close(found.diagonal(), torch.ones(4))


def test_positions_of_every_kind() -> None:
    every = model_of(position_placement="every_layer")
    assert position_similarity(every, 2).shape == (4, 6, 4, 6)
    assert not torch.equal(position_similarity(every, 2), position_similarity(every, 1))
    assert position_similarity(model_of(position_embedding="learned_2d")).shape == (4, 6, 4, 6)
    with pytest.raises(ValueError, match="no table of positions for layer 1: the model has 1"):
        position_similarity(model_of(), 1)
    with pytest.raises(ValueError, match="gives a place no vector of its own"):
        position_similarity(model_of(position_embedding="relative"))
