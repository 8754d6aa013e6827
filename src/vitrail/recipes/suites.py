"""Suites: data sets on which a backbone is compared with what was published, as tables. Free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vitrail.data.vtab import EXPECTED_MODELS, VTAB
from vitrail.errors import ConfigError, did_you_mean
from vitrail.models.config import ViTConfig
from vitrail.models.kinds import ModelConfig, get_model_config
from vitrail.models.resnet_config import ResNetConfig


@dataclass(frozen=True)
class SuiteTask:
    """One line of a suite."""

    title: str
    group: str
    data: str  # as DataConfig.source, without a folder
    recipe: str  # that fine-tunes on it
    num_test: int  # pictures that the published figures are over
    expected: Mapping[str, float]  # column -> published top-1 in %
    # Of the training pictures, to choose the settings by; None: the data's own validation pictures, which are learnt
    # from in the end, too.
    held_out_share: float | None = None
    # The task whose predictions are scored again, by ImageNet-ReaL's labels, in place of a training of its own.
    scored_from: str | None = None

    @property
    def published(self) -> str:
        """The name of its data set among the published ones."""
        return self.data.removeprefix("vtab:")


@dataclass(frozen=True)
class Suite:
    title: str
    source: str  # of the expected figures
    digits: int  # with which they are printed
    reference: str  # the column that is shown beside a model that no column is of
    tasks: Mapping[str, SuiteTask]

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(task.group for task in self.tasks.values()))

    def columns_of(self, model: ModelConfig) -> tuple[str, ...]:
        """The columns ("ViT-L/16, ImageNet-21k") of models of this one's size; none where there are none."""
        columns = dict.fromkeys(column for task in self.tasks.values() for column in task.expected)
        return tuple(
            column for column in columns if _shape(get_model_config(column.partition(",")[0])) == _shape(model)
        )


def _shape(config: ModelConfig) -> tuple[object, ...]:
    """What makes the size of a model, whatever the size of its pictures and its head; nothing of other kinds."""
    if isinstance(config, ResNetConfig):
        return config.depths, config.width_factor
    if isinstance(config, ViTConfig):
        sizes = (config.width, config.depth, config.num_heads, config.mlp_size, config.patch_size)
        return *sizes, config.stem, config.attention
    return ()


_TABLE_5 = tuple(
    f"{model}, {data}"
    for data, models in (
        ("ImageNet", ("ViT-B/16", "ViT-B/32", "ViT-L/16", "ViT-L/32")),
        ("ImageNet-21k", ("ViT-B/16", "ViT-B/32", "ViT-L/16", "ViT-L/32", "ViT-H/14")),
        ("JFT", ("ViT-B/16", "ViT-B/32", "ViT-L/16", "ViT-L/32", "ViT-H/14")),
    )
    for model in models
)
# Table 2 fine-tunes on ImageNet at 512 or 518 pixels with Polyak averaging; table 5 at 384 without.
_TABLE_2 = (
    "ViT-H/14, JFT (table 2)",
    "ViT-L/16, JFT (table 2)",
    "ViT-L/16, ImageNet-21k (table 2)",
    "BiT-R152x4, JFT (table 2)",
)


def _transfer(title: str, data: str, recipe: str, num_test: int, share: float, table_5: str, table_2: str) -> SuiteTask:
    figures = [*map(float, table_5.split()), *map(float, table_2.split())]
    expected = dict(zip((*_TABLE_5, *_TABLE_2), figures, strict=True))
    is_real = title == "ImageNet ReaL"
    return SuiteTask(title, "transfer", data, recipe, num_test, expected, share, "imagenet" if is_real else None)


SUITES: dict[str, Suite] = {
    "vtab1k": Suite(
        "VTAB-1k",
        "Dosovitskiy et al. 2021, table 9",
        1,
        "ViT-L/16, ImageNet-21k",
        {
            name: SuiteTask(
                task.title,
                task.group,
                f"vtab:{name}",
                "finetune_vtab",
                task.num_test,
                dict(zip(EXPECTED_MODELS, task.expected, strict=True)),
            )
            for name, task in VTAB.items()
        },
    ),
    "transfer": Suite(
        "Transfer",
        "Dosovitskiy et al. 2021, tables 5 and 2",
        2,
        "ViT-L/16, ImageNet-21k",
        {
            "imagenet": _transfer(
                "ImageNet", "imagenet", "finetune_imagenet", 50_000, 0.01,
                "77.91 73.38 76.53 71.16 83.97 81.28 85.15 80.99 85.13 84.15 80.73 87.12 84.37 88.04",
                "88.55 87.76 85.30 87.54",
            ),
            "imagenet-real": _transfer(
                "ImageNet ReaL", "imagenet", "finetune_imagenet", 46_837, 0.01,
                "83.57 79.56 82.19 77.83 88.35 86.63 88.40 85.65 88.70 88.85 86.27 89.99 88.28 90.33",
                "90.72 90.54 88.62 90.54",
            ),
            "cifar10": _transfer(
                "CIFAR-10", "cifar10", "finetune_cifar", 10_000, 0.02,
                "98.13 97.77 97.86 97.94 98.95 98.79 99.16 99.13 99.27 99.00 98.61 99.38 99.19 99.50",
                "99.50 99.42 99.15 99.37",
            ),
            "cifar100": _transfer(
                "CIFAR-100", "cifar100", "finetune_cifar", 10_000, 0.02,
                "87.13 86.31 86.35 87.07 91.67 91.97 93.44 93.04 93.82 91.87 90.49 94.04 92.52 94.55",
                "94.55 93.90 93.25 93.51",
            ),
            "pets": _transfer(
                "Oxford-IIIT Pets", "pets", "finetune_small", 3669, 0.1,
                "93.81 92.04 93.64 91.35 94.43 93.02 94.73 93.09 94.82 95.80 93.40 97.11 95.83 97.56",
                "97.56 97.32 94.67 96.62",
            ),
            "flowers102": _transfer(
                "Oxford Flowers-102", "flowers102", "finetune_small", 6149, 0.1,
                "89.49 85.43 89.66 86.36 99.38 99.11 99.61 99.19 99.51 99.56 99.27 99.56 99.45 99.68",
                "99.68 99.74 99.61 99.63",
            ),
        },
    ),
}  # fmt: skip


def get_suite(name: str) -> Suite:
    """Raises ConfigError for a name that is not in `SUITES`, with the nearest one that is."""
    if name not in SUITES:
        raise ConfigError(f"unknown suite '{name}'.{did_you_mean(name, SUITES)} The suites are {' and '.join(SUITES)}.")
    return SUITES[name]


def get_tasks(suite: Suite, names: tuple[str, ...]) -> tuple[str, ...]:
    """The tasks by these names, in the suite's order; all where no name is given.

    Raises:
        ConfigError: a name that the suite does not have.
    """
    for name in names:
        if name not in suite.tasks:
            raise ConfigError(
                f"{suite.title} has no task '{name}'.{did_you_mean(name, suite.tasks)} Its tasks are"
                f" {', '.join(suite.tasks)}."
            )
    return tuple(name for name in suite.tasks if not names or name in names)
