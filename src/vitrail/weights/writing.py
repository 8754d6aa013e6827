"""From a model to the files of a published layout, and the proof that they say the same model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vitrail.errors import WeightsError, did_you_mean
from vitrail.models.axial_resnet_config import AxialResNetConfig
from vitrail.models.build import Model as AnyModel
from vitrail.models.kinds import ModelConfig
from vitrail.models.resnet_config import ResNetConfig
from vitrail.models.timm_config import TimmConfig
from vitrail.storage import new_folder, sha256_of, to_json, write_json
from vitrail.weights.adapters import RESNET_WRITERS, WRITERS
from vitrail.weights.adapters.base import Model, Writing
from vitrail.weights.adapters.mapping import from_native
from vitrail.weights.bundle import Bundle, BundleConfig, build_model
from vitrail.weights.card import model_card
from vitrail.weights.certificate import Check
from vitrail.weights.checkpoint import open_checkpoint
from vitrail.weights.files import write_tensors
from vitrail.weights.reading import read_checkpoint
from vitrail.weights.sidecar import SIDECAR, Sidecar, place, read_sidecar, write_sidecar

_LIBRARIES = {"timm": "timm", "huggingface": "transformers"}  # as the hub calls them
NUM_PICTURES = 2  # that logits are compared on


@dataclass(frozen=True)
class Written:
    """What `write_layout` left."""

    path: Path  # the folder, or the one file
    weights: Path
    how_to_load: str  # in the peer's own code
    checks: tuple[Check, ...]


def write_layout(bundle: Bundle, layout: str, target: Path) -> Written:
    """Write a model in a published layout, read it again, and compare.

    Args:
        layout: a name of `WRITERS`.
        target: a folder that is not there yet; or, with the ending of the layout's weights (.npz, .safetensors), one
            file, without the other files of the layout.
    Raises:
        WeightsError: the layout cannot say this model, the target is there or cannot be written, or what was written
            does not read back bit for bit.
    """
    if layout not in WRITERS:
        raise WeightsError(f"unknown layout '{layout}'.{did_you_mean(layout, WRITERS)} Known: {', '.join(WRITERS)}.")
    if target.exists():
        raise WeightsError(f"{target}: is there already and is not overwritten; name another place")
    writing = _writing(bundle.config, layout)
    try:
        weights = _write(bundle, layout, writing, target)
    except OSError as error:
        raise WeightsError(f"{target}: cannot be written ({error.strerror or error})") from error
    checks = (_read_again(bundle, target), *_checks_of_assumptions(bundle, writing))
    how = writing.how_to_load.format(folder=target.absolute(), file=weights.absolute())
    return Written(target, weights, how, checks)


def _writing(config: BundleConfig, layout: str) -> Writing:
    if isinstance(config.model, AxialResNetConfig | TimmConfig):
        raise WeightsError(f"layout '{layout}' has no place for a {config.model.family}; `--to vitrail` has")
    if not isinstance(config.model, ResNetConfig):
        return WRITERS[layout](Model(config.model, config.preprocessing, config.labels))
    if layout not in RESNET_WRITERS:
        known = ", ".join(RESNET_WRITERS)
        raise WeightsError(f"layout '{layout}' has no place for a BiT ResNet; {known} have, and `--to vitrail`")
    return RESNET_WRITERS[layout](Model(config.model, config.preprocessing, config.labels))


def _write(bundle: Bundle, layout: str, writing: Writing, target: Path) -> Path:
    tensors = from_native(bundle.model.state_dict(), writing.entries)
    container = Path(writing.weights_file).suffix
    if target.suffix == container:
        partial = target.with_name(f".{target.name}.partial")
        try:
            partial.parent.mkdir(parents=True, exist_ok=True)
            _write_weights(partial, container, tensors)
            write_sidecar(place(target), replace(_sidecar(bundle, layout, partial), file=target.name))
            partial.rename(target)
        finally:
            partial.unlink(missing_ok=True)
        return target
    with new_folder(target) as folder:
        _write_weights(folder / writing.weights_file, container, tensors)
        for name, values in writing.files.items():
            write_json(folder / name, values)
        write_sidecar(folder / SIDECAR, _sidecar(bundle, layout, folder / writing.weights_file))
        (folder / "README.md").write_text(_card(bundle, layout, writing), encoding="utf-8", errors="backslashreplace")
    return target / writing.weights_file


def _card(bundle: Bundle, layout: str, writing: Writing) -> str:
    folder = "THIS_FOLDER"
    how = writing.how_to_load.format(folder=folder, file=f"{folder}/{writing.weights_file}")
    return model_card(bundle.config, library=_LIBRARIES.get(layout, "vitrail"), how_to_load=how)


def _write_weights(path: Path, container: str, tensors: Mapping[str, Tensor]) -> None:
    if container == ".npz":
        with path.open("wb") as file:
            np.savez(file, **{name: tensor.numpy() for name, tensor in tensors.items()})  # type: ignore[arg-type]
    else:
        write_tensors(path, tensors)


def _sidecar(bundle: Bundle, layout: str, weights: Path) -> Sidecar:
    config = bundle.config
    return Sidecar(
        layout=layout,
        file=weights.name,
        sha256=sha256_of(weights),
        model=config.model,
        labels=config.labels,
        preprocessing=config.preprocessing,
        resampling=config.resampling,
        patch_resampling=config.patch_resampling,
        licence=config.licence,
        temperature=config.temperature,
        provenance=json.loads(to_json(config.provenance)),
    )


def _read_again(bundle: Bundle, target: Path) -> Check:
    """Every tensor bit for bit, and the logits."""
    again = read_checkpoint(open_checkpoint(target), target, known=read_sidecar(target))
    if again.config.model != bundle.config.model or again.config.preprocessing != bundle.config.preprocessing:
        raise WeightsError(f"{target}: read again, it says another model; this is a mistake of vitrail, report it")
    tensors = again.model.state_dict()
    for name, tensor in bundle.model.state_dict().items():
        if not torch.equal(tensors[name], tensor):
            raise WeightsError(f"{target}: '{name}' does not read back bit for bit; do not use what was written")
    return compare(bundle.model, answers(again.model), "the written files read again")


def _checks_of_assumptions(bundle: Bundle, writing: Writing) -> list[Check]:
    """What the peer's own code will answer where the layout's files cannot tell it everything."""
    if not writing.assumed:
        return []
    config = bundle.config.model
    said = ", ".join(f"{name} {value} in place of {getattr(config, name)}" for name, value in writing.assumed.items())
    other = build_model(
        replace(config, **writing.assumed), bundle.model.state_dict(), "the model as the layout says it"
    )
    return [compare(bundle.model, answers(other), f"what the layout's own code computes, which takes {said},")]


def pictures(config: ModelConfig) -> Tensor:
    """What logits are compared on, normal noise of a fixed seed: (NUM_PICTURES, channels, height, width)."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(NUM_PICTURES, config.in_channels, *config.image_size, generator=generator)


@torch.inference_mode()
def answers(model: AnyModel) -> Tensor:
    """The model's logits, or features without a head, for `pictures`: (NUM_PICTURES, K)."""
    return model(pictures(model.config))


def compare(model: AnyModel, reference: Tensor, against: str) -> Check:
    """Raises WeightsError where either gives numbers that are not finite."""
    found = answers(model)
    if not (found.isfinite().all() and reference.isfinite().all()):
        raise WeightsError(
            f"the model, or {against}, answers with numbers that are not finite; its weights are damaged"
        )
    return Check(
        against=against,
        largest_difference=float((found - reference).abs().max()),
        largest_logit=float(reference.abs().max()),
        num_pictures=len(reference),
    )
