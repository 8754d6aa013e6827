"""What the objectives that predict patches have in common: targets made of pixels, a head, and the loss of guessing.

Dosovitskiy et al. 2021, appendix B.1.2, tried three targets: the mean colour of a patch in 3 bits a channel (512
classes for RGB), a 4x4 version of the patch in such colours (16 predictions in parallel), and all its pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.data.config import Preprocessing
from vitrail.errors import ConfigError
from vitrail.layers.patch_embed import patchify
from vitrail.models.vit import VisionTransformer
from vitrail.objectives.base import Objective, ObjectiveOutput
from vitrail.objectives.config import PatchTarget

NUM_LEVELS = 8  # 3 bits
DOWNSAMPLED_SIDE = 4


def color_classes(colors: Tensor) -> Tensor:
    """Colours as classes: sum of level_c * 8 ** c over the channels c, with 8 levels a channel.

    No source states where one level ends and the next begins: here the levels are equal parts of [0, 255], each with
    its lower edge, and 255 belongs to the last.

    Args:
        colors: (..., channels), in [0, 255]: not divided before, so that no edge is moved by rounding.
    Returns:
        (...,) int64, below 8 ** channels.
    """
    levels = (colors * NUM_LEVELS / 255).floor().long().clamp_(0, NUM_LEVELS - 1)
    weights = torch.tensor([NUM_LEVELS**channel for channel in range(colors.shape[-1])], device=colors.device)
    return (levels * weights).sum(dim=-1)


def mean_colors(images: Tensor, cell_size: int) -> Tensor:
    """Mean colour of every square cell, (batch, cells in raster order, channels); images (batch, channels, H, W)."""
    return F.avg_pool2d(images, cell_size).flatten(2).transpose(1, 2)


def downsampled_patches(images: Tensor, patch_size: int) -> Tensor:
    """Every patch shrunk to 4x4 by means: (batch, patches, 16, channels); patch_size is a multiple of 4."""
    channels = images.shape[1]
    cell_size = patch_size // DOWNSAMPLED_SIDE
    cells = F.avg_pool2d(images, cell_size)
    return patchify(cells, DOWNSAMPLED_SIDE).reshape(len(images), -1, DOWNSAMPLED_SIDE**2, channels)


class PatchPrediction(Objective):
    """An objective that predicts patches from tokens. Labels are not looked at.

    Args:
        model: with patches cut straight from the pixels (stem "patch"): a convolutional stem would carry what is to
            be predicted into the neighbours.
        preprocessing: its mean and std normalise the pictures.
        target: what of a patch is predicted.

    Raises:
        ConfigError: a model or a target that does not fit.
    """

    model: VisionTransformer

    def __init__(self, model: VisionTransformer, preprocessing: Preprocessing, target: PatchTarget) -> None:
        super().__init__()
        config = model.config
        if config.stem != "patch":
            raise ConfigError(
                f"model.stem '{config.stem}' sees across patches, so a hidden patch would not be hidden;"
                " set it to 'patch'"
            )
        if target == "downsampled" and config.patch_size % DOWNSAMPLED_SIDE:
            raise ConfigError(
                f"objective.target 'downsampled' needs a model.patch_size that {DOWNSAMPLED_SIDE} divides,"
                f" not {config.patch_size}"
            )
        self.model, self.preprocessing, self.target = model, preprocessing, target
        self.num_color_classes = NUM_LEVELS**config.in_channels
        # Predictions of one patch: classes of one colour, of 16 colours, or the value of every pixel.
        self.num_outputs = {
            "mean_color": self.num_color_classes,
            "downsampled": DOWNSAMPLED_SIDE**2 * self.num_color_classes,
            "pixels": config.patch_size**2 * config.in_channels,
        }[target]
        # At zero, as the head of a classifier: it begins at the loss of guessing evenly, and nothing is drawn.
        self.head = nn.Linear(config.width, self.num_outputs)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def targets_of(self, pictures: Tensor) -> Tensor:
        """What there is to predict in every patch.

        Args:
            pictures: (batch, channels, height, width) uint8.
        Returns:
            "mean_color": (batch, patches, 1) classes; "downsampled": (batch, patches, 16) classes; "pixels":
            (batch, patches, patch_size ** 2 * channels) normalised values in (row, column, channel) order.
        """
        patch_size = self.model.config.patch_size
        values = pictures.float()
        if self.target == "mean_color":
            return color_classes(mean_colors(values, patch_size)).unsqueeze(2)
        if self.target == "downsampled":
            return color_classes(downsampled_patches(values, patch_size))
        mean = torch.tensor(self.preprocessing.mean, device=values.device).view(1, -1, 1, 1)
        std = torch.tensor(self.preprocessing.std, device=values.device).view(1, -1, 1, 1)
        return patchify((values / 255 - mean) / std, patch_size)

    def loss_of(self, tokens: Tensor, targets: Tensor) -> ObjectiveOutput:
        """Mean cross entropy in nats and "accuracy", or for "pixels" the mean squared error.

        Args:
            tokens: (batch, K, width), the representations of K patches.
            targets: (batch, K, T), theirs, as `targets_of` gives them.
        """
        predictions = self.head(tokens).float()  # a loss in bfloat16 would lose the small differences
        if self.target == "pixels":
            return ObjectiveOutput(F.mse_loss(predictions, targets), {})
        logits = predictions.view(*targets.shape, self.num_color_classes)
        loss = F.cross_entropy(logits.flatten(0, 2), targets.flatten())
        accuracy = (logits.argmax(dim=-1) == targets).float().mean()
        return ObjectiveOutput(loss, {"accuracy": accuracy})

    def guessing_loss(self, batches: Iterable[Tensor]) -> float:
        """The loss of the best answer that looks at no picture: what a network that learns nothing comes to.

        The entropy of the targets in nats (for "downsampled" the mean over the 16 places), or for "pixels" their
        variance, each about the mean of its own place in the patch.

        Args:
            batches: of pictures (batch, channels, height, width) uint8.
        Raises:
            ValueError: no picture.
        """
        total, counts, sums, squares = 0, None, torch.zeros(()), torch.zeros(())
        for pictures in batches:
            targets = self.targets_of(pictures).flatten(0, 1).cpu()  # (patches, T)
            total += len(targets)
            if self.target == "pixels":
                sums = sums + targets.double().sum(dim=0)
                squares = squares + targets.double().square().sum(dim=0)
            else:
                places = torch.arange(targets.shape[1]) * self.num_color_classes
                length = targets.shape[1] * self.num_color_classes
                found = (targets + places).flatten().bincount(minlength=length).view(targets.shape[1], -1)
                counts = found if counts is None else counts + found
        if not total:
            raise ValueError("no picture to know the targets from")
        if counts is None:
            return float((squares / total - (sums / total).square()).mean())
        shares = counts.double() / total
        return float(torch.special.entr(shares).sum(dim=1).mean())

    def score(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        """The smaller loss is the better."""
        return (-metrics["loss"],)
