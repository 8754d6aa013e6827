"""Names of tensors in the files of Hugging Face transformers, for the families that share them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vitrail.errors import WeightsError
from vitrail.models.config import ViTConfig
from vitrail.weights.adapters.huggingface_fields import Shapes
from vitrail.weights.adapters.layer_entries import linear, position_codec
from vitrail.weights.adapters.mapping import STACKED, Entry
from vitrail.weights.checkpoint import Checkpoint

# Parts of a block as files have them, and as transformers 5 names them in memory (state_dict) since it renamed them.
OLD = {
    "query": "attention.attention.query",
    "key": "attention.attention.key",
    "value": "attention.attention.value",
    "proj": "attention.output.dense",
}
NEW = {
    "query": "attention.q_proj",
    "key": "attention.k_proj",
    "value": "attention.v_proj",
    "proj": "attention.o_proj",
}


@dataclass(frozen=True)
class Spelling:
    """How one file names things."""

    encoder: str  # "vit." before embeddings and the last norm; "" in a bare model
    layer: str  # "vit.encoder.layer.{}."
    parts: Mapping[str, str]  # OLD or NEW

    @property
    def is_new(self) -> bool:
        return self.parts is NEW


def written_spelling(encoder: str) -> Spelling:
    """That of files which transformers 4 and 5 both read."""
    return Spelling(encoder, f"{encoder}encoder.layer.{{}}.", OLD)


def find_spelling(checkpoint: Checkpoint) -> Spelling:
    """Raises WeightsError where a file has no embeddings or no blocks."""
    token = "embeddings.cls_token"
    found = min((name for name in checkpoint.tensors if name.endswith(token)), key=len, default=None)
    if found is None:
        raise WeightsError(f"{checkpoint.where}: no tensor is named ...{token}; a model without it is not read")
    encoder = found.removesuffix(token)
    # The last: ViT-MSN's classifiers as transformers 5 writes them.
    for layer in (f"{encoder}encoder.layer.{{}}.", f"{encoder}layers.{{}}.", "encoder.layer.{}."):
        for parts in (OLD, NEW):
            if f"{layer.format(0)}{parts['query']}.weight" in checkpoint.tensors:
                return Spelling(encoder, layer, parts)
    raise WeightsError(f"{checkpoint.where}: no tensor is named {encoder}encoder.layer.0.{OLD['query']}.weight")


def read_shapes(checkpoint: Checkpoint, spelling: Spelling, second_mlp_layer: str) -> Shapes:
    """What the tensors tell of the architecture.

    Args:
        second_mlp_layer: the part of a block ("output.dense") whose inputs are the MLP's hidden features.
    Raises:
        WeightsError: tensors that are missing or of another rank.
    """
    first = spelling.layer.format(0)
    patches = _shape(checkpoint, f"{spelling.encoder}embeddings.patch_embeddings.projection.weight", 4)
    if patches[2] != patches[3]:
        raise WeightsError(
            f"{checkpoint.where}: patches of {patches[2]}x{patches[3]} pixels; vitrail reads square ones"
        )
    query = f"{first}{spelling.parts['query']}"
    return Shapes(
        width=patches[0],
        depth=checkpoint.count(f"{spelling.layer}{spelling.parts['query']}.weight"),
        mlp_size=_shape(checkpoint, f"{first}{second_mlp_layer}.weight", 2)[1],
        patch_size=patches[2],
        in_channels=patches[1],
        attention_width=_shape(checkpoint, f"{query}.weight", 2)[0],
        qkv_bias=f"{query}.bias" in checkpoint.tensors,
        position_rows=_shape(checkpoint, f"{spelling.encoder}embeddings.position_embeddings", 3)[1],
    )


def _shape(checkpoint: Checkpoint, name: str, rank: int) -> tuple[int, ...]:
    shape = checkpoint.shape(name)
    if shape is None:
        raise WeightsError(f"{checkpoint.where}: '{name}' is missing")
    if len(shape) != rank:
        raise WeightsError(f"{checkpoint.where}: '{name}' is {shape}, which must have {rank} dimensions")
    return shape


def embedding_entries(config: ViTConfig, spelling: Spelling, *, rows: int, folded: int = 0) -> list[Entry]:
    """Class token, positions, patch embedding.

    Args:
        rows: rows of the file's position table that are no patches'.
        folded: of those, how many belong to tokens that take them up themselves.
    """
    place = f"{spelling.encoder}embeddings."
    codec = position_codec(config.num_position_prefix, rows, folded)
    return [
        Entry("cls_token", (f"{place}cls_token",)),
        Entry("pos_embed", (f"{place}position_embeddings",), codec),
        *linear("patch_embed.proj", f"{place}patch_embeddings.projection"),
    ]


def block_entries(
    config: ViTConfig, spelling: Spelling, index: int, names: Mapping[str, str], proj_bias: Entry | None = None
) -> list[Entry]:
    """One block without its LayerScale and MLP.

    Args:
        names: native norm -> its name in the file ({"norm1": "layernorm_before"}).
        proj_bias: in place of the usual entry.
    """
    block, layer = f"blocks.{index}.", spelling.layer.format(index)
    parts = [f"{layer}{spelling.parts[name]}" for name in ("query", "key", "value")]
    kinds = ("weight", "bias") if config.qkv_bias else ("weight",)
    proj = linear(f"{block}attn.proj", f"{layer}{spelling.parts['proj']}")
    if proj_bias is not None:
        proj[1] = proj_bias
    return [
        *(entry for native, name in names.items() for entry in linear(f"{block}{native}", f"{layer}{name}")),
        *(Entry(f"{block}attn.qkv.{kind}", tuple(f"{part}.{kind}" for part in parts), STACKED) for kind in kinds),
        *proj,
    ]
