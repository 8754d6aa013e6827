"""What a sweep over learning rates found, kept beside its final run, whose end, page and bundle tell of it."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vitrail.errors import RunError
from vitrail.storage import write_file, write_json

SWEEP_FILE, TABLE_FILE = "sweep.json", "sweep.csv"


@dataclass(frozen=True)
class TriedRate:
    """One run of a sweep, with the weights after its last update, on the held-out pictures."""

    learning_rate: float
    accuracy: float | None  # None, as all that follows: the run diverged
    loss: float | None  # mean negative log probability of the label, in nats
    temperature: float | None  # that calibrates it
    seconds: float  # of training
    folder: str  # below that of the sweep


@dataclass(frozen=True)
class Sweep:
    rates: tuple[TriedRate, ...]  # at least one did not diverge
    num_train: int  # pictures that its runs learnt from
    num_held_out: int
    given: bool  # whether these are validation pictures that the data brings; else training pictures

    @property
    def chosen(self) -> TriedRate:
        """The most accurate; of equally accurate ones that with the smallest loss."""
        return max((rate for rate in self.rates if rate.accuracy is not None), key=_score)

    def describe(self) -> str:
        """ "Learning rate 0.01, the best of 0.001, 0.01 on 1,000 held-out training pictures (98.1 % named right)." """
        tried, chosen = ", ".join(f"{rate.learning_rate:g}" for rate in self.rates), self.chosen
        on = f"{self.num_held_out:,} {'validation' if self.given else 'held-out training'} pictures"
        return (
            f"Learning rate {chosen.learning_rate:g}, the best of {tried} on {on}"
            f" ({100 * (chosen.accuracy or 0.0):.1f} % named right)."
        )

    def provenance(self) -> dict[str, Any]:
        """For the bundle of the last run."""
        accuracies = [rate.accuracy for rate in self.rates]
        tried = ["diverged" if accuracy is None else f"{accuracy:.2%}" for accuracy in accuracies]
        rates = [f"{rate.learning_rate:g}" for rate in self.rates]
        return {
            "learning_rate": self.chosen.learning_rate,
            "learning_rates_tried": dict(zip(rates, tried, strict=True)),
        }

    def to_json(self) -> dict[str, Any]:
        return {"chosen": self.chosen.learning_rate, **asdict(self)}


def _score(rate: TriedRate) -> tuple[float, float]:
    return rate.accuracy or 0.0, -(rate.loss or 0.0)


def write_sweep(folder: Path, sweep: Sweep) -> None:
    """sweep.json and sweep.csv."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    names = ("learning_rate", "accuracy", "loss", "temperature", "seconds", "folder")
    writer.writerow([*names, "chosen"])
    for rate in sweep.rates:
        writer.writerow([*(getattr(rate, name) for name in names), int(rate == sweep.chosen)])
    write_file(folder / TABLE_FILE, text.getvalue().encode())
    write_json(folder / SWEEP_FILE, sweep.to_json())


def read_sweep(folder: Path) -> Sweep | None:
    """What `write_sweep` wrote; None for a run without a sweep.

    Raises:
        RunError: it is damaged.
    """
    path = folder / SWEEP_FILE
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_bytes())
        rates = tuple(TriedRate(**rate) for rate in record["rates"])
        return Sweep(rates, record["num_train"], record["num_held_out"], record["given"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: damaged ({error}); remove it, and give the command of the sweep again") from error
