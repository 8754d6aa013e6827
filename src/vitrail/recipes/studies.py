"""The paper's controlled comparisons, as tables of configs that differ in one thing (Dosovitskiy et al. 2021)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from vitrail.data.config import Augmentation, Preprocessing
from vitrail.errors import ConfigError, did_you_mean
from vitrail.models.config import PositionEmbedding, PositionPlacement, ViTConfig
from vitrail.models.kinds import require_vit
from vitrail.objectives.config import SupervisedConfig
from vitrail.recipes.compute import at_budgets, families
from vitrail.recipes.from_scratch import MUON
from vitrail.recipes.situation import Situation
from vitrail.training.config import OptimizerConfig, ScheduleConfig, TrainConfig

Cells = dict[str, TrainConfig]
_BATCH = 64


@dataclass(frozen=True)
class Study:
    """A question, and the runs that answer it on one data set: name of the cell -> config."""

    question: str
    source: str  # where the paper asks it
    cells: Callable[[TrainConfig], Cells]
    by_compute: bool = False  # its plot has the training compute along one side, and a line for each family


def base_config(situation: Situation, steps: int) -> TrainConfig:
    """A plain ViT, small enough for a laptop, for pictures of this size: no stem, since that would know of places.

    Pictures of up to 36 pixels are seen as they are in patches of 4, others at 64 in patches of 8. Shifts by an eighth
    of a side and no mirroring, so that digits and letters stay what they are.
    """
    largest = max(situation.facts.picture_size)
    patch_size = 4 if largest <= 36 else 8
    side = max(2 * patch_size, round(largest / patch_size) * patch_size) if largest <= 36 else 64
    half = (0.5,) * situation.facts.num_channels
    epochs = steps * _BATCH / max(1, situation.facts.num_train)
    return TrainConfig(
        recipe="study",
        data=situation.data,
        model=ViTConfig(
            image_size=(side, side),
            patch_size=patch_size,
            in_channels=situation.facts.num_channels,
            num_classes=situation.facts.num_classes,
            width=96,
            depth=4,
            num_heads=3,
            mlp_size=192,
        ),
        preprocessing=Preprocessing(image_size=(side, side), mean=half, std=half),
        augmentation=Augmentation(crop="shift", max_shift=max(1, side // 8), flip_rate=0.0),
        objective=SupervisedConfig(label_smoothing=0.1),
        optimizer=OptimizerConfig(learning_rate=1e-3, weight_decay=0.05),
        schedule=ScheduleConfig(steps=steps, epochs=epochs, warmup_epochs=epochs / 10),
        batch_size=_BATCH,
        seed=situation.seed,
        evaluate_every_epochs=epochs / 5,
    )


def _positions(base: TrainConfig) -> Cells:
    """With Muon, with which all cells come closer to their end in the same updates: what is asked is where they end,
    and not how fast. Its step costs the same in every cell."""
    base = replace(base, optimizer=MUON)
    model = require_vit(base.model, "the study of positions")
    cells: list[tuple[str, PositionEmbedding, PositionPlacement]] = [
        ("none", "none", "input"),
        ("1-D at the input", "learned_1d", "input"),
        ("2-D at the input", "learned_2d", "input"),
        ("relative", "relative", "input"),
        ("1-D in every layer", "learned_1d", "every_layer"),
        ("2-D in every layer", "learned_2d", "every_layer"),
        ("1-D in every layer, shared", "learned_1d", "every_layer_shared"),
        ("2-D in every layer, shared", "learned_2d", "every_layer_shared"),
    ]
    return {
        name: replace(base, model=replace(model, position_embedding=kind, position_placement=placement))
        for name, kind, placement in cells
    }


def _pooling(base: TrainConfig) -> Cells:
    """Both at the rate of the base and at 3 / 8 of it, as figure 9 has 8e-4 and 3e-4."""
    low = base.optimizer.learning_rate * 3 / 8
    model = require_vit(base.model, "the study of pooling")
    gap = replace(base, model=replace(model, pooling="gap", class_token=False))
    return {
        f"{name}, learning rate {rate:g}": replace(each, optimizer=replace(each.optimizer, learning_rate=rate))
        for name, each in (("class token", base), ("mean of the patches", gap))
        for rate in (base.optimizer.learning_rate, low)
    }


def _data_size(base: TrainConfig) -> Cells:
    """Shares of the training pictures, each inside the next, for the same number of updates (figure 4)."""
    return {
        f"{share:.0%} of the pictures": replace(base, data=replace(base.data, train_share=share))
        for share in (0.03, 0.1, 0.3, 1.0)
    }


def _shape(base: TrainConfig) -> Cells:
    """One dimension of the model halved or doubled at a time, and all of them (figure 8)."""
    model = require_vit(base.model, "the study of shapes")
    models = {
        "base": model,
        "half as deep": replace(model, depth=max(1, model.depth // 2)),
        "twice as deep": replace(model, depth=2 * model.depth),
        "half as wide": _with_heads(model, max(1, model.num_heads // 2)),
        "twice as wide": _with_heads(model, 2 * model.num_heads),
        "half the MLP": replace(model, mlp_size=max(1, model.mlp_size // 2)),
        "twice the MLP": replace(model, mlp_size=2 * model.mlp_size),
        "twice as deep and wide": replace(_with_heads(model, 2 * model.num_heads), depth=2 * model.depth),
    }
    if not any(side % (2 * model.patch_size) for side in model.image_size):
        models["patches twice as large"] = replace(model, patch_size=2 * model.patch_size)
    return {name: replace(base, model=each) for name, each in models.items()}


def _compute(base: TrainConfig) -> Cells:
    """Three families at the same budgets (figure 5)."""
    return at_budgets(base, families(base))


def _with_heads(model: ViTConfig, num_heads: int) -> ViTConfig:
    """Another width, in heads of the same size."""
    width = num_heads * model.attention_head_dim
    return replace(model, width=width, num_heads=num_heads, mlp_size=model.mlp_size * width // model.width)


STUDIES: dict[str, Study] = {
    "positions": Study(
        "Does the model need to be told where a patch is, and how?", "appendix D.4, table 8", _positions
    ),
    "pooling": Study(
        "A class token or the mean of the patches, each with its own learning rate?", "appendix D.3, figure 9", _pooling
    ),
    "data-size": Study("How much does each further share of the pictures bring?", "section 4.3, figure 4", _data_size),
    "shape": Study("Deeper, wider or finer: what pays?", "appendix D.2, figure 8", _shape),
    "compute": Study(
        "What does the same training compute buy as a ViT, a hybrid, a ResNet?",
        "section 4.4, figure 5",
        _compute,
        by_compute=True,
    ),
}


def get_study(name: str) -> Study:
    """Raises ConfigError for a name that is not in `STUDIES`, with the nearest one that is."""
    if name not in STUDIES:
        known = ", ".join(STUDIES)
        raise ConfigError(f"unknown study '{name}'.{did_you_mean(name, STUDIES)} The studies are {known}.")
    return STUDIES[name]
