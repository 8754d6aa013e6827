"""Who answers for many pictures: the model itself, or an engine that was chosen on this machine and checked first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vitrail.data.loader import Loader
from vitrail.engines import trials
from vitrail.engines.base import Prepared
from vitrail.engines.choice import Choice, choose_engine, is_remembered
from vitrail.engines.config import Answer, AnsweringConfig, InferenceConfig, Precision
from vitrail.engines.prepare import check, own_answers, prepare, require_engine
from vitrail.errors import ConfigError
from vitrail.tasks.labelled import MOST_CALIBRATION, read_check_pictures
from vitrail.training.events import Events
from vitrail.training.precision import Precision as OwnPrecision
from vitrail.weights.bundle import Bundle

# Trying all engines in both precisions costs as much as the model's own answers to about 250 pictures, whatever its
# size; and of a small model, whose answers take no time, about as many seconds as here, most of them for preparing.
FEW_PICTURES = 256
TRIAL_SECONDS, PREPARE_SECONDS = 30.0, 5.0  # of all engines; of the one that was found before
CHECKED_ON, _TIMED_ON = 32, 8  # of the first pictures that can be read
_FLOATS: tuple[Precision, ...] = ("float32", "bfloat16")


@dataclass(frozen=True)
class Answerer:
    """Who answers.

    Attributes:
        prepared: an engine's; None: the model itself.
        precision: of the model itself, where it answers.
    """

    prepared: Prepared | None = None
    precision: OwnPrecision = "float32"

    def to_json(self) -> dict[str, Any]:
        """For the record of what made an answer."""
        if self.prepared is None:
            return {"engine": "the model itself", "precision": self.precision}
        description = self.prepared.description
        return {"engine": description.engine, "precision": description.precision}


def find_answerer(
    bundle: Bundle, loader: Loader, answer: Answer | None, config: AnsweringConfig, events: Events
) -> Answerer:
    """Decide who answers for the pictures of `loader`, and tell it where it is an engine.

    Args:
        answer: what is wanted of each picture; None: what no engine gives.
    Raises:
        ConfigError: an engine that was named cannot do it or is off by more than `MAX_OFF`, or int8 loses more accuracy
            than allowed. DataError: no labelled pictures for int8.
    """
    if config.engine != "auto":
        require_engine(config.engine, "float32" if config.precision == "auto" else config.precision)
    device = next(bundle.model.parameters()).device
    itself = Answerer(precision="bfloat16" if config.precision == "bfloat16" else "float32")
    if answer is None or device.type != "cpu":
        if config.engine != "auto" or config.precision == "int8":
            why = "engines give only what the head sees" if answer is None else f"engines are for the CPU, not {device}"
            raise ConfigError(f"{why}: leave out --engine and --precision int8, and the model itself answers")
        return itself
    engines = None if config.engine == "auto" else (config.engine,)
    plan = InferenceConfig(answer=answer, batch_size=loader.batch_size, pictures=len(loader.indices))
    if config.precision == "int8":
        return _in_integers(bundle, plan, config, events)
    if config.engine == "auto" and (config.precision != "auto" or not _pays(bundle, loader, plan)):
        return itself
    if config.precision != "auto":
        precisions: tuple[Precision, ...] = (config.precision,)
    else:
        precisions = _FLOATS if len(loader.indices) >= FEW_PICTURES else ("float32",)
    images = _first_pictures(loader, CHECKED_ON)
    if not len(images):
        return itself
    try:
        choice = choose_engine(
            bundle, plan, near_on=images, engines=engines, precisions=precisions, progress=_progress(events)
        )
    except ConfigError as error:
        if config.engine != "auto":
            raise
        events.warning(f"{error}. The model itself answers, in float32")
        return itself
    events.note(_tell(choice))
    return Answerer(choice.prepared)


def _pays(bundle: Bundle, loader: Loader, plan: InferenceConfig) -> bool:
    """Whether engines are sooner tried, or the one found before prepared, than the model itself has answered."""
    if len(loader.indices) < FEW_PICTURES:
        return False
    images = _first_pictures(loader, _TIMED_ON)
    if not len(images):
        return False
    seconds = trials.time_in_turns({"own": lambda: own_answers(bundle, images, plan.answer)}, seconds=0.0)["own"]
    own_seconds = seconds / len(images) * len(loader.indices)
    return own_seconds >= (PREPARE_SECONDS if is_remembered(bundle, plan, None, _FLOATS) else TRIAL_SECONDS)


def _in_integers(bundle: Bundle, plan: InferenceConfig, config: AnsweringConfig, events: Events) -> Answerer:
    """The fastest engine in int8, as long as it keeps the accuracy: that of the logits, also where features are asked
    for, of which the cosine is said too."""
    assert config.labelled is not None
    if not bundle.config.model.num_classes:
        raise ConfigError(
            "precision 'int8' is judged by what it costs in accuracy, and this model has no head and knows no classes:"
            " choose another precision"
        )
    engines = None if config.engine == "auto" else (config.engine,)
    pictures = read_check_pictures(config.labelled, bundle, events)
    choice = choose_engine(
        bundle,
        replace(plan, answer="logits"),
        calibration=pictures.calibration,
        labelled=pictures.labelled,
        max_loss=config.max_loss,
        engines=engines,
        precisions=("int8",),
        progress=_progress(events),
    )
    events.note(_tell(choice))
    events.note(_tell_accuracy(choice, config.max_loss))
    if plan.answer == "logits":
        return Answerer(choice.prepared)
    prepared = prepare(bundle, replace(choice.config, answer=plan.answer), calibration=pictures.calibration)
    images = pictures.labelled.images[:MOST_CALIBRATION]
    cosine = check(prepared, images, own_answers(bundle, images, plan.answer)).cosine
    events.note(f"int8: the vectors' mean cosine with those of float32 is {cosine:.4f} on {len(images):,} pictures")
    return Answerer(prepared)


def _progress(events: Events) -> Callable[[int, int], None]:
    return lambda done, total: events.progress("trying engines", done, total)


def _first_pictures(loader: Loader, count: int) -> Tensor:
    """The first that can be read, (up to count, C, H, W) uint8."""
    images: list[Tensor] = []
    for batch in loader.once():
        images.append(batch.images)
        if sum(map(len, images)) >= count:
            break
    return torch.cat(images)[:count]


def _tell(choice: Choice) -> str:
    """ "engine: torch bfloat16 (4.1 ms a picture, off by 0.31 % at most; torch float32 9.8)"."""
    facts, others, refused = [], [], []
    for candidate in choice.candidates:
        name = f"{candidate.engine} {candidate.precision}"
        if candidate.refused is not None:
            refused.append(name)
        elif candidate.milliseconds is not None and choice.is_chosen(candidate):
            facts.append(
                f"{candidate.milliseconds:.1f} ms a picture{' when tried before' if choice.is_remembered else ''}"
            )
        elif candidate.milliseconds is not None:
            others.append(f"{name} {candidate.milliseconds:.1f}")
    if choice.check is not None and choice.config.precision != "int8":
        facts.append(f"off by {100 * choice.check.off:.2f} % at most")
    parts = [", ".join(facts), ", ".join(others), f"refused: {', '.join(refused)}" if refused else ""]
    told = "; ".join(part for part in parts if part)
    return f"engine: {choice.config.engine} {choice.config.precision}{f' ({told})' if told else ''}"


def _tell_accuracy(choice: Choice, max_loss: float) -> str:
    """ "int8: 91.20 % of 2,000 pictures, float32 91.30 %: 0.10 points lost, 0.30 allowed"."""
    found = choice.check
    assert found is not None
    assert found.accuracy is not None
    assert found.own_accuracy is not None
    assert found.loss is not None
    return (
        f"int8: {100 * found.accuracy:.2f} % of {found.pictures:,} pictures, float32 {100 * found.own_accuracy:.2f} %:"
        f" {100 * found.loss:.2f} points lost, {100 * max_loss:.2f} allowed"
    )
