"""A checkpoint as it was found: tensors under their own names, before anyone has said what they are."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from vitrail.errors import WeightsError
from vitrail.models.config import Activation
from vitrail.weights.files import Container, WeightsFile, read_weights

PooledBy = Literal["token", "mean"]
QueryScale = Literal["head", "width"]

# As hub repositories name them, in the order in which they are taken: a repository may hold the same model twice.
_HUB_NAMES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_INDEX = ".index.json"
_ENDINGS = {".safetensors", ".npz", ".pth", ".pt", ".bin", ".ckpt", ".pdparams", ".pkl", ".pickle", ".tar"}
_NO_MODEL = {"training_args.bin", "optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt", "rng_state.pth"}
_COMPANIONS = ("config.json", "preprocessor_config.json")
_MAX_JSON_BYTES = 32_000_000  # 21,843 labels with their synsets are about 2 MB
_MAX_SHARDS = 1000


@dataclass(frozen=True)
class Choices:
    """What a caller says of weights where the files do not, or not rightly; None: taken from the files."""

    family: str | None = None  # a name of `ADAPTERS`: no recognition by keys
    num_heads: int | None = None
    query_scale: QueryScale | None = None  # vit-pytorch: queries scaled by head_dim ** -0.5, or by width ** -0.5
    pooling: PooledBy | None = None  # vit-pytorch: by the class token, or by the mean of all tokens
    image_size: tuple[int, int] | None = None  # of a position table that could be several rectangles
    prefix: str | None = None  # npz and nested checkpoints: the tree to take ("params/img/", "teacher/")
    activation: Activation | None = None  # of the MLPs: weights of CLIP, say, that need "quick_gelu"
    layer_norm_eps: float | None = None
    labels: tuple[str, ...] | None = None


def count_numbered(names: Collection[str], pattern: str) -> int:
    """One more than the highest number that fits `pattern` ("blocks.{}.norm1.weight"): a name that is missing below it
    is a missing tensor, not the end of the model. Numbers that so many names cannot have do not count."""
    before, after = pattern.split("{}")
    numbers = [name[len(before) : len(name) - len(after)] for name in names if _fits(name, before, after)]
    return 1 + max((int(number) for number in numbers if int(number) < len(names)), default=-1)


def _fits(name: str, before: str, after: str) -> bool:
    middle = name[len(before) : len(name) - len(after)]
    return name.startswith(before) and name.endswith(after) and middle.isascii() and middle.isdecimal()


@dataclass(frozen=True)
class Checkpoint:
    """What a file or a folder holds.

    Attributes:
        where: for messages: the file or repository.
        name: file stem or repository name, a hint at most.
        container: how the tensors were stored.
        tensors: by name; dictionaries inside dictionaries are joined with "/" ("model/blocks.0.norm1.weight").
        values: strings, numbers and booleans beside the tensors, joined likewise ("args/arch"); a hint at most.
        files: JSON files beside the weights, parsed: "config.json", "preprocessor_config.json".
        choices: what the caller said.
    """

    where: str
    name: str
    container: Container
    tensors: Mapping[str, Tensor]
    values: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    files: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    choices: Choices = field(default_factory=Choices)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The shape of a tensor; None where there is none of that name."""
        tensor = self.tensors.get(name)
        return None if tensor is None else tuple(tensor.shape)

    def count(self, pattern: str) -> int:
        """How many of pattern.format(0), pattern.format(1), ... there are; see `count_numbered`."""
        return count_numbered(self.tensors, pattern)


def open_checkpoint(path: Path, choices: Choices | None = None, where: str | None = None) -> Checkpoint:
    """What a weights file, or a folder with one and its config, holds. Nothing in it is run.

    Args:
        path: a file of safetensors, npz, torch.save or .pdparams; the index of a sharded one; or a folder with one of
            these, as a hub repository is. The config.json beside model.safetensors or pytorch_model.bin is read too.
        where: for messages and for the name, in place of the path.
    Raises:
        WeightsError: nothing there, several things there, or a file that is damaged or cannot be trusted.
    """
    file = weights_in(path) if path.is_dir() else path
    content = _read(file)
    if path.is_dir():
        _require_one_model(file, content)
    files = {}
    if path.is_dir() or file.name in _HUB_NAMES:
        files = {name: read_json(file.parent / name) for name in _COMPANIONS if (file.parent / name).exists()}
    return Checkpoint(
        where=where or str(path),
        name=_name(path, where),
        container=content.container,
        tensors=content.tensors,
        values=content.values,
        files=files,
        choices=choices or Choices(),
    )


def _read(file: Path) -> WeightsFile:
    return _read_shards(file) if file.name.endswith(_INDEX) else read_weights(file)


def _require_one_model(file: Path, content: WeightsFile) -> None:
    """Raises WeightsError where the folder of `file` holds the weights once more, as hub repositories do, and they are
    others. Tensors that one of them alone has are let be: some containers keep constants that others leave out."""
    for other in (file.parent / name for name in _HUB_NAMES if name != file.name):
        twins: Mapping[str, Tensor] = {}
        with suppress(WeightsError):  # what cannot be read is no second model
            twins = _read(other).tensors if other.exists() else {}
        if not twins:
            continue
        common = [name for name in content.tensors if name in twins]
        wrong = next((name for name in common if not _agree(content.tensors[name], twins[name])), None)
        if wrong is not None or not common:
            what = "they have no tensor in common" if wrong is None else f"'{wrong}' is another one in each"
            raise WeightsError(
                f"{file} and {other.name} beside it disagree: {what}. Give the path of the right file, or take the"
                " other away"
            )


def _agree(one: Tensor, other: Tensor) -> bool:
    """Shapes, and values where both are kept with the same precision."""
    return one.shape == other.shape and (one.dtype != other.dtype or torch.equal(one, other))


def _name(path: Path, where: str | None) -> str:
    last = where.rstrip("/").rpartition("/")[2] if where else path.resolve().name if path.is_dir() else path.name
    return last.removesuffix(_INDEX).removesuffix(Path(last).suffix if Path(last).suffix in _ENDINGS else "")


def weights_in(folder: Path) -> Path:
    """The one weights file of a folder, or the index of its shards.

    Raises:
        WeightsError: there is none, or there are several and none is named as hub repositories name theirs.
    """
    for name in _HUB_NAMES:
        if (folder / name).exists():
            return folder / name
    try:
        found = sorted(
            path
            for path in folder.iterdir()
            if path.suffix in _ENDINGS and path.name not in _NO_MODEL and path.is_file()
        )
    except OSError as error:
        raise WeightsError(f"{folder}: cannot be read ({error.strerror})") from error
    if len(found) == 1:
        return found[0]
    if not found:
        raise WeightsError(
            f"{folder}: there are no weights in it: none of {', '.join(_HUB_NAMES)}, and no other file that ends in"
            f" {', '.join(sorted(_ENDINGS))}"
        )
    shown = ", ".join(path.name for path in found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
    raise WeightsError(f"{folder}: there are several weights files in it, {shown}; give the path of one of them")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a small JSON file. Raises WeightsError: not there, too large, damaged, or no object."""
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise WeightsError(f"{path}: more than {_MAX_JSON_BYTES:,} bytes, no configuration has as many; not read")
        values = json.loads(path.read_bytes())
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: damaged, not JSON ({error}); restore it, or take it away") from error
    if not isinstance(values, dict):
        raise WeightsError(f"{path}: damaged, not an object; restore it, or take it away")
    return values


def _read_shards(index: Path) -> WeightsFile:
    """All tensors of the files that an index names; each tensor where the index says, and nowhere else."""
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(shard, str) for shard in places.values()) or not places:
        raise WeightsError(f"{index}: damaged, its 'weight_map' does not say which tensor is in which file")
    shards = sorted(set(places.values()))
    for shard in shards:
        if shard != Path(shard).name or shard in ("", ".", "..") or "\\" in shard:
            raise WeightsError(f"{index}: it names {shard!r}, which is no file beside it")
    if len(shards) > _MAX_SHARDS:
        raise WeightsError(f"{index}: it names {len(shards):,} files; no checkpoint has as many")
    absent = [shard for shard in shards if not (index.parent / shard).is_file()]
    if absent:
        raise WeightsError(f"{index}: {len(absent)} of its {len(shards)} files are not there: {', '.join(absent[:5])}")
    tensors: dict[str, Tensor] = {}
    contents = {shard: read_weights(index.parent / shard) for shard in shards}
    for shard, content in contents.items():
        for name, tensor in content.tensors.items():
            if places.get(name) != shard:
                there = f"the index has it in {places[name]}" if name in places else "the index does not know it"
                raise WeightsError(f"{index} and {shard} disagree: '{name}' is in {shard}, and {there}")
            tensors[name] = tensor
    missing = [name for name in places if name not in tensors]
    if missing:
        raise WeightsError(
            f"{index} and its files disagree: '{missing[0]}' is not in {places[missing[0]]}"
            + (f", and {len(missing) - 1} more are missing" if len(missing) > 1 else "")
        )
    return WeightsFile(contents[shards[0]].container, tensors)
