"""What an adapter is: everything that one published layout is known by, in one file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from vitrail.data.config import Preprocessing
from vitrail.layers.patch_embed import PatchResampleMethod
from vitrail.layers.position_embed import ResampleMethod
from vitrail.models.config import ViTConfig
from vitrail.models.kinds import ModelConfig
from vitrail.models.resnet_config import ResNetConfig
from vitrail.weights.adapters.mapping import Entry
from vitrail.weights.checkpoint import Checkpoint

Config = TypeVar("Config", bound=ModelConfig, covariant=True)

FAMILY_RULE = "the family's rule"


@dataclass(frozen=True)
class Description:
    """What a checkpoint is, as far as its files and its family's rules say.

    Attributes:
        config: the architecture.
        preprocessing: what evaluation did to pictures when these weights were published.
        labels: as many as config.num_classes, each once.
        sources: field of ViTConfig or of Preprocessing, or "labels" -> where its value was taken from ("config.json",
            "the shape of head.weight"); what is not named here was taken from `default_source`.
        notes: sentences on what else someone should know ("the heads of class and distillation token are averaged").
        resampling: how the family stretches its position table to another grid.
        patch_resampling: how it resizes its patch kernel.
    """

    config: ModelConfig
    preprocessing: Preprocessing
    labels: tuple[str, ...]
    sources: Mapping[str, str] = field(default_factory=dict)
    default_source: str = FAMILY_RULE
    notes: tuple[str, ...] = ()
    resampling: ResampleMethod = "bilinear_align_corners"
    patch_resampling: PatchResampleMethod = "bilinear"
    licence: str | None = None


@dataclass(frozen=True)
class Model(Generic[Config]):
    """What a writer is given: a model to be said in another layout."""

    config: Config
    preprocessing: Preprocessing
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Writing:
    """How a layout says a model.

    Attributes:
        weights_file: "model.safetensors" or "model.npz": the ending decides the container.
        entries: of all native tensors, or of those the layout has a place for.
        files: JSON files beside the weights: name -> value. What the peer's own loader needs.
        assumed: fields of ViTConfig that the layout's files cannot say, with the value that its own code takes
            ({"activation": "gelu_tanh"}); the certificate measures what that does to the logits.
        how_to_load: one line of the peer's code that loads the result; {folder} and {file} stand for the paths.
    """

    weights_file: str
    entries: Sequence[Entry]
    files: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    assumed: Mapping[str, Any] = field(default_factory=dict)
    how_to_load: str = ""


@dataclass(frozen=True)
class Adapter:
    """One published layout.

    Attributes:
        name: key in `ADAPTERS`, and what `--from` takes.
        title: for people ("Hugging Face ViT").
        typical: names of tensors that every file of the family has, with {} for the number of a block; by them an
            unknown file is told which families are nearest.
        recognise: why the checkpoint is of this family, as a clause ("it has 'decoder_embed.weight'"); None: it is not.
        describe: what it is. Raises WeightsError for contradictions, and for what this version cannot compute.
        entries: how native tensors are made of the checkpoint's; exactly one entry for each native tensor.
        unused: why a tensor that no entry takes is no loss; None: it is one, and the load stops.
    """

    name: str
    title: str
    typical: tuple[str, ...]
    recognise: Callable[[Checkpoint], str | None]
    describe: Callable[[Checkpoint], Description]
    entries: Callable[[Any, Checkpoint], Sequence[Entry]]  # of the kind of config that `describe` gives
    unused: Callable[[str], str | None] = lambda name: None


# Model -> Writing; raises WeightsError for an architecture that the layout cannot say, naming the field.
Writer = Callable[[Model[ViTConfig]], Writing]
ResNetWriter = Callable[[Model[ResNetConfig]], Writing]
