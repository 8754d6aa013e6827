"""What a report shows, as plain values: filled from a run's results, turned into HTML by page.py. Free of torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from vitrail.evaluators.comparison import Comparison
from vitrail.evaluators.evaluation import Evaluation

# (H, W), (H, W, 1) or (H, W, 3) uint8 pixels, or the bytes of a PNG or JPEG file. Larger ones are shrunk.
PictureLike = np.ndarray | bytes


@dataclass(frozen=True)
class Thumbnail:
    key: str  # names the picture: a path, or "digits/17"
    picture: PictureLike | None = None  # None: could not be read, shown as a blank tile
    note: str = ""  # "shirt", "truncated after 3 kB"


@dataclass(frozen=True)
class DataFinding:
    """One thing the data check found, in a sentence, with some of the pictures that it speaks of."""

    severity: Literal["error", "warning", "note"]
    message: str
    # Groups are shown side by side: the two copies of a duplicate, or the one broken file on its own.
    groups: Sequence[Sequence[Thumbnail]] = ()
    num_groups: int | None = None  # how many there are in all, where groups holds only some of them


@dataclass(frozen=True)
class Floor:
    """What the model has to beat: "the most frequent class (pants)", "ridge regression on pixels"."""

    name: str
    evaluation: Evaluation  # on the same test pictures
    comparison: Comparison | None = None  # of the model with this floor


@dataclass(frozen=True)
class Mistake:
    key: str
    true: str
    predicted: str
    probability: float  # that the model gave to `predicted`
    picture: PictureLike | None = None
    rollout: PictureLike | None = None  # the picture as the model sees it, bright where the answer came from


@dataclass(frozen=True)
class HeadDistances:
    """How far each head looks."""

    pixels: np.ndarray  # (layers, heads)
    even: float  # pixels of a head that pays all patches the same
    definition: str  # as `distance_plot` takes it
    num_pictures: int  # that were averaged over


@dataclass(frozen=True)
class ReportData:
    """Everything on the page. Whatever is empty is left out of it.

    `history` holds rows as metrics.jsonl does: "step", and any of "epoch", "loss", "learning_rate",
    "validation_accuracy", "validation_loss"; a row of an evaluation may lack the epoch, which is then that of its step.
    """

    title: str  # of the run: "clothing-photos"
    classes: tuple[str, ...]
    test: Evaluation
    floors: Sequence[Floor] = ()  # the strongest last; the page speaks of that one
    split_counts: Mapping[str, Sequence[int]] = field(default_factory=dict)  # split -> pictures of each class
    findings: Sequence[DataFinding] = ()
    history: Sequence[Mapping[str, float]] = ()
    best_step: int | None = None  # whose weights were kept
    kept: str = ""  # which weights were kept, and why: a sentence or two
    # Learning rate, accuracy on held-out pictures (None: it diverged), whether it was chosen.
    tried_rates: Sequence[tuple[float, float | None, bool]] = ()
    mistakes: Sequence[Mistake] = ()  # the most confident first
    distances: HeadDistances | None = None  # of models that have attention of all patches on all
    recipe: str = ""  # name
    recipe_reason: str = ""  # one sentence: why this recipe
    advice: Sequence[str] = ()  # what would help, one sentence each
    config: Mapping[str, Any] = field(default_factory=dict)  # as config.json
    command: str = ""  # that made the run
    run_folder: str = ""  # as a user would type it: "runs/clothing-photos"
    environment: Mapping[str, str] = field(default_factory=dict)
    durations: Mapping[str, float] = field(default_factory=dict)  # phase -> seconds
    model: str = ""  # one line: "ViT, width 192, 6 blocks, patch 16, 96 x 96 pixels"
    num_parameters: int | None = None
