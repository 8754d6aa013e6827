"""The pre-activation ResNet of BiT (Kolesnikov et al. 2020); state-dict keys follow timm's resnetv2."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vitrail.layers.initialization import initialize_layers
from vitrail.layers.std_conv import StandardizedConv2d
from vitrail.models.resnet_config import EXPANSION, MaxPoolPadding, ResNetConfig


class ResNet(nn.Module):
    """A pyramid of feature maps of a picture, and a head on its mean.

    Args:
        config: the architecture.
        generator: draws the initial kernels (see `initialize`); None: torch's global generator.
        initialize: False leaves the parameters unfilled, for a caller that loads every one of them.

    Attributes:
        config: as given.
        gradient_checkpointing: True trades time for memory: units are computed again in the backward pass.
    """

    def __init__(
        self, config: ResNetConfig, *, generator: torch.Generator | None = None, initialize: bool = True
    ) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        device = torch.get_default_device()
        # Without storage first: torch's own initialisation would draw from the global generator.
        with torch.device("meta"):
            self._build(config)
        self._apply(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype, device=device))
        if initialize:
            self.initialize(generator)

    def _build(self, config: ResNetConfig) -> None:
        self.stem = Root(config)
        channels, stages = config.root_width, []
        for index in range(len(config.depths)):
            stages.append(Stage(_units(config, index, channels)))
            channels = EXPANSION * config.root_width * 2**index
        self.stages = nn.ModuleList(stages)
        self.norm: nn.Module = group_norm(config, channels)
        self.head = Head(channels, config.num_classes, config.head_bias_init)

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """LeCun normal kernels (of which a standardised one keeps no scale), norms as the identity, a head of zero."""
        initialize_layers(self, generator)

    def _check(self, images: Tensor) -> None:
        if images.ndim != 4 or images.shape[1] != self.config.in_channels:
            raise ValueError(
                f"pictures of shape {tuple(images.shape)} are not (batch, channels, height, width) with "
                f"{self.config.in_channels} channels: convert them, or build the model with their in_channels"
            )
        if not images.is_floating_point():
            raise ValueError(f"pictures of {images.dtype} are not floating point: scale and normalise them first")

    def _run_stage(self, stage: nn.Module, features: Tensor) -> Tensor:
        assert isinstance(stage, Stage)
        for unit in stage.blocks:
            if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
                features = checkpoint(unit, features, use_reentrant=False)
            else:
                features = unit(features)
        return features

    def forward_features(self, images: Tensor) -> Tensor:
        """Pictures (batch, channels, height, width) of any size -> (batch, num_features, rows, columns).

        The last feature map after the final norm and ReLU; rows and columns are the sides / 32, rounded up.

        Raises:
            ValueError: pictures of other channels than the config's, or of whole numbers.
        """
        self._check(images)
        features = self.stem(images)
        for stage in self.stages:
            features = self._run_stage(stage, features)
        return F.relu(self.norm(features))

    def pool(self, features: Tensor) -> Tensor:
        """Feature map of `forward_features` -> its mean, (batch, num_features)."""
        return features.mean(dim=(2, 3))

    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Feature map of `forward_features` -> logits (batch, num_classes).

        Args:
            pre_logits: answer with what the head sees, (batch, num_features), the features used for linear probes.
        """
        pooled = self.pool(features)
        return pooled if pre_logits else self.head(pooled)

    def forward(self, images: Tensor) -> Tensor:
        """Pictures (batch, channels, height, width) -> logits (batch, num_classes), or features where it is 0."""
        return self.forward_head(self.forward_features(images))

    def forward_intermediates(self, images: Tensor, stages: Sequence[int] | None = None) -> dict[str, Tensor]:
        """Every stage of the way by name, each (batch, channels, rows, columns).

        Args:
            stages: those to keep, counted from 0, or from -1 backwards; None: all.

        Returns:
            "stem": after the root; "stages.<i>": what stage i gives, for those asked for; "norm": after the final norm
            and ReLU.

        Raises:
            ValueError: a stage that does not exist.
        """
        count = len(self.stages)
        for stage in stages or ():
            if not -count <= stage < count:
                raise ValueError(f"stage {stage} does not exist: the model has {count}, 0 to {count - 1}")
        wanted = set(range(count)) if stages is None else {stage % count for stage in stages}
        self._check(images)
        features = self.stem(images)
        kept = {"stem": features}
        for index, module in enumerate(self.stages):
            features = self._run_stage(module, features)
            if index in wanted:
                kept[f"stages.{index}"] = features
        kept["norm"] = F.relu(self.norm(features))
        return kept


class Root(nn.Module):
    """7x7 convolution of stride 2 and 3x3 maximum of stride 2, without norm or activation between them."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.conv = StandardizedConv2d(
            config.in_channels,
            config.root_width,
            7,
            stride=2,
            padding=3,
            eps=config.std_conv_eps,
            eps_under="variance",
        )
        self.max_pool_padding: MaxPoolPadding = config.max_pool_padding

    def forward(self, images: Tensor) -> Tensor:
        """(batch, in_channels, height, width) -> (batch, root_width, height / 4, width / 4), rounded up."""
        return self.pool(self.conv(images))

    def pool(self, features: Tensor) -> Tensor:
        """(batch, root_width, rows, columns) -> (batch, root_width, rows / 2, columns / 2), rounded up."""
        if self.max_pool_padding == "zero":
            return F.max_pool2d(F.pad(features, (1, 1, 1, 1)), 3, stride=2)
        return F.max_pool2d(features, 3, stride=2, padding=1)


class Stage(nn.Module):
    """Units of one width; the first changes the channels, and but for the first stage halves rows and columns."""

    def __init__(self, units: Iterable[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*units)

    def forward(self, features: Tensor) -> Tensor:
        """(batch, in_channels, rows, columns) -> (batch, 4 * middle, rows / stride, columns / stride), rounded up."""
        return self.blocks(features)


def _units(config: ResNetConfig, index: int, in_channels: int) -> Iterator[PreActivationUnit]:
    middle = config.root_width * 2**index
    yield PreActivationUnit(config, in_channels, middle, stride=1 if index == 0 else 2, projects=True)
    for _ in range(config.depths[index] - 1):
        yield PreActivationUnit(config, EXPANSION * middle, middle)


class PreActivationUnit(nn.Module):
    """x + 1x1(relu(norm(3x3(relu(norm(1x1(a))))))) with a = relu(norm(x)) (He et al. 2016b), stride on the 3x3.

    Where the shape changes, a 1x1 convolution of a, and not of x, takes the place of the first x.
    """

    def __init__(
        self, config: ResNetConfig, in_channels: int, middle: int, *, stride: int = 1, projects: bool = False
    ) -> None:
        super().__init__()
        out_channels = EXPANSION * middle
        self.downsample = Shortcut(config, in_channels, out_channels, stride) if projects else None
        self.norm1 = group_norm(config, in_channels)
        self.conv1 = standardized_conv(config, in_channels, middle, 1)
        self.norm2 = group_norm(config, middle)
        self.conv2 = standardized_conv(config, middle, middle, 3, stride)
        self.norm3 = group_norm(config, middle)
        self.conv3 = standardized_conv(config, middle, out_channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """(batch, in_channels, rows, columns) -> (batch, 4 * middle, rows / stride, columns / stride), rounded up."""
        activated = F.relu(self.norm1(features))
        shortcut = features if self.downsample is None else self.downsample(activated)
        inner = self.conv1(activated)
        inner = self.conv2(F.relu(self.norm2(inner)))
        return shortcut + self.conv3(F.relu(self.norm3(inner)))


class Shortcut(nn.Module):
    """The 1x1 convolution of a unit that changes the shape."""

    def __init__(self, config: ResNetConfig, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv = standardized_conv(config, in_channels, out_channels, 1, stride)

    def forward(self, features: Tensor) -> Tensor:
        """(batch, in_channels, rows, columns) -> (batch, out_channels, rows / stride, columns / stride)."""
        return self.conv(features)


class Head(nn.Module):
    """A 1x1 convolution of the pooled features, which starts at zero; none of 0 classes."""

    def __init__(self, width: int, num_classes: int, bias_init: float) -> None:
        super().__init__()
        self.fc = nn.Conv2d(width, num_classes, 1) if num_classes else nn.Identity()
        self.bias_init = bias_init

    def initialize(self, generator: torch.Generator | None) -> None:
        """Zero kernel, constant bias; nothing is drawn."""
        if isinstance(self.fc, nn.Conv2d):
            nn.init.zeros_(self.fc.weight)
            assert self.fc.bias is not None
            nn.init.constant_(self.fc.bias, self.bias_init)

    def forward(self, features: Tensor) -> Tensor:
        """(batch, width) -> (batch, num_classes), or as they came where there are none."""
        if isinstance(self.fc, nn.Conv2d):
            return F.linear(features, self.fc.weight[:, :, 0, 0], self.fc.bias)
        return features


def group_norm(config: ResNetConfig, channels: int) -> nn.GroupNorm:
    """The norm of a config over so many channels."""
    return nn.GroupNorm(config.num_groups, channels, eps=config.group_norm_eps)


def standardized_conv(
    config: ResNetConfig, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1
) -> StandardizedConv2d:
    """The convolution of a config, padded so that stride 1 keeps rows and columns."""
    return StandardizedConv2d(
        in_channels,
        out_channels,
        kernel_size,
        stride=stride,
        padding=kernel_size // 2,
        eps=config.std_conv_eps,
        eps_under="variance",
    )
