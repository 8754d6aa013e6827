"""The linear probes of self-supervised work: a linear classifier on frozen features by momentum SGD."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

BATCH_SIZE = 256
MOMENTUM = 0.9
HEAD_STD = 0.01  # of the first weights; biases begin at zero
# Published rates are for the millions of updates of ImageNet: few pictures make few, and need larger steps.
FACTORS = (1.0, 10.0, 100.0)


@dataclass(frozen=True)
class Protocol:
    epochs: int
    learning_rate: float  # for BATCH_SIZE rows; the published rule is so many times batch / 256
    warmup_epochs: int = 0
    normalizes: bool = False  # batch norm without learned scale before the classifier, eps 1e-6


# No weight decay and a cosine in all of them. What is not as published: features of the picture as it is evaluated in
# place of random crops, batches of 256 in place of 1,024 and more, and SGD where MAE has LARS for its batch of 16,384.
PROTOCOLS: dict[str, Protocol] = {
    "dino": Protocol(epochs=100, learning_rate=0.001),  # Caron et al. 2021
    "mae": Protocol(epochs=90, learning_rate=0.1, warmup_epochs=10, normalizes=True),  # He et al. 2022
    "moco-v3": Protocol(epochs=90, learning_rate=3.0),  # Chen et al. 2021
}


@dataclass(frozen=True)
class SGDProbe:
    """See `fit_sgd`."""

    norm: nn.Module
    head: nn.Linear
    learning_rate: float  # that was chosen
    validation_accuracy: float

    def predict(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
        """(N, D) features -> (N,) classes."""
        return _predict(self.norm, self.head, _tensor(features))


def fit_sgd(
    features: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    validation_features: npt.NDArray[np.float32],
    validation_labels: npt.NDArray[np.int64],
    num_classes: int,
    protocol: Protocol,
    *,
    factors: Sequence[float] = FACTORS,
    seed: int = 0,
) -> SGDProbe:
    """Fit on (N, D) features with (N,) labels; the learning rate is the published one times the best of `factors`.

    The classifiers of all rates learn side by side from the same batches, with gradients that do not meet. Of equally
    good ones the smallest rate is taken.
    """
    if not len(validation_labels) or not factors:
        raise ValueError("validation rows and factors: one or more of each is needed, to choose the learning rate")
    generator = torch.Generator().manual_seed(seed)
    inputs, targets = _tensor(features), torch.from_numpy(np.array(labels, dtype=np.int64))
    norm = nn.BatchNorm1d(inputs.shape[1], eps=1e-6, affine=False) if protocol.normalizes else nn.Identity()
    heads = [_head(inputs.shape[1], num_classes, generator) for _ in factors]
    rates = [protocol.learning_rate * min(len(inputs), BATCH_SIZE) / BATCH_SIZE * factor for factor in factors]
    groups = [{"params": list(head.parameters()), "lr": rate} for head, rate in zip(heads, rates, strict=True)]
    optimizer = torch.optim.SGD(groups, lr=rates[0], momentum=MOMENTUM)
    num_batches = math.ceil(len(inputs) / BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _share(step / num_batches, protocol))
    for _ in range(protocol.epochs):
        for rows in torch.randperm(len(inputs), generator=generator).chunk(num_batches):
            seen = norm(inputs[rows])
            torch.stack([F.cross_entropy(head(seen), targets[rows]) for head in heads]).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    norm.eval()
    checked = _tensor(validation_features)
    scores = [float((_predict(norm, head, checked) == validation_labels).mean()) for head in heads]
    best = int(np.argmax(scores))
    return SGDProbe(norm, heads[best], rates[best], scores[best])


def _head(num_features: int, num_classes: int, generator: torch.Generator) -> nn.Linear:
    head = nn.Linear(num_features, num_classes)
    with torch.no_grad():
        head.weight.normal_(std=HEAD_STD, generator=generator)
        head.bias.zero_()
    return head


def _share(epoch: float, protocol: Protocol) -> float:
    """Of the peak learning rate: linear to it, then half a cosine to 0."""
    if epoch < protocol.warmup_epochs:
        return epoch / protocol.warmup_epochs
    progress = (epoch - protocol.warmup_epochs) / (protocol.epochs - protocol.warmup_epochs)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def _tensor(features: npt.NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(np.array(features, dtype=np.float32))  # a copy: a cached array is mapped and read-only


@torch.no_grad()
def _predict(norm: nn.Module, head: nn.Linear, features: Tensor) -> npt.NDArray[np.int64]:
    return np.asarray(head(norm(features)).argmax(dim=1).numpy())
