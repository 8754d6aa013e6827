"""From tokens to one vector a picture."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vitrail.layers.attention import attend
from vitrail.layers.initialization import xavier_uniform_, zero_bias_
from vitrail.layers.mlp import Mlp


def mean_of_patches(tokens: Tensor, num_prefix_tokens: int) -> Tensor:
    """(batch, tokens, width) -> (batch, width): the mean over the patch tokens; prefix tokens are left out."""
    return tokens[:, num_prefix_tokens:].mean(dim=1)


class AttentionPool(nn.Module):
    """Multi-head attention pooling with a learned probe ("MAP"; Zhai et al. 2022, "Scaling vision transformers").

    The probe asks, the tokens answer; then an MLP with its norm and residual. There is no residual from the probe
    around the attention. Keys follow timm's `attn_pool`.

    Args:
        width: features of the tokens.
        num_heads, head_dim: as in `Attention`.
        mlp: the MLP.
        layer_norm_eps: of the norm before the MLP.
    """

    def __init__(self, width: int, num_heads: int, head_dim: int, mlp: Mlp, *, layer_norm_eps: float = 1e-6) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.latent = nn.Parameter(torch.zeros(1, 1, width))
        self.q = nn.Linear(width, num_heads * head_dim)
        self.kv = nn.Linear(width, 2 * num_heads * head_dim)
        self.proj = nn.Linear(num_heads * head_dim, width)
        self.norm = nn.LayerNorm(width, eps=layer_norm_eps)
        self.mlp = mlp

    def initialize(self, generator: torch.Generator | None) -> None:
        """Xavier uniform probe and kernels, key and value each on its own; biases zero (big_vision's MAPHead)."""
        nn.init.xavier_uniform_(self.latent.detach()[0], generator=generator)
        xavier_uniform_(self.q.weight, generator)
        xavier_uniform_(self.kv.weight, generator, num_kernels=2)
        xavier_uniform_(self.proj.weight, generator)
        for layer in (self.q, self.kv, self.proj):
            zero_bias_(layer)

    def forward(self, tokens: Tensor) -> Tensor:
        """(batch, tokens, width) -> (batch, width)."""
        batch, num_tokens, _ = tokens.shape
        query = self.q(self.latent.expand(batch, -1, -1))
        query = query.reshape(batch, 1, self.num_heads, self.head_dim).transpose(1, 2)
        keys_values = self.kv(tokens).reshape(batch, num_tokens, 2, self.num_heads, self.head_dim)
        key, value = keys_values.permute(2, 0, 3, 1, 4).unbind(0)
        pooled = self.proj(attend(query, key, value).transpose(1, 2).flatten(2))
        pooled = pooled + self.mlp(self.norm(pooled))
        return pooled[:, 0]
