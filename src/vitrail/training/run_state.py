"""Everything a run needs to go on exactly where it stopped, saved whole or not at all; safetensors and JSON only."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.errors import NonFiniteError, RunError, WeightsError
from vitrail.objectives.base import Objective
from vitrail.storage import new_folder, remove_folder, sha256_of, to_json
from vitrail.training.averaging import Averaged
from vitrail.weights.files import read_tensors, write_tensors

CHECKPOINTS = "checkpoints"
_FORMAT = "vitrail-checkpoint-1"
_NAME = re.compile(r"step-(\d+)")
# Files of a checkpoint. Averaged and best weights are there only where the run has them.
_MODEL, _OPTIMIZER, _AVERAGED, _BEST = (f"{name}.safetensors" for name in ("model", "optimizer", "averaged", "best"))
_STATE, _MANIFEST = "state.json", "manifest.json"


@dataclass
class Best:
    """The best evaluation so far and the weights that gave it."""

    step: int  # updates done
    score: tuple[float, ...]  # compared in order, larger is better
    metrics: dict[str, float]
    weights: dict[str, Tensor] = field(repr=False)  # of the evaluated model, on the CPU


@dataclass
class RunState:
    """What changes while a run goes on; everything else follows from its config and its data.

    Random numbers are not in it: the loop seeds every step from (seed, step), and the order of the samples is a
    function of the same.
    """

    objective: Objective
    optimizer: torch.optim.Optimizer
    averaged: Averaged | None = None
    step: int = 0  # updates done
    evaluated_step: int = 0  # the last evaluation's
    best: Best | None = None
    stopped: str | None = None  # why the run is over; None while it is not
    seconds: float = 0.0  # spent training, over all sessions
    extra: dict[str, Any] = field(default_factory=dict)  # the task's own JSON values


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str]) -> dict[str, Tensor]:
    """The optimizer's state flattened to "<parameter name>/<slot>", e.g. "model.head.weight/exp_avg"."""
    flat: dict[str, Tensor] = {}
    for parameter, slots in optimizer.state.items():
        for slot, value in slots.items():
            if value is not None:  # SGD without momentum has an empty slot
                flat[f"{names[parameter]}/{slot}"] = torch.as_tensor(value)
    return flat


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str], flat: Mapping[str, Tensor]
) -> None:
    """The inverse of `optimizer_tensors`, into an optimizer of the same parameters.

    Raises:
        RunError: a tensor of a parameter that the optimizer has not, or of another shape.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    number = {names[parameter]: index for index, parameter in enumerate(parameters)}
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in flat.items():
        name, _, slot = key.rpartition("/")
        if name not in number:
            raise RunError(f"{_OPTIMIZER}: '{name}' is no parameter that this run trains")
        expected = parameters[number[name]].shape
        if value.ndim and value.shape != expected:
            raise RunError(f"{_OPTIMIZER}: '{key}' has shape {tuple(value.shape)}, its parameter {tuple(expected)}")
        slots.setdefault(number[name], {})[slot] = value
    # Through the optimizer's own reader: it knows which slot belongs on which device and in which precision.
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})


def _names(objective: nn.Module) -> dict[Tensor, str]:
    return {parameter: name for name, parameter in objective.named_parameters()}


def save_checkpoint(run_folder: Path, state: RunState, keep: int = 2) -> Path:
    """Save `state` as run_folder/checkpoints/step-<step>, then remove all but the newest `keep` up to this step.

    Returns:
        The folder of the checkpoint.
    Raises:
        NonFiniteError: weights that are not finite; nothing is written.
        RunError: it cannot be written (disk full, read-only); older checkpoints are as they were.
    """
    folder = run_folder / CHECKPOINTS
    target = folder / f"step-{state.step:08d}"
    require_finite_weights(state, run_folder)
    record: dict[str, Any] = {
        "format": _FORMAT,
        "step": state.step,
        "evaluated_step": state.evaluated_step,
        "stopped": state.stopped,
        "seconds": state.seconds,
        "extra": state.extra,
        "best": None,
    }
    tensors = {
        _MODEL: state.objective.state_dict(),
        _OPTIMIZER: optimizer_tensors(state.optimizer, _names(state.objective)),
    }
    if state.averaged is not None:
        tensors[_AVERAGED] = state.averaged.model.state_dict()
    if state.best is not None:
        tensors[_BEST] = state.best.weights
        record["best"] = {name: value for name, value in vars(state.best).items() if name != "weights"}
    try:
        with new_folder(target) as partial:
            for name, named in tensors.items():
                write_tensors(partial / name, named)
            (partial / _STATE).write_bytes(to_json(record))
            manifest = {
                path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
                for path in sorted(partial.iterdir())
            }
            (partial / _MANIFEST).write_bytes(to_json(manifest))
    except OSError as error:
        last = last_checkpoint_name(run_folder)
        raise RunError(
            f"{target}: could not be saved ({error.strerror or error});"
            f" {f'the checkpoint {last} before it is intact' if last else 'there is no earlier one'}."
            f" Make room, then go on with: vitrail fit --resume {run_folder}"
        ) from error
    _remove_old(folder, state.step, keep)
    return target


def _checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """(step, path) of every folder that is named as a checkpoint, newest first."""
    if not folder.is_dir():
        return []
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return sorted(found, reverse=True)


def last_checkpoint_name(run_folder: Path) -> str | None:
    """ "checkpoints/step-00000120", or None where none was saved."""
    found = _checkpoints(run_folder / CHECKPOINTS)
    return f"{CHECKPOINTS}/{found[0][1].name}" if found else None


def _remove_old(folder: Path, step: int, keep: int) -> None:
    # Later ones can only be damaged ones that a resumed run has stepped back over.
    found = _checkpoints(folder)
    kept = [path for number, path in found if number <= step][: max(1, keep)]
    for _, path in found:
        if path not in kept:
            remove_folder(path)


def require_finite_weights(state: RunState, run_folder: Path | None) -> None:
    """Raises NonFiniteError, naming the first tensor, where a weight is not finite."""
    for name, tensor in state.objective.state_dict().items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            last = None if run_folder is None else last_checkpoint_name(run_folder)
            raise NonFiniteError(
                f"step {state.step}: the weights of '{name}' are no longer finite; a lower learning rate helps."
                f" Last good checkpoint: {last or 'none'}"
            )


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose every file has been read and found as its manifest says."""

    path: Path
    step: int
    record: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]] = field(repr=False)


def load_latest_checkpoint(run_folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is whole.

    Returns:
        It, or None where there is none; and for each newer one that was passed over, a sentence saying why.
    """
    skipped: list[str] = []
    for _, path in _checkpoints(run_folder / CHECKPOINTS):
        try:
            return _read(path), skipped
        except (WeightsError, RunError) as error:
            skipped.append(f"checkpoint {path.name} is skipped: {error}")
    return None, skipped


def _read(path: Path) -> Checkpoint:
    manifest = _read_json(path / _MANIFEST)
    for name in (_MODEL, _OPTIMIZER, _STATE):
        if name not in manifest:
            raise RunError(f"{_MANIFEST} does not list {name}")
    for name, expected in manifest.items():
        try:
            intact = (path / name).stat().st_size == expected["bytes"] and sha256_of(path / name) == expected["sha256"]
        except OSError as error:
            raise RunError(f"{name} cannot be read ({error.strerror})") from error
        except (KeyError, TypeError) as error:
            raise RunError(f"{_MANIFEST} is damaged") from error
        if not intact:
            raise RunError(f"{name} is not as it was saved")
    record = _read_json(path / _STATE)
    if record.get("format") != _FORMAT:
        raise RunError(f"{_STATE} is of format {record.get('format')!r}, this version reads {_FORMAT!r}")
    tensors = {name: read_tensors(path / name) for name in manifest if name.endswith(".safetensors")}
    return Checkpoint(path, record["step"], record, tensors)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise RunError(f"{path.name} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise RunError(f"{path.name} is damaged") from error
    if not isinstance(value, dict):
        raise RunError(f"{path.name} is damaged")
    return value


def restore(state: RunState, checkpoint: Checkpoint) -> None:
    """Put a checkpoint into a freshly built state of the same config.

    Raises:
        RunError: it belongs to another model; names the file and the tensor.
    """
    record, tensors = checkpoint.record, checkpoint.tensors
    _load(state.objective, tensors[_MODEL], checkpoint.path / _MODEL)
    load_optimizer_tensors(state.optimizer, _names(state.objective), tensors[_OPTIMIZER])
    if (state.averaged is None) != (_AVERAGED not in tensors):
        raise RunError(
            f"{checkpoint.path}: averaging was switched {'on' if state.averaged else 'off'} since it was saved"
        )
    if state.averaged is not None:
        _load(state.averaged.model, tensors[_AVERAGED], checkpoint.path / _AVERAGED)
    best = record["best"]
    state.best = None
    if best is not None:
        state.best = Best(best["step"], tuple(best["score"]), best["metrics"], tensors[_BEST])
    state.step, state.evaluated_step = record["step"], record["evaluated_step"]
    state.stopped, state.seconds, state.extra = record["stopped"], record["seconds"], record["extra"]


def _load(module: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    try:
        module.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise RunError(f"{path}: belongs to another model ({' '.join(str(error).split())})") from error
