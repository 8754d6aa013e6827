"""A backbone's features of pictures: computed once, kept on disk, and mapped into memory ever after.

One folder for each (weights, preprocessing, data, pictures, kind of features), named after the SHA-256 of all of them:
features.npy (N, D) float32, and record.json with what it was made from and the checksum of the former. A folder gets
its name when it is whole, so what a kill leaves behind is never taken for features.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vitrail.configuration import to_dict
from vitrail.data.loader import Loader
from vitrail.data.transforms import EvaluationTransform
from vitrail.errors import ConfigError, DataError
from vitrail.layers.pooling import mean_of_patches
from vitrail.models.build import Model
from vitrail.models.vit import VisionTransformer
from vitrail.storage import cache_folder, sha256_of, to_json, write_file
from vitrail.tasks.inference import ask_in_batches
from vitrail.tasks.prepare import PreparedData
from vitrail.training.events import Events
from vitrail.weights.bundle import Bundle

FeatureKind = Literal["pre_logits", "class_token", "patch_mean", "class_token_and_patch_mean", "last_4_class_tokens"]
FORMAT = "vitrail-features-1"
ARRAY, RECORD = "features.npy", "record.json"
ABANDONED_SECONDS = 24 * 3600  # after which a partial folder belongs to nobody


@dataclass(frozen=True)
class FeatureRows:
    """Features of those pictures that could be read, in the order asked for."""

    indices: npt.NDArray[np.int64]  # (N,) into the source
    values: npt.NDArray[np.float32]  # (N, D); mapped from the disk where it came from the cache
    from_cache: bool


def extract_features(
    bundle: Bundle,
    prepared: PreparedData,
    indices: npt.NDArray[np.int64],
    events: Events,
    *,
    kind: FeatureKind = "pre_logits",
    layer: int | None = None,
    batch_size: int = 64,
    cache: Path | None = None,
) -> FeatureRows:
    """The features of the pictures `indices` (N,), from the cache where they are there already.

    Args:
        kind: "pre_logits": what the model's head sees; of the tokens after the encoder "class_token", "patch_mean", the
            mean over the patches, or both side by side, "class_token_and_patch_mean"; "last_4_class_tokens": those of
            the last four blocks, each after the final norm. The last two are DINO's linear probe (Caron et al. 2021)
            for its larger and its smaller models.
        layer: a block of a Vision Transformer, from 0, or from -1 backwards: the same of the tokens that it gives.
            None: of those after the final norm.
        cache: its folder; None: `cache_folder("features")`. Where it cannot be written, the features stay in memory,
            and it is said.
    Raises:
        ConfigError: the model has no class token, or no such block. DataError: none of the pictures can be read.
    """
    forward = forward_features_of(bundle.model, kind, layer)
    key, made_from = _key(bundle, prepared, indices, kind if layer is None else f"{kind} of block {layer}")
    folder = (cache_folder("features") if cache is None else cache) / key
    found = _read(folder, indices, events)
    if found is not None:
        return found
    preprocessing = bundle.config.preprocessing
    loader = Loader(prepared.source, indices, EvaluationTransform(preprocessing), batch_size=batch_size, seed=0)
    store = _Store(folder, len(indices), events)
    kept: list[npt.NDArray[np.int64]] = []
    done = 0
    try:
        for answers in ask_in_batches(bundle.model, loader, preprocessing, forward=forward):
            for _, message in answers.broken:
                events.warning(f"left out: {message}")
            kept.append(answers.indices)
            store.append(answers.values)
            done += len(answers.indices) + len(answers.broken)
            events.progress("features", done, len(indices))
        rows = np.concatenate(kept)
        if not len(rows):
            raise DataError(f"{prepared.source.spec}: none of the pictures can be read, so they have no features")
        return FeatureRows(rows, store.finish(made_from, np.flatnonzero(np.isin(indices, rows))), False)
    finally:
        store.discard()


def weights_digest(model: Model) -> str:
    """SHA-256 over the names, shapes and values of its tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(memoryview(tensor.detach().cpu().contiguous().flatten().numpy()).cast("B"))
    return digest.hexdigest()


def forward_features_of(model: Model, kind: FeatureKind, layer: int | None = None) -> Callable[[Tensor], Tensor]:
    """(B, C, H, W) normalised pictures -> their features (B, D); `kind` and `layer` as in `extract_features`.

    Raises:
        ConfigError: the model has no class token, or no such block.
    """
    tokens_of = model.forward_features if layer is None else _tokens_after(model, layer)
    if kind == "pre_logits":
        return lambda images: model.forward_head(tokens_of(images), pre_logits=True)
    if kind not in get_args(FeatureKind):
        raise ConfigError(f"features '{kind}': there are {', '.join(get_args(FeatureKind))}")
    if kind != "patch_mean" and not getattr(model.config, "class_token", False):
        raise ConfigError(f"features '{kind}': this model has no class token; 'pre_logits' is what its head sees")
    if not isinstance(model, VisionTransformer):
        raise ConfigError(f"features '{kind}': a {model.config.family} has no tokens; 'pre_logits' it has")
    if kind == "last_4_class_tokens":
        return _last_class_tokens(model, layer)
    if kind == "class_token":
        return lambda images: tokens_of(images)[:, 0]
    num_prefix = model.config.num_prefix_tokens
    if kind == "patch_mean":
        return lambda images: mean_of_patches(tokens_of(images), num_prefix)

    def both(images: Tensor) -> Tensor:
        tokens = tokens_of(images)
        return torch.cat([tokens[:, 0], mean_of_patches(tokens, num_prefix)], dim=1)

    return both


def _last_class_tokens(model: VisionTransformer, layer: int | None) -> Callable[[Tensor], Tensor]:
    last = range(max(0, model.config.depth - 4), model.config.depth)
    if layer is not None:
        raise ConfigError(f"layer {layer}: features 'last_4_class_tokens' are of four blocks; leave it out")

    def tokens(images: Tensor) -> Tensor:
        stages = model.forward_intermediates(images, last)
        return torch.cat([model.norm(stages[f"blocks.{index}"])[:, 0] for index in last], dim=1)

    return tokens


def _tokens_after(model: Model, layer: int) -> Callable[[Tensor], Tensor]:
    if not isinstance(model, VisionTransformer):
        raise ConfigError(f"layer {layer}: only the blocks of a Vision Transformer can be chosen")
    depth = model.config.depth
    if not -depth <= layer < depth:
        raise ConfigError(f"layer {layer}: the model has {depth} blocks, 0 to {depth - 1}")
    return lambda images: model.forward_intermediates(images, [layer])[f"blocks.{layer % depth}"]


def _key(
    bundle: Bundle, prepared: PreparedData, indices: npt.NDArray[np.int64], kind: str
) -> tuple[str, dict[str, Any]]:
    """SHA-256 of everything that decides the numbers, and that everything as JSON."""
    keys = hashlib.sha256("\0".join(prepared.source.key(int(index)) for index in indices).encode("utf-8", "replace"))
    made_from = {
        "format": FORMAT,
        "weights": weights_digest(bundle.model),
        "model": to_dict(bundle.config.model),
        "preprocessing": to_dict(bundle.config.preprocessing),
        "data": prepared.fingerprint,
        "pictures": keys.hexdigest(),
        "features": kind,
    }
    return hashlib.sha256(json.dumps(made_from, sort_keys=True, default=list).encode()).hexdigest(), made_from


def _read(folder: Path, indices: npt.NDArray[np.int64], events: Events) -> FeatureRows | None:
    """What the cache has; None where it has nothing, or nothing whole, which is said and removed."""
    if not folder.exists():
        return None
    try:
        record = json.loads((folder / RECORD).read_bytes())
        if sha256_of(folder / ARRAY) != record["sha256"]:
            raise ValueError(f"{ARRAY} is not what was written")
        values = np.load(folder / ARRAY, mmap_mode="r", allow_pickle=False)
        rows = indices[np.array(record["read"], dtype=np.int64)]
        if len(values) != len(rows):
            raise ValueError(f"{len(values)} rows for {len(rows)} pictures")
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        events.warning(f"{folder}: these cached features are damaged ({error}); they are computed again")
        shutil.rmtree(folder, ignore_errors=True)
        return None
    events.note(f"features: from the cache ({len(rows):,} pictures, {_size(values)})")
    return FeatureRows(rows, values, True)


class _Store:
    """Rows that arrive in batches: to a file of the cache or, where that cannot be, to memory."""

    def __init__(self, folder: Path, num_rows: int, events: Events) -> None:
        self._folder, self._num_rows, self._events = folder, num_rows, events
        self._partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
        self._array: npt.NDArray[np.float32] | None = None
        self._done = 0

    def append(self, values: npt.NDArray[np.float32]) -> None:
        if not len(values):
            return
        if self._array is None:
            self._array = self._open((self._num_rows, values.shape[1]))
        self._array[self._done : self._done + len(values)] = values
        self._done += len(values)

    def _open(self, shape: tuple[int, int]) -> npt.NDArray[np.float32]:
        try:
            self._folder.parent.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(self._folder.parent)
            self._partial.mkdir(exist_ok=True)
            array = np.lib.format.open_memmap(self._partial / ARRAY, mode="w+", dtype=np.float32, shape=shape)
            # A map of a file with holes dies of a full disk without a word; better to hear of it now.
            if hasattr(os, "posix_fallocate"):
                with (self._partial / ARRAY).open("r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, (self._partial / ARRAY).stat().st_size)
        except OSError as error:
            where = self._folder.parent
            self._events.warning(
                f"{where}: features cannot be kept there ({error.strerror}), so they will be computed again next time;"
                " make room, or name another folder with VITRAIL_CACHE"
            )
            self.discard()
            return np.empty(shape, dtype=np.float32)
        return array

    def finish(self, made_from: dict[str, Any], read: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """The (rows, D) array, from its final place. `read`: which of the pictures asked for have a row."""
        array = self._array
        assert array is not None
        if not isinstance(array, np.memmap):
            return array[: self._done]
        if self._done < self._num_rows:  # some could not be read: rare, and worth a copy
            np.save(self._partial / ARRAY, np.array(array[: self._done]))
        else:
            array.flush()
        record = {**made_from, "read": read.tolist(), "sha256": sha256_of(self._partial / ARRAY)}
        write_file(self._partial / RECORD, to_json(record))
        try:
            os.rename(self._partial, self._folder)
        except OSError:  # another process was quicker; it computed the same
            if not (self._folder / ARRAY).exists():
                raise
        values: npt.NDArray[np.float32] = np.load(self._folder / ARRAY, mmap_mode="r", allow_pickle=False)
        self._events.note(f"features: {_size(values)} kept in {self._folder.parent} for the next time")
        return values

    def discard(self) -> None:
        """Remove what is not finished."""
        shutil.rmtree(self._partial, ignore_errors=True)


def _remove_abandoned(folder: Path) -> None:
    for partial in folder.glob(".*.partial"):
        if time.time() - partial.stat().st_mtime > ABANDONED_SECONDS:
            shutil.rmtree(partial, ignore_errors=True)


def _size(values: npt.NDArray[np.float32]) -> str:
    return f"{values.nbytes / 1e6:,.1f} MB" if values.nbytes >= 1e5 else f"{values.nbytes / 1e3:,.0f} kB"
