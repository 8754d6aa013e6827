"""Views that ask the model again: each obeys a law that needs no trained model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests.inspection.test_attention import KINDS, images, model_of
from torch import Tensor, nn

from vitrail.inspection.features import patch_colours
from vitrail.inspection.lens import logit_lens
from vitrail.inspection.occlusion import occlusion
from vitrail.inspection.shift import shift_response, shifted


class OfPixels(nn.Module):
    """A classifier whose logits are linear in the pixels."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight  # (classes, channels, height, width)

    def forward(self, images: Tensor) -> Tensor:
        return torch.einsum("bchw,kchw->bk", images, self.weight)


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_depth_answers_as_the_model(kind: str) -> None:
    model = model_of(**KINDS[kind])
    answers = logit_lens(model, images())
    assert answers.shape == (3, 2, 5)
    with torch.no_grad():
        torch.testing.assert_close(answers[-1], model(images()), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(answers[0], answers[-1])


def test_the_lens_of_an_early_block_is_the_head_of_a_model_that_ends_there() -> None:
    model = model_of(depth=3)
    shorter = model_of(depth=1)
    shorter.load_state_dict({name: value for name, value in model.state_dict().items() if name in shorter.state_dict()})
    with torch.no_grad():
        torch.testing.assert_close(logit_lens(model, images())[0], shorter(images()))
    with pytest.raises(ValueError, match="no head"):
        logit_lens(model_of(num_classes=0), images())


@pytest.mark.parametrize("changes", [{}, {"num_register_tokens": 2}, {"class_token": False, "pooling": "avg"}])
def test_colours_are_principal_components_of_the_patches_over_all_pictures(changes: dict[str, Any]) -> None:
    model = model_of(**changes)
    found = patch_colours(model, images(3))
    assert found.colours.shape == (3, 4, 6, 3)
    with torch.no_grad():
        patches = model.forward_features(images(3))[:, model.config.num_prefix_tokens :].flatten(0, 1).double().numpy()
    values, vectors = np.linalg.eigh(np.cov(patches.T))
    np.testing.assert_allclose(found.variance, values[::-1][:3] / values.sum(), rtol=1e-6)
    for channel in range(3):
        colour = found.colours[..., channel].flatten().numpy()
        assert (colour.min(), colour.max()) == (0, 1)
        assert abs(np.corrcoef(colour, patches @ vectors[:, -1 - channel])[0, 1]) == pytest.approx(1, abs=1e-6)


def test_one_picture_of_one_patch_has_no_colours_to_speak_of() -> None:
    found = patch_colours(model_of(image_size=(4, 4)), torch.zeros(1, 3, 4, 4))
    assert found.colours.shape == (1, 1, 1, 3)
    assert found.colours.isfinite().all()


def test_a_shift_moves_to_the_right_and_repeats_the_edge() -> None:
    image = torch.arange(8.0).view(1, 2, 4)
    assert shifted(image, 2).tolist() == [[[0, 0, 0, 1], [4, 4, 4, 5]]]
    assert torch.equal(shifted(image, 0), image)


def test_no_shift_and_nothing_to_see_change_nothing() -> None:
    model = model_of()
    still = shift_response(model, images(), (0,))
    flat = shift_response(model, torch.full((2, 3, 16, 24), 0.3), (1, 5, 23))
    for response, count in ((still, 1), (flat, 3)):
        for rows in (response.moved, response.turned):
            assert rows is not None
            assert rows.shape == (count, 2)
            assert 0 <= float(rows.min()) <= float(rows.max()) < 1e-6
        assert response.same is not None
        assert response.same.all()


def test_whole_patches_come_back_to_a_model_that_knows_no_places() -> None:
    """Its answer is a function of the set of patches: the first two of each row and the last are of one colour, so a
    shift by a patch leaves the set as it is, and half a patch does not."""
    model = model_of(class_token=False, pooling="gap", position_embedding="none")
    pictures = images()
    pictures[..., :8], pictures[..., 20:] = 0.5, 0.5
    response = shift_response(model, pictures, (2, 4, 6))
    for rows in (response.moved, response.turned):
        assert rows is not None
        assert float(rows[1].max()) < 1e-6
        assert float(rows[[0, 2]].min()) > 1e-6


def test_moved_is_the_probability_that_goes_elsewhere() -> None:
    weight = torch.zeros(2, 1, 1, 4)
    weight[1, ..., 1:3] = 4.0  # an edge, wherever it stands
    weight[1, ..., 0] = -4.0
    picture = torch.tensor([[[[0.0, 1.0, 0.0, 0.0]]]])
    response = shift_response(OfPixels(weight), picture, (1, 2))
    assert response.moved is not None
    assert response.same is not None
    assert response.turned is None  # it shows no features
    own = torch.sigmoid(torch.tensor(4.0)).double()
    assert response.moved[0, 0] == pytest.approx(0, abs=1e-7)
    assert response.moved[1, 0] == pytest.approx(float(own - 0.5), abs=1e-6)
    assert response.same[0, 0]
    for shift in (-1, 4):
        with pytest.raises(ValueError, match="leaves nothing of a picture 4 pixels wide"):
            shift_response(OfPixels(weight), picture, (shift,))


class Shown(OfPixels):
    """Its features are the pixels themselves, and its head is linear."""

    config = SimpleNamespace(num_classes=2)

    def forward_features(self, images: Tensor) -> Tensor:
        return images

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        return features.flatten(1) if pre_logits else self.forward(features)


def test_turned_is_the_angle_of_the_features_whatever_their_length() -> None:
    picture = torch.tensor([[[[1.0, 0.0, 0.0, 0.0]]], [[[0.0, 1.0, 0.0, 0.0]]]])
    for scale in (1.0, 7.0):
        turned = shift_response(Shown(torch.zeros(2, 1, 1, 4)), scale * picture, (1, 2)).turned
        assert turned is not None
        # The first, its edge repeated: (1, 1, 0, 0) and (1, 1, 1, 0); the second moves to a place of its own.
        expected = torch.tensor([[1 - 2**-0.5, 1.0], [1 - 3**-0.5, 1.0]], dtype=torch.float64)
        torch.testing.assert_close(turned, expected, atol=1e-7, rtol=0)


def test_a_model_without_a_head_has_no_answer_to_move() -> None:
    response = shift_response(model_of(num_classes=0), images(), (3,))
    assert response.moved is None
    assert response.same is None
    assert response.turned is not None
    assert float(response.turned.min()) > 0


def test_what_is_lost_is_what_the_square_had_added() -> None:
    draw = torch.Generator().manual_seed(0)
    weight = 0.1 * torch.randn(3, 3, 16, 24, generator=draw)
    model, pictures = OfPixels(weight), images()
    found = occlusion(model, pictures, size=5, stride=4)
    # 16 rows: squares at 0, 4, 8 and, moved in, 11; 24 columns: 0, 4, ..., 16 and 19.
    assert found.lost.shape == (2, 4, 6)
    own = model(pictures).double().softmax(1)
    assert torch.equal(found.classes, own.argmax(1))
    for row, top in enumerate((0, 4, 8, 11)):
        for column, left in enumerate((0, 4, 8, 12, 16, 19)):
            covered = pictures.clone()
            covered[:, :, top : top + 5, left : left + 5] = 0
            expected = own.amax(1) - model(covered).double().softmax(1).gather(1, found.classes[:, None])[:, 0]
            # Logits are float32 sums, whose order depends on the batch.
            torch.testing.assert_close(found.lost[:, row, column], expected, atol=1e-5, rtol=0)


def test_what_the_model_does_not_see_costs_nothing() -> None:
    weight = torch.zeros(2, 3, 16, 24)
    weight[0, :, :8, :8] = 1.0
    pictures = torch.ones(1, 3, 16, 24)
    found = occlusion(OfPixels(weight), pictures, size=8, classes=torch.tensor([1]))
    assert found.lost.shape == (1, 2, 3)
    assert float(found.lost[0, 0, 0]) == pytest.approx(-0.5)
    assert float(found.lost[0].flatten()[1:].abs().max()) == 0


@pytest.mark.parametrize(
    ("size", "stride", "message"), [(0, None, "do not fit"), (17, None, "do not fit"), (4, 0, "nowhere")]
)
def test_squares_that_cannot_be_are_refused(size: int, stride: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        occlusion(model_of(), images(), size, stride)
