"""`vitrail predict RUN PICTURES`: what a trained model sees in pictures."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tyro.conf import Positional

from vitrail.cli.answering import AnsweringOptions
from vitrail.cli.imports import heavy_imports
from vitrail.cli.output import percent, write_columns, write_json, write_text
from vitrail.cli.parsing import UsageError, parse
from vitrail.cli.terminal import Terminal

if TYPE_CHECKING:
    from vitrail.tasks.predictor import Prediction


@dataclass(frozen=True)
class Predict(AnsweringOptions):
    """Names and probabilities for pictures. Exits with 1 where no picture at all could be read."""

    model: Positional[str]
    """A bundle, or the run folder around it."""
    pictures: Positional[tuple[str, ...]]
    """Files, or folders whose pictures are taken."""
    top_k: int = 3
    """How many classes a picture, the most probable first."""
    json: bool = False
    """Answers as JSON."""
    csv: bool = False
    """Answers as CSV: file, label, probability, then the next classes."""


def run(arguments: list[str]) -> int:
    command = parse(Predict, arguments, prog="vitrail predict")
    if not command.pictures:
        raise UsageError("no picture was named. See `vitrail predict --help`.")
    if command.json and command.csv:
        raise UsageError("--json and --csv exclude each other.")
    answering = command.answering()
    with heavy_imports():
        from vitrail.tasks.predict import PredictConfig, predict
        from vitrail.training.events import Events

    terminal = Terminal()
    with Events(terminal) as events:
        config = PredictConfig(
            model=command.model,
            pictures=command.pictures,
            top_k=command.top_k,
            answering=answering,
        )
        predictions = predict(config, events)
    if command.json:
        write_json([prediction.to_json() for prediction in predictions])
    elif command.csv:
        write_text(_csv(predictions))
    else:
        _tell(predictions)
    broken = [prediction for prediction in predictions if prediction.error is not None]
    for prediction in broken:
        terminal.warning(f"{prediction.error}")
    # Every answer is out; a script must still notice that some picture has none.
    return 1 if broken else 0


def _csv(predictions: Sequence[Prediction]) -> str:
    top_k = max([1, *(len(prediction.top) for prediction in predictions)])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    more = [column for rank in range(2, top_k + 1) for column in (f"label_{rank}", f"probability_{rank}")]
    writer.writerow(["file", "label", "probability", *more, "error"])
    for prediction in predictions:
        answers = [value for label, probability in prediction.top for value in (label, f"{probability:.6f}")]
        writer.writerow([prediction.file, *answers, *[""] * (2 * top_k - len(answers)), prediction.error or ""])
    return text.getvalue()


def _tell(predictions: Sequence[Prediction]) -> None:
    rows = []
    for prediction in predictions:
        if prediction.error is None:
            best, *others = prediction.top
            rest = ", ".join(f"{label} {percent(probability)}" for label, probability in others)
            rows.append([prediction.file, best[0], percent(best[1]), f"({rest})" if rest else ""])
        else:
            rows.append([prediction.file, "cannot be read", "", ""])
    write_columns(rows, right=(2,))
