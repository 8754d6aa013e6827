"""What was promised of speed: one line a goal, whichever file measures it."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.measure import Reached, Row


@dataclass(frozen=True)
class Goal:
    work: str
    benchmark: str  # that measures it: `make bench ARGS=...`
    least: float  # beside the best peer
    unit: str = "times"  # as fast; or points above it


GOALS = {
    "update-small": Goal("an update of a 32-pixel ViT in bfloat16", "training", 2.5),
    "update-vit-s": Goal("an update of ViT-S/16 in bfloat16", "training", 1.6),
    "loader": Goal("photographs to training batches on one core", "loader", 2.0),
    "loader-cached": Goal("the same from a warm cache on the disk", "loader", 2.2),
    "bfloat16-16": Goal("ViT-B/16 answers in bfloat16, batch 16", "inference", 1.1),
    "bfloat16-1": Goal("ViT-B/16 answers in bfloat16, batch 1", "inference", 1.1),
    "int8-16": Goal("ViT-B/16 answers in 8-bit integers, batch 16", "inference", 1.1),
    "int8-1": Goal("ViT-B/16 answers in 8-bit integers, batch 1", "inference", 1.1),
    "predict-one": Goal("`vitrail predict` of one picture, cold", "predict", 3.0),
    "embed-many": Goal("`vitrail embed` of 10,000 photographs", "embedding", 2.0),
    "predict-many": Goal("`vitrail predict` of 10,000 photographs", "embedding", 2.0),
    "cifar": Goal("accuracy on CIFAR-10 after 20 minutes", "cifar", 4.0, "points"),
}


def goal_row(name: str, value: float, peer: str, *, what: str = "", conditions: dict[str, bool] | None = None) -> Row:
    """The row that answers a goal.

    Args:
        name: of `GOALS`.
        value: times as fast as the peer, or points above it.
        peer: the best of those measured beside it.
        what: how the benchmark's own table calls it; empty: as the goal does.
        conditions: what else was promised, as measured, and whether it holds.
    """
    goal, conditions = GOALS[name], conditions or {}
    return Row(
        what or goal.work,
        "; ".join([f"{value:.2f} {goal.unit}", *conditions]),
        f"at least {goal.least:g} {goal.unit}",
        value >= goal.least and all(conditions.values()),
        Reached(name, value, peer, conditions),
    )
