"""The fastest of the engines and precisions that keep what the model is worth, tried once on each machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor

from vitrail.configuration import to_dict
from vitrail.engines import trials
from vitrail.engines.base import Prepared
from vitrail.engines.config import MAX_LOSS, EngineName, InferenceConfig, Precision
from vitrail.engines.prepare import Check, Labelled, check, own_answers, prepare, require_accuracy, require_near
from vitrail.engines.registry import ENGINES, installed_engines
from vitrail.errors import ConfigError, VitrailError
from vitrail.weights.bundle import Bundle


@dataclass(frozen=True)
class Candidate:
    """One engine and precision that was tried: milliseconds a picture, where it had to be faster than another, or the
    reason why it was left out."""

    engine: EngineName
    precision: Precision
    milliseconds: float | None = None
    check: Check | None = None
    refused: str | None = None


@dataclass(frozen=True)
class Choice:
    """The fastest of those that pass, and all that were tried.

    Attributes:
        check: of its answers; None where nothing was there to check them on.
        is_remembered: the times are those of an earlier trial on this machine.
    """

    prepared: Prepared
    config: InferenceConfig
    candidates: tuple[Candidate, ...]
    check: Check | None = None
    is_remembered: bool = False

    def is_chosen(self, candidate: Candidate) -> bool:
        """Whether it is this one."""
        return (candidate.engine, candidate.precision) == (self.config.engine, self.config.precision)

    def describe(self) -> list[str]:
        """A line for each candidate, the chosen one marked."""
        lines = []
        for candidate in self.candidates:
            what = candidate.refused
            if what is None:
                what = "not timed" if candidate.milliseconds is None else f"{candidate.milliseconds:.1f} ms a picture"
            mark = "*" if self.is_chosen(candidate) else " "
            lines.append(f"{mark} {candidate.engine} {candidate.precision}: {what}")
        return lines


def choose_engine(
    bundle: Bundle,
    config: InferenceConfig | None = None,
    *,
    calibration: Tensor | None = None,
    labelled: Labelled | None = None,
    max_loss: float = MAX_LOSS,
    near_on: Tensor | None = None,
    engines: Sequence[EngineName] | None = None,
    precisions: Sequence[Precision] = get_args(Precision),
    progress: Callable[[int, int], None] | None = None,
) -> Choice:
    """Try every installed engine in every precision, and take the fastest of those that keep the accuracy.

    Which one that is for models of this architecture is remembered for each machine: the next time that one alone is
    prepared, and the others only where it is refused with these weights.

    Args:
        config: what the model is prepared for; its engine and precision are what is chosen here.
        calibration: without it int8 is not tried.
        labelled: without it the accuracy is not measured, and int8 is not tried either: nothing would tell.
        max_loss: of the accuracy, as a share.
        near_on: pictures like those to come, (N, C, H, W) uint8, on which no row of float32 or bfloat16 may be further
            than `MAX_OFF` from the model's own.
        engines: those installed by default.
        progress: called with (tried, to be tried).
    Raises:
        ConfigError: nothing passes; every reason is said.
    """
    config = config or InferenceConfig()
    wanted = _wanted(config, engines, precisions)
    if not wanted:
        raise ConfigError(f"none of the engines has the precision {' or '.join(precisions)}: see docs/bench.md")
    tests = _Tests(bundle, config, calibration, labelled, max_loss, near_on)
    facts = _facts(bundle, config, [tried for tried in wanted if tests.can_judge(tried)])
    past = trials.recall("engine", facts) if len(wanted) > 1 else None
    if past is not None:
        for tried in wanted:
            if [tried.engine, tried.precision] == past["choice"]:
                candidate, prepared = tests.take(tried)
                if prepared is not None:
                    known = tuple(Candidate(*item) for item in past.get("milliseconds", []))
                    return Choice(prepared, tried, known, candidate.check, is_remembered=True)
    found: list[Candidate] = []
    best: Prepared | None = None
    place = 0  # of the best among those found
    for number, tried in enumerate(wanted, 1):
        candidate, prepared = tests.take(tried)
        if prepared is not None and best is not None:
            best_time, time = _milliseconds(best, prepared, config.batch_size)
            found[place] = replace(found[place], milliseconds=best_time)
            candidate = replace(candidate, milliseconds=time)
        # The slower one is let go at once: a large model five times over may be more than the memory holds.
        if prepared is not None and (best is None or time < best_time):
            best, place = prepared, len(found)
        found.append(candidate)
        if progress is not None:
            progress(number, len(wanted))
    if best is None:
        reasons = "; ".join(f"{item.engine} {item.precision}: {item.refused}" for item in found)
        raise ConfigError(f"no engine passes: {reasons}")
    chosen = wanted[place]
    if len(wanted) > 1:
        timed = [[item.engine, item.precision, item.milliseconds] for item in found if item.refused is None]
        trials.keep("engine", facts, {"choice": [chosen.engine, chosen.precision], "milliseconds": timed})
    return Choice(best, chosen, tuple(found), found[place].check)


def is_remembered(
    bundle: Bundle, config: InferenceConfig, engines: Sequence[EngineName] | None, precisions: Sequence[Precision]
) -> bool:
    """Whether `choose_engine` was asked this on this machine before, so that it need not try them all."""
    return trials.recall("engine", _facts(bundle, config, _wanted(config, engines, precisions))) is not None


def _wanted(
    config: InferenceConfig, engines: Sequence[EngineName] | None, precisions: Sequence[Precision]
) -> list[InferenceConfig]:
    return [
        replace(config, engine=name, precision=precision)
        for name in (installed_engines() if engines is None else engines)
        for precision in precisions
        if precision in ENGINES[name].precisions
    ]


def _facts(bundle: Bundle, config: InferenceConfig, tried: list[InferenceConfig]) -> dict[str, Any]:
    """What the choice depends on, beside the machine."""
    return {
        "tried": [[one.engine, one.precision] for one in tried],
        "architecture": to_dict(bundle.config.model),
        # Of the pictures to come only how many digits their number has: it decides whether torch compiles.
        "for": {**to_dict(config), "pictures": config.pictures and len(str(config.pictures))},
    }


def _milliseconds(one: Prepared, other: Prepared, batch_size: int) -> tuple[float, float]:
    """Of each, a picture. In turns: what slows the machine down meanwhile slows both."""
    example = torch.zeros(batch_size, *one.image_shape, dtype=torch.uint8)
    times = trials.time_in_turns({"one": partial(one, example), "other": partial(other, example)})
    return 1000 * times["one"] / batch_size, 1000 * times["other"] / batch_size


class _Tests:
    """What every candidate has to pass; the model's own answers are computed once for all."""

    def __init__(
        self,
        bundle: Bundle,
        config: InferenceConfig,
        calibration: Tensor | None,
        labelled: Labelled | None,
        max_loss: float,
        near_on: Tensor | None,
    ) -> None:
        self._bundle, self._calibration, self._max_loss = bundle, calibration, max_loss
        self._near = None if near_on is None else (near_on, own_answers(bundle, near_on, config.answer))
        self._judged = None
        if labelled is not None:
            labels = labelled.labels if config.answer == "logits" else None
            self._judged = labelled.images, own_answers(bundle, labelled.images, config.answer), labels

    def can_judge(self, config: InferenceConfig) -> bool:
        """Whether there is what this precision needs."""
        return config.precision != "int8" or (self._calibration is not None and self._judged is not None)

    def take(self, config: InferenceConfig) -> tuple[Candidate, Prepared | None]:
        """A candidate with its check, and what was prepared; None where it was left out."""
        candidate = Candidate(config.engine, config.precision)
        if not self.can_judge(config):
            refused = "not tried: it needs pictures to calibrate on and labelled ones to be checked on"
            return replace(candidate, refused=refused), None
        found = None
        try:
            prepared = prepare(self._bundle, config, calibration=self._calibration)
            if self._near is not None and config.precision != "int8":
                found = check(prepared, *self._near)
                require_near(found, config)
            if self._judged is not None:
                found = check(prepared, *self._judged)
                require_accuracy(found, config, self._max_loss)
        except VitrailError as error:
            return replace(candidate, check=found, refused=str(error)), None
        except Exception as error:
            if config.engine == "torch":
                raise
            # Other people's code may fail on a model in any way, and must not take a command with it that has others.
            said = str(error).strip().partition("\n")[0]
            return replace(candidate, refused=f"{type(error).__name__}: {said}"), None
        return replace(candidate, check=found), prepared
