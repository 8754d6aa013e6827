"""Several runs that belong together, in one folder: what was finished when the process died stays finished."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from vitrail.errors import RunError
from vitrail.storage import write_json
from vitrail.tasks.floor import Floor
from vitrail.tasks.prepare import DATA_FILE, PreparedData, read_data_record, write_data_record
from vitrail.tasks.run import Run
from vitrail.tasks.starting import Start, write_start
from vitrail.tasks.timing import Stopwatch
from vitrail.training.config import TrainConfig
from vitrail.training.events import Events
from vitrail.training.precision import Trial, run_trial
from vitrail.training.run_folder import describe_run
from vitrail.training.run_state import load_latest_checkpoint

T = TypeVar("T")


def plain(text: str) -> str:
    """A name as a folder's: "1-D at the input" -> "1-D-at-the-input"."""
    return re.sub(r"[^\w.-]+", "-", text).strip("-.")


def make_folder(folder: Path) -> Path:
    """Raises RunError where it cannot be created."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: cannot be created ({error.strerror}); choose another --out") from error
    return folder


def require_same(folder: Path, path: Path, settings: Mapping[str, Any], what: str) -> None:
    """Write the settings of a new study or sweep to `path`; of one that goes on, see that they are what they were.

    Raises:
        RunError: `folder` holds another one, or something else.
    """
    now = json.loads(json.dumps(settings))
    if path.exists():
        try:
            before = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise RunError(f"{path}: damaged ({error}); choose another --out") from error
        if before != now:
            raise RunError(f"{folder}: holds another {what}, or this one with other settings; choose another --out")
    elif any(child != path.parent for child in folder.rglob("[!.]*")):
        raise RunError(f"{folder}: holds something else; choose another --out")
    else:
        path.parent.mkdir(exist_ok=True)
        write_json(path, now)


def require_same_pictures(places: Iterable[Path], prepared: PreparedData) -> None:
    """Raises RunError where a run that has begun in one of the folders learns from other pictures than these."""
    for place in places:
        if (place / DATA_FILE).exists() and read_data_record(place).get("fingerprint") != prepared.fingerprint:
            raise RunError(
                f"{place}: began on other pictures than {prepared.source.spec} holds now; put them back, or begin anew"
                " with another --out"
            )


def settle(
    base: TrainConfig, prepared: PreparedData, events: Events, start: Start | None = None
) -> tuple[TrainConfig, Trial]:
    """Precision and threads by one trial for all: runs that differ in them would differ in two things."""
    run = Run(base, prepared, events, None if start is None else start.bundle)
    is_open = base.precision == "auto" or base.num_threads is None  # else only how long an update takes
    trial = run_trial(run.state.objective, run.loader, base, 3.0 if is_open else 0.5)
    return trial.settle(base), trial


def train_in(
    place: Path,
    config: TrainConfig,
    prepared: PreparedData,
    floor: Floor,
    events: Events,
    command: str,
    end: Callable[[Run, dict[str, float]], T],
    start: Start | None = None,
) -> T:
    """Train in the folder `place`, from its last checkpoint where it has one, and end the run.

    Args:
        end: a trained run and the seconds of its phases -> what came of it.
    """
    place.mkdir(parents=True, exist_ok=True)
    checkpoint, skipped = load_latest_checkpoint(place) if (place / "checkpoints").is_dir() else (None, [])
    for sentence in skipped:
        events.warning(sentence)
    bundle = start.bundle if start is not None and checkpoint is None else None
    run = Run(config, prepared, Events(), bundle)
    if checkpoint is None:
        write_start(place, start, run.surgery)
        describe_run(place, config, command)
        write_data_record(place, prepared, floor.to_json(prepared))
    run.events = Events(*events.sinks)
    try:
        if checkpoint is not None:
            run.restore(checkpoint)
        watch = Stopwatch()
        with watch.phase("training"):
            run.train(place)
        with watch.phase("evaluation"):
            return end(run, watch.phases)
    finally:
        for sink in run.events.sinks[len(events.sinks) :]:
            sink.close()  # the files of this run, which do not listen to the next one
