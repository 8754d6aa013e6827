"""A model's answers for the pictures of a loader; the one way in which every task asks a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from vitrail.data.batches import normalize
from vitrail.data.config import Preprocessing
from vitrail.data.loader import Loader
from vitrail.errors import WeightsError
from vitrail.training.events import Events
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
        values = self.values.astype(np.float64) / self.temperature
        exponentials = np.exp(values - values.max(axis=1, keepdims=True))
        return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


def ask(
    model: nn.Module,
    loader: Loader,
    preprocessing: Preprocessing,
    *,
    forward: Callable[[Tensor], Tensor] | None = None,
    precision: torch.dtype = torch.float32,
    temperature: float = 1.0,
    progress: Callable[[int, int], None] | None = None,
) -> Answers:
    """Run `forward` (the model itself by default) over every picture of `loader`, in evaluation mode.

    Args:
        forward: (B, C, H, W) normalised pictures -> (B, K).
        precision: float32, or bfloat16 for autocast.
        temperature: of the probabilities, which softmax(values / temperature) gives.
        progress: called with (pictures done, pictures in all).
    """
    parts: list[Answers] = []
    done = 0
    for part in ask_in_batches(model, loader, preprocessing, forward=forward, precision=precision):
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
    precision: torch.dtype = torch.float32,
) -> Iterator[Answers]:
    """As `ask`, but the rows of each batch as they come, for more pictures than fit into memory."""
    forward = forward or model
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        for batch in loader.once():
            values = np.empty((0, 1), np.float32)
            if len(batch.indices):
                # Entered anew for each batch: a generator must not leave its modes on while its caller runs.
                with (
                    torch.inference_mode(),
                    torch.autocast(device.type, torch.bfloat16, enabled=precision == torch.bfloat16),
                ):
                    output = forward(normalize(batch.images.to(device), preprocessing))
                    values = output.float().cpu().numpy()
            yield Answers(batch.indices.numpy(), batch.labels.numpy(), values, batch.broken)
    finally:
        model.train(was_training)


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
