"""`vitrail fit PHOTOS`: from a folder of pictures to a trained, checked and usable classifier."""

from __future__ import annotations

from dataclasses import dataclass

from tyro.conf import Positional

from vitrail.cli.parsing import UsageError, parse, typed
from vitrail.cli.terminal import Terminal


@dataclass(frozen=True)
class Fit:
    """Check and split the pictures, measure the floor, train, evaluate once on untouched pictures, write a report."""

    photos: Positional[str] = ""
    """A folder (PHOTOS/<class>/... or PHOTOS/{train,val,test}/<class>/...), a .csv or .parquet with path,label[,split],
    "digits", or "hf:NAME"."""
    minutes: float | None = None
    """A budget for the whole command: the schedule is planned from a measured trial of a few steps."""
    weights: str | None = None
    """What to start from: a bundle, a run, a weights file of any layout, a name of `vitrail models --weights`,
    hf-hub:owner/name, or "none". By default good public weights, chosen for the pictures and the machine."""
    image_size: int | None = None
    """Pixels a side that the model sees: larger is slower and often better. By default as the weights were trained."""
    out: str | None = None
    """The run folder; runs/<name of the data> by default. An existing one is never overwritten."""
    strict: bool = False
    """Refuse pictures that are broken, contradictory or in two splits, instead of leaving them out."""
    balance: bool = False
    """Let small classes count as much as large ones."""
    seed: int = 0
    """Of the weights, the order and the variation of the pictures."""
    resume: str | None = None
    """A run folder to go on with, exactly where it stopped; excludes everything else."""
    tensorboard: bool = False
    """Write for TensorBoard as well."""
    json: bool = False
    """The result as JSON."""


def run(arguments: list[str]) -> int:
    command = parse(Fit, arguments, prog="vitrail fit")
    if bool(command.photos) == bool(command.resume):
        raise UsageError(
            "name the pictures (`vitrail fit PHOTOS`) or a run to go on with (`vitrail fit --resume RUN`)."
        )
    from vitrail.cli.finish import finish
    from vitrail.tasks.fit import FitConfig, fit, resume
    from vitrail.tasks.sweep import is_sweep, resume_sweep
    from vitrail.training.events import Events

    with Events(Terminal()) as events:
        if command.resume:
            result = (resume_sweep if is_sweep(command.resume) else resume)(command.resume, events)
        else:
            config = FitConfig(
                data=command.photos,
                minutes=command.minutes,
                weights=command.weights,
                image_size=command.image_size,
                out=command.out,
                strict=command.strict,
                balance=command.balance,
                seed=command.seed,
                tensorboard=command.tensorboard,
            )
            result = fit(config, events, typed("fit", arguments))
    return finish(result, command.json)
