"""Hugging Face DeiT, whose sequence always has a distillation token: facebook/deit-base-distilled-patch16-224.

DeiTForImageClassificationWithTeacher answers with the mean of two heads (Touvron et al. 2021, section 4), which is the
native distillation token. DeiTForImageClassification has the token too, but answers from the class token alone: to it
the distillation token is a register that has a position. Native registers have none, so the position is added to the
token as the file is read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import Tensor

from vitrail.models.config import ViTConfig
from vitrail.weights.adapters.base import FAMILY_RULE, Adapter, Description, Model, Writing
from vitrail.weights.adapters.huggingface_fields import (
    FROM_PRETRAINED,
    architecture,
    build_config,
    read_config,
    read_labels,
    recognise,
    write_config,
)
from vitrail.weights.adapters.huggingface_names import (
    Spelling,
    block_entries,
    embedding_entries,
    find_spelling,
    read_shapes,
    written_spelling,
)
from vitrail.weights.adapters.huggingface_preprocessor import IMAGENET_CUT, read_preprocessing, write_preprocessing
from vitrail.weights.adapters.huggingface_vit import DEFAULTS, NORMS, mlp_entries, mlp_names
from vitrail.weights.adapters.layer_entries import linear
from vitrail.weights.adapters.mapping import Codec, Entry
from vitrail.weights.adapters.shape_rules import SHAPES
from vitrail.weights.checkpoint import Checkpoint

NAME = "huggingface_deit"
_UNUSED = {
    r"(deit\.)?pooler\.dense\.(weight|bias)": "the pooler is not used by the classifier",
    r"(deit\.)?embeddings\.mask_token": "the mask token of the pre-training",
    r"decoder\..*": "the decoder of the pre-training",
}
_REGISTER = (
    "the head reads the class token alone, though there is a distillation token: it is kept as a register, with its"
    " position added to it"
)
_FEATURES = "there is no head; the features are the mean of the class and the distillation token"


def _with_position(token: Tensor, table: Tensor) -> Tensor:
    return token + table[:, 1:2]


# Back, the register is the token and its position zero; the table itself is written by the positions' own entry, which
# comes later and so replaces what stands here.
REGISTER = Codec(_with_position, lambda token: (token, token.new_zeros(0)))


def describe(checkpoint: Checkpoint) -> Description:
    said = read_config(checkpoint, {"deit": DEFAULTS}, "deit")
    spelling = find_spelling(checkpoint)
    shapes = read_shapes(checkpoint, spelling, mlp_names(spelling)[1])
    said.agree("intermediate_size", shapes.mlp_size)
    fields, sources = architecture(checkpoint, said, shapes, prefix_rows=2, heads_of_64=True)
    head, heads = checkpoint.shape("classifier.weight"), checkpoint.shape("cls_classifier.weight")
    tokens = {"num_register_tokens": 1} if head else {"distillation_token": True}
    num_classes = (head or heads or (0,))[0]
    config = build_config(checkpoint.where, {**fields, **tokens, "num_classes": num_classes})
    preprocessing, picture_sources, notes = read_preprocessing(
        checkpoint, config.image_size, config.in_channels, IMAGENET_CUT
    )
    labels, label_source = read_labels(checkpoint, num_classes)
    sources |= {**picture_sources, "labels": label_source, "pooling": FAMILY_RULE, "class_token": SHAPES}
    told = (_REGISTER,) if head else () if heads else (_FEATURES,)
    return Description(config, preprocessing, labels, sources, notes=(*told, *notes), resampling="bicubic")


def entries(config: ViTConfig, checkpoint: Checkpoint) -> Sequence[Entry]:
    return _entries(config, find_spelling(checkpoint))


def _entries(config: ViTConfig, spelling: Spelling) -> list[Entry]:
    token = f"{spelling.encoder}embeddings.distillation_token"
    if config.distillation_token:
        found = [Entry("dist_token", (token,)), *embedding_entries(config, spelling, rows=2)]
    else:
        table = f"{spelling.encoder}embeddings.position_embeddings"
        register = Entry("reg_token", (token, table), REGISTER)
        found = [register, *embedding_entries(config, spelling, rows=2, folded=1)]
    for index in range(config.depth):
        found += [*block_entries(config, spelling, index, NORMS), *mlp_entries(spelling, index)]
    found += linear("norm", f"{spelling.encoder}layernorm")
    if config.num_classes and config.distillation_token:
        found += [*linear("head", "cls_classifier"), *linear("head_dist", "distillation_classifier")]
    elif config.num_classes:
        found += linear("head", "classifier")
    return found


def unused(name: str) -> str | None:
    return next((reason for pattern, reason in _UNUSED.items() if re.fullmatch(pattern, name)), None)


def fits(config: ViTConfig) -> bool:
    """Whether transformers has DeiT for a model: a distillation token, or one register that no other class has."""
    if config.layer_scale_init is not None or config.activation == "swiglu":
        return False
    if config.distillation_token:
        return config.num_register_tokens == 0
    return config.num_register_tokens == 1 and config.pooling == "token" and config.num_classes > 0


def write(model: Model[ViTConfig]) -> Writing:
    """With two heads, with one head beside which the distillation token is a register, or DeiTModel without any."""
    config = model.config
    kind, how_to_load = "DeiTForImageClassification", FROM_PRETRAINED
    if config.distillation_token:
        kind = "DeiTForImageClassificationWithTeacher"
    if not config.num_classes:
        kind, how_to_load = "DeiTModel", "transformers.DeiTModel.from_pretrained('{folder}', add_pooling_layer=False)"
    return Writing(
        weights_file="model.safetensors",
        entries=_entries(config, written_spelling("deit." if config.num_classes else "")),
        files={
            "config.json": {**write_config(model, "deit", kind), "intermediate_size": config.mlp_size},
            "preprocessor_config.json": write_preprocessing(model.preprocessing),
        },
        how_to_load=how_to_load,
    )


ADAPTER = Adapter(
    name=NAME,
    title="Hugging Face DeiT",
    typical=(
        "embeddings.cls_token",
        "embeddings.distillation_token",
        "embeddings.position_embeddings",
        "embeddings.patch_embeddings.projection.weight",
        "encoder.layer.{}.attention.attention.query.weight",
        "encoder.layer.{}.layernorm_before.weight",
    ),
    recognise=lambda checkpoint: recognise(checkpoint, NAME),
    describe=describe,
    entries=entries,
    unused=unused,
)
