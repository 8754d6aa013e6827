"""A model's answers for the pictures of a loader; the one way in which every task asks a model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from vitrail.data.batches import normalize
from vitrail.data.config import LoaderConfig, Preprocessing
from vitrail.data.loader import MAX_WORKERS, Loader, num_cores
from vitrail.data.sources.base import Source
from vitrail.data.transforms import EvaluationTransform
from vitrail.engines.base import Prepared
from vitrail.errors import WeightsError
from vitrail.tasks.pace import Pace
from vitrail.tasks.predictor import probabilities_of
from vitrail.training.events import Events
from vitrail.training.precision import Precision, autocast
from vitrail.weights.bundle import Bundle
from vitrail.weights.load import load


@dataclass(frozen=True)
class Answers:
    """Rows in the order of the loader's indices; pictures that could not be read have none."""

    indices: npt.NDArray[np.int64]  # (N,) into the source
    labels: npt.NDArray[np.int64]  # (N,)
    values: npt.NDArray[np.float32]  # (N, K): logits, or whatever `forward` answered with
    broken: tuple[tuple[int, str], ...]  # (index, message)
    temperature: float = 1.0  # of the probabilities

    @property
    def probabilities(self) -> npt.NDArray[np.float64]:
        """(N, K) softmax of values / temperature; each row sums to 1."""
        return probabilities_of(self.values, self.temperature)


def ask(
    model: nn.Module,
    loader: Loader,
    preprocessing: Preprocessing,
    *,
    forward: Callable[[Tensor], Tensor] | None = None,
    prepared: Prepared | None = None,
    precision: Precision = "float32",
    threads: int = 0,
    may_change_pace: bool = True,
    temperature: float = 1.0,
    progress: Callable[[int, int], None] | None = None,
) -> Answers:
    """Run `forward` (the model itself by default) over every picture of `loader`, in evaluation mode.

    Args:
        forward: (B, C, H, W) normalised pictures -> (B, K).
        prepared: an engine's, which takes pictures as they are loaded and answers in place of the model.
        precision: of the model itself: "bfloat16" for autocast.
        threads: decode in so many threads of this process (`Loader.once`), and try how many the model does best with,
            unless an engine has compiled it for a number of them.
        may_change_pace: False: leave the model's threads as they are.
        temperature: of the probabilities, which softmax(values / temperature) gives.
        progress: called with (pictures done, pictures in all).
    """
    parts: list[Answers] = []
    done = 0
    batches = ask_in_batches(
        model,
        loader,
        preprocessing,
        forward=forward,
        prepared=prepared,
        precision=precision,
        threads=threads,
        may_change_pace=may_change_pace,
    )
    for part in batches:
        parts.append(part)
        done += len(part.indices) + len(part.broken)
        if progress is not None:
            progress(done, len(loader.indices))
    values = [part.values for part in parts if len(part.indices)]
    return Answers(
        np.concatenate([part.indices for part in parts]) if parts else np.empty(0, np.int64),
        np.concatenate([part.labels for part in parts]) if parts else np.empty(0, np.int64),
        np.concatenate(values) if values else np.empty((0, 1), np.float32),
        tuple(item for part in parts for item in part.broken),
        temperature,
    )


def ask_in_batches(
    model: nn.Module,
    loader: Loader,
    preprocessing: Preprocessing,
    *,
    forward: Callable[[Tensor], Tensor] | None = None,
    prepared: Prepared | None = None,
    precision: Precision = "float32",
    threads: int = 0,
    may_change_pace: bool = True,
) -> Iterator[Answers]:
    """As `ask`, but the rows of each batch as they come, for more pictures than fit into memory."""
    device = next(model.parameters()).device

    def answer(images: Tensor) -> npt.NDArray[np.float32]:
        if prepared is not None:
            return np.asarray(prepared(images).numpy())
        # Modes are entered anew for each batch: a generator must not leave them on while its caller runs.
        with torch.inference_mode(), autocast(device, precision):
            output = (forward or model)(normalize(images.to(device), preprocessing))
            return np.asarray(output.float().cpu().numpy())

    is_compiled = prepared is not None and prepared.description.is_compiled
    may_change = may_change_pace and threads > 0 and not is_compiled
    num_batches = -(-len(loader.indices) // loader.batch_size)
    was_training = model.training
    model.eval()
    try:
        with (
            Pace(answer, device, num_batches if may_change else 0) as pace,
            contextlib.closing(loader.once(threads)) as batches,  # type: ignore[type-var]
        ):
            for batch in batches:
                values = pace.answer(batch.images) if len(batch.indices) else np.empty((0, 1), np.float32)
                yield Answers(batch.indices.numpy(), batch.labels.numpy(), values, batch.broken)
    finally:
        model.train(was_training)


def find_loader(source: Source, preprocessing: Preprocessing, batch_size: int) -> tuple[Loader, int]:
    """A loader of all pictures of `source` as evaluation sees them, and the threads that should decode them."""
    loader = Loader(
        source,
        np.arange(len(source)),
        EvaluationTransform(preprocessing),
        batch_size=batch_size,
        seed=0,
        config=LoaderConfig(num_workers=0),
    )
    # As many as there are cores: they sleep while enough batches are waiting, so where the model is the slower part
    # they take from it no more than decoding costs. A picture or two are decoded sooner than a thread pays.
    return loader, 0 if len(source) <= batch_size else min(num_cores(), MAX_WORKERS)


def load_classifier(spec: str, events: Events) -> Bundle:
    """The model of a bundle, a run, a weights file, a name of the catalog or a hub repository, for answers.

    Raises:
        WeightsError: it cannot be read, or has no head.
    """
    bundle = load(spec, progress=events.download)
    if bundle.certificate is not None:
        events.note(f"weights: {bundle.certificate.summary()}")
    if bundle.config.model.num_classes == 0:
        raise WeightsError(
            f"{spec}: has no head, so it knows no classes; train one with: vitrail fit PHOTOS --weights {spec}"
        )
    return bundle
