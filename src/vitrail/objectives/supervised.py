"""Classification by labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.data.batches import augment_batch, normalize
from vitrail.data.config import BatchAugmentation, Preprocessing
from vitrail.data.loader import Batch
from vitrail.objectives.base import Inputs, Objective, ObjectiveOutput
from vitrail.objectives.config import SupervisedConfig


def softmax_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy against a distribution over the classes, of each picture.

    Args:
        logits, targets: (B, K); the rows of targets sum to 1.
    Returns:
        (B,)
    """
    return -(targets * F.log_softmax(logits, dim=1)).sum(dim=1)


def sigmoid_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross entropy of every class, summed over the classes, of each picture (big_vision's `sigmoid_xent`).

    The sum, not the mean: with thousands of classes a mean would make the gradients vanish.

    Args:
        logits, targets: (B, K); targets in [0, 1].
    Returns:
        (B,)
    """
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(dim=1)


LOSSES = {"softmax": softmax_loss, "sigmoid": sigmoid_loss}


def smooth_labels(targets: Tensor, smoothing: float) -> Tensor:
    """(1 - smoothing) * targets + smoothing / K (Szegedy et al. 2016, section 7), (B, K) -> (B, K)."""
    return targets * (1 - smoothing) + smoothing / targets.shape[1]


def class_weights(counts: Sequence[int]) -> Tensor:
    """Weights of the classes, (K,), by inverse frequency: each class that has pictures weighs as much as another.

    Scaled so that the mean weight of a training picture is 1, which leaves the learning rate as it was.

    Args:
        counts: training pictures of each class.
    Raises:
        ValueError: no picture at all, or a negative count.
    """
    number = torch.as_tensor(counts, dtype=torch.float64)
    if number.numel() == 0 or bool((number < 0).any()) or number.sum() == 0:
        raise ValueError(f"class counts {list(counts)[:10]} hold no pictures to weigh")
    present = number > 0
    weights = number.sum() / (present.sum() * number.clamp(min=1))
    return torch.where(present, weights, 0.0).float()


def log_shares(counts: Sequence[int]) -> Tensor:
    """Logarithm of each class's share of the training pictures, (K,); a class without any counts as one picture."""
    number = torch.as_tensor(counts, dtype=torch.float64).clamp(min=1)
    return (number / number.sum()).log().float()


class Supervised(Objective):
    """Softmax or sigmoid loss of a classifier, with label smoothing, MixUp and CutMix, and weights of the classes.

    Dosovitskiy et al. 2021, section 3.2 and appendix B.1.

    Args:
        model: (B, C, H, W) normalised pictures -> (B, K) logits.
        preprocessing: its mean and std normalise the pictures.
        class_counts: training pictures of each of the K classes.
    """

    class_weights: Tensor | None
    log_prior: Tensor | None

    def __init__(
        self,
        model: nn.Module,
        config: SupervisedConfig,
        batch_augmentation: BatchAugmentation,
        preprocessing: Preprocessing,
        class_counts: Sequence[int],
    ) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.batch_augmentation = batch_augmentation
        self.preprocessing = preprocessing
        self.num_classes = len(class_counts)
        weights = class_weights(class_counts) if config.balance else None
        self.register_buffer("class_weights", weights, persistent=False)
        prior = config.prior_strength * log_shares(class_counts) if config.prior_strength else None
        self.register_buffer("log_prior", prior, persistent=False)

    def prepare(self, batch: Batch, generator: torch.Generator) -> Inputs:
        """{"images": (B, C, H, W) float32, "targets": (B, K)}, mixed but not smoothed."""
        images = normalize(batch.images.to(self.device, non_blocking=True), self.preprocessing)
        labels = batch.labels.to(self.device, non_blocking=True)
        images, targets = augment_batch(images, labels, self.num_classes, self.batch_augmentation, generator)
        return {"images": images, "targets": targets}

    def forward(self, inputs: Inputs, step: int) -> ObjectiveOutput:
        """Loss, and "accuracy" against the class that has the largest share of the (mixed) target."""
        targets = inputs["targets"]
        logits = self.model(inputs["images"]).float()  # a loss in bfloat16 would lose the small differences
        adjusted = logits if self.log_prior is None else logits + self.log_prior
        losses = LOSSES[self.config.loss](adjusted, smooth_labels(targets, self.config.label_smoothing))
        if self.class_weights is not None:
            losses = losses * (targets @ self.class_weights)
        accuracy = (logits.argmax(dim=1) == targets.argmax(dim=1)).float().mean()
        return ObjectiveOutput(losses.mean(), {"accuracy": accuracy})

    def score(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        """Accuracy; between equal accuracies, the smaller loss (where `metrics` has it)."""
        return (metrics["accuracy"], -metrics.get("loss", 0.0))
