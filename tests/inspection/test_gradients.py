"""Gradient-weighted attention: the published rule, written out with the weights in the graph, gives the same."""

from __future__ import annotations

import math

import pytest
import torch
from tests.inspection.test_attention import KINDS, images, model_of
from torch import Tensor

from vitrail.inspection.attention import pooled_queries
from vitrail.inspection.gradients import gradient_attention


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_rule_with_every_weight_in_the_graph(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(**KINDS[kind]).double()
    pictures = images().double()
    classes = torch.tensor([1, 4])
    found = gradient_attention(model, pictures, classes)
    kept: list[Tensor] = []

    def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None, *_: object) -> Tensor:
        logits = query @ key.mT / math.sqrt(query.shape[-1])
        weights = (logits if bias is None else logits + bias).softmax(-1)
        weights.retain_grad()
        kept.append(weights)
        return weights @ value

    monkeypatch.setattr("vitrail.layers.attention.attend", attend)
    model(pictures).gather(1, classes[:, None]).sum().backward()
    tokens = model.config.num_tokens
    relevance = torch.eye(tokens, dtype=torch.float64).expand(2, -1, -1)
    for weights in kept[:3]:  # what pools by attention comes after the blocks
        assert weights.grad is not None
        relevance = relevance + (weights * weights.grad).clamp_min(0).mean(1).detach() @ relevance
    row = (relevance - torch.eye(tokens))[:, pooled_queries(model), model.config.num_prefix_tokens :].mean(1)
    torch.testing.assert_close(found.flatten(1), row, atol=1e-9, rtol=1e-7)
    assert found.min() >= 0


def test_it_asks_about_the_most_probable_class_and_leaves_no_gradients() -> None:
    model = model_of()
    with torch.no_grad():
        best = model(images()).argmax(1)
        found = gradient_attention(model, images())
    assert torch.equal(found, gradient_attention(model, images(), best))
    assert not torch.equal(found, gradient_attention(model, images(), (best + 1) % 5))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    frozen = model_of().requires_grad_(False)
    assert torch.equal(found, gradient_attention(frozen, images()))


def test_what_cannot_be_asked_is_refused() -> None:
    with pytest.raises(ValueError, match="no head"):
        gradient_attention(model_of(num_classes=0), images())
    with pytest.raises(ValueError, match=r"classes \[0, 5\]: the model has 5, 0 to 4"):
        gradient_attention(model_of(), images(), torch.tensor([0, 5]))
    with pytest.raises(ValueError, match="training mode"):
        gradient_attention(model_of().train(), images())
