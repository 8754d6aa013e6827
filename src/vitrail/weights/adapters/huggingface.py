"""Models in the layouts of Hugging Face transformers: which of its classes can say a model."""

from __future__ import annotations

from vitrail.errors import WeightsError
from vitrail.models.config import ViTConfig
from vitrail.weights.adapters import huggingface_deit, huggingface_dinov2, huggingface_vit
from vitrail.weights.adapters.base import Model, Writing

# Field -> its only values in every class of transformers that is written.
_ONLY = {
    "attention": ("global",),
    "class_token": (True,),
    "pooling": ("token", "token_and_gap"),
    "position_embedding": ("learned_1d",),
    "position_placement": ("input",),
    "pre_logits_size": (None,),
    "block_style": ("pre_norm",),
    "patch_norm": (False,),
    "patch_bias": (True,),
    "input_norm": (False,),
    "stem": ("patch",),
}


def write(model: Model[ViTConfig]) -> Writing:
    """ViT where it will do; DeiT for distilled models; DINOv2 for LayerScale, registers and gated MLPs.

    Raises:
        WeightsError: none of them can say the model; names the field.
    """
    config = model.config
    _require_sayable(config)
    if huggingface_deit.fits(config):
        return huggingface_deit.write(model)
    if config.distillation_token:
        raise WeightsError(
            f"num_register_tokens {config.num_register_tokens} and layer_scale_init {config.layer_scale_init} beside a"
            " distillation_token: no class of transformers has these together"
        )
    needs_more = config.layer_scale_init is not None or config.num_register_tokens or config.activation == "swiglu"
    if needs_more or (config.pooling == "token_and_gap"):
        return huggingface_dinov2.write(model)
    return huggingface_vit.write(model)


def _require_sayable(config: ViTConfig) -> None:
    for name, sayable in _ONLY.items():
        value = getattr(config, name)
        if value not in sayable:
            raise WeightsError(
                f"{name} {value!r}: transformers' ViT, DeiT and DINOv2 know {' and '.join(map(repr, sayable))} only."
                " Write timm's layout or a bundle of vitrail"
            )
    if config.attention_head_dim * config.num_heads != config.width:
        raise WeightsError(
            f"head_dim {config.attention_head_dim} of {config.num_heads} heads for width {config.width}: transformers'"
            " ViT, DeiT and DINOv2 divide the width by the heads. Write timm's layout or a bundle of vitrail"
        )
    if config.pooling == "token_and_gap" and not config.num_classes:
        raise WeightsError(
            "pooling 'token_and_gap' without a head (num_classes 0): the bare models of transformers answer with tokens"
        )
