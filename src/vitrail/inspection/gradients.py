"""Which patches spoke for a class: attention weighted by its gradient."""

from __future__ import annotations

from contextlib import ExitStack

import torch
from torch import Tensor

from vitrail.inspection.attention import LayerAttention, pooled_queries
from vitrail.layers.block import Block
from vitrail.models.vit import VisionTransformer


def gradient_attention(model: VisionTransformer, images: Tensor, classes: Tensor | None = None) -> Tensor:
    """Relevance of each patch for the logit of a class: (B, grid height, grid width) float64, not negative.

    Chefer et al. 2021, "Generic attention-model explainability for interpreting bi-modal and encoder-decoder
    transformers", equations 5 and 6: R grows by A' R in each block, where A' is the mean over heads of what is positive
    in A times its gradient. No weights are put into the graph for it: their gradient is that of the heads' output times
    the values, so the pass keeps its fused kernel. For models that pool patches the row is the mean of the patches'
    own; the identity that R begins with, which would be the same for each of them there, is left out.

    Args:
        model: in evaluation mode, with global attention and a head.
        images: (B, channels, height, width), normalised.
        classes: (B,); None: each picture's most probable.

    Raises:
        ValueError: axial attention, no head, training mode, or a class that does not exist.
    """
    config = model.config
    if config.attention != "global":
        raise ValueError("attention 'axial' has weights along rows and columns, not of all tokens on all tokens")
    if config.num_classes == 0:
        raise ValueError("the model has no head, so there is no class to ask about")
    if model.training:
        raise ValueError("the model is in training mode, where dropout may change what it sees: call eval() first")
    parts: list[Tensor] = []
    heads: list[Tensor] = []
    blocks = [block for block in model.blocks if isinstance(block, Block)]
    with ExitStack() as hooks, torch.enable_grad():
        for block in blocks:
            hooks.callback(block.attn.qkv.register_forward_hook(lambda _, __, qkv: parts.append(qkv.detach())).remove)
            hooks.callback(block.attn.proj.register_forward_pre_hook(lambda _, given: heads.append(given[0])).remove)
        # The graph has to begin somewhere, also where no weight of the model learns.
        logits = model(images.detach().clone().requires_grad_())
        asked = logits.argmax(1) if classes is None else classes
        if not bool(((asked >= 0) & (asked < logits.shape[1])).all()):
            raise ValueError(f"classes {asked.tolist()}: the model has {logits.shape[1]}, 0 to {logits.shape[1] - 1}")
        found = torch.autograd.grad(logits.gather(1, asked[:, None]).sum(), heads)
    tokens = config.num_tokens
    identity = torch.eye(tokens, dtype=torch.float64, device=images.device)
    relevance = identity.expand(len(images), -1, -1)
    for index, (block, qkv, gradient) in enumerate(zip(blocks, parts, found, strict=True)):
        relevance = relevance + _weighted(index, block, qkv, gradient) @ relevance
    row = (relevance - identity)[:, pooled_queries(model).to(images.device), config.num_prefix_tokens :].mean(1)
    return row.view(len(images), *config.grid)


def _weighted(index: int, block: Block, qkv: Tensor, gradient: Tensor) -> Tensor:
    """(B, N, N): the mean over heads of what is positive in the weights times their gradient."""
    attn = block.attn
    query, key, value = qkv.unflatten(-1, (3, attn.num_heads, attn.head_dim)).permute(2, 0, 3, 1, 4).unbind(0)
    layer = LayerAttention(index, query, key, attn.relative_positions)
    of_heads = gradient.unflatten(-1, (attn.num_heads, attn.head_dim)).transpose(1, 2).double()
    mean = torch.zeros(*qkv.shape[:2], qkv.shape[1], dtype=torch.float64, device=qkv.device)
    for head in range(attn.num_heads):
        for start, rows in layer.parts(head):
            stop = start + rows.shape[1]
            slope = of_heads[:, head, start:stop] @ value[:, head].double().mT
            mean[:, start:stop] += (rows * slope).clamp_min(0) / attn.num_heads
    return mean
