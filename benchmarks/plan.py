"""What `plan` says of a run, beside the run: `vitrail train` as a whole command, peak memory and wall time."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.measure import Row, run_alone
from vitrail.configuration import to_dict
from vitrail.data.config import DataConfig, LoaderConfig, Preprocessing
from vitrail.models.kinds import get_model_config
from vitrail.objectives.config import MaskedPatchesConfig, ObjectiveConfig, SupervisedConfig
from vitrail.tasks.rehearsal import wait_for_peak
from vitrail.training.config import OptimizerConfig, ScheduleConfig, TrainConfig

NUM_CLASSES, PER_CLASS = 3, 80
TRAIN, VALIDATION, TEST = 168, 36, 36  # as 240 pictures are split
WITHIN = {"memory": 0.1, "time": 0.15}


@dataclass(frozen=True)
class Case:
    name: str
    model: str
    batch_size: int
    num_steps: int
    optimizer: str = "adamw"
    precision: str = "float32"
    checkpointing: bool = False
    image_size: int = 224
    objective: ObjectiveConfig = field(default_factory=SupervisedConfig)


CASES = (
    Case("ViT-Ti/16, 16 pictures", "ViT-Ti/16", 16, 30),
    Case("the same, 32, checkpointing, SGD", "ViT-Ti/16", 32, 10, "sgd", checkpointing=True),
    Case("ViT-S/16, 16, bfloat16, Muon", "ViT-S/16", 16, 15, "muon", "bfloat16"),
    Case("R+ViT-Ti/16, 16", "R+ViT-Ti/16", 16, 20),
    Case("BiT-R26x1 at 160, 8, SGD", "BiT-R26x1", 8, 20, "sgd", image_size=160),
    Case("ViT-Ti/16, 16, masked patches", "ViT-Ti/16", 16, 20, objective=MaskedPatchesConfig()),
)


# In a process of its own, as a user plans: one that has run before has memory that the system need not clear again.
_PLAN = f"""
import json, sys
from pathlib import Path
from vitrail.configuration import from_dict
from vitrail.data.sources import open_source
from vitrail.tasks.plan import plan
from vitrail.training.config import TrainConfig
config = from_dict(TrainConfig, json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), sys.argv[1])
source = open_source(config.data.source)
planned = plan(config, {TRAIN}, num_validation={VALIDATION}, num_test={TEST}, source=source)
print(planned.memory_needed, planned.hours)
"""


def measure_plan(_: Path | None) -> list[Row]:
    rows = []
    with tempfile.TemporaryDirectory() as place:
        pictures = Path(place, "pictures")
        _make_pictures(pictures)
        for case in CASES:
            rows += _compare(case, pictures, Path(place, case.name.replace("/", "-")))
    return rows


def _make_pictures(folder: Path) -> None:
    generator = np.random.default_rng(0)
    for label in range(NUM_CLASSES):
        (folder / str(label)).mkdir(parents=True)
        for number in range(PER_CLASS):
            areas = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(areas.repeat(8, 0).repeat(8, 1)).save(folder / str(label) / f"{number}.jpg")


def _compare(case: Case, pictures: Path, folder: Path) -> list[Row]:
    config = _config(case, pictures)
    settings = folder.with_suffix(".json")
    settings.write_text(json.dumps(to_dict(config)), encoding="utf-8")
    planned_bytes, planned_hours = map(float, run_alone(_PLAN, str(settings)).split())
    seconds, peak = _run(settings, folder)
    return [
        _row(case.name, "memory", planned_bytes / 1e9, peak / 1e9, "GB"),
        _row("", "time", planned_hours * 3600, seconds, "s"),
    ]


def _config(case: Case, pictures: Path) -> TrainConfig:
    size = (case.image_size, case.image_size)
    num_classes = NUM_CLASSES if isinstance(case.objective, SupervisedConfig) else 0
    return TrainConfig(
        recipe=case.name,
        data=DataConfig(str(pictures)),
        model=replace(get_model_config(case.model), image_size=size, num_classes=num_classes),
        preprocessing=Preprocessing(image_size=size),
        loader=LoaderConfig(num_workers=0),
        objective=case.objective,
        optimizer=OptimizerConfig(name=case.optimizer),  # type: ignore[arg-type]
        schedule=ScheduleConfig(steps=case.num_steps),
        batch_size=case.batch_size,
        precision=case.precision,  # type: ignore[arg-type]
        checkpointing=case.checkpointing,
    )


def _run(settings: Path, folder: Path) -> tuple[float, int]:
    """(wall seconds, peak bytes of the process) of `vitrail train`."""
    command = [sys.executable, "-m", "vitrail", "train", "--config", str(settings), "--out", str(folder)]
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peak = wait_for_peak(process)
    seconds = time.perf_counter() - begin
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return seconds, peak


def _row(name: str, what: str, planned: float, measured: float, unit: str) -> Row:
    ratio = planned / measured
    met = abs(ratio - 1) <= WITHIN[what]
    text = f"planned {planned:.2f}, took {measured:.2f} {unit}: {ratio:.2f}"
    return Row(f"{name:<36} {what}", text, f"within {WITHIN[what]:.0%}", met)
