"""One picture named by a whole cold process: `vitrail predict` beside transformers' pipeline, on the same weights."""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.goals import goal_row
from benchmarks.measure import Row, run_alone, time_command, vitrail

MODEL, ROUNDS = "ViT-B/16", 5
MOST_SECONDS = 2.5

MAKE_BUNDLE = """
import sys
from pathlib import Path
import torch
from vitrail.data.config import Preprocessing
from vitrail.models.variants import get_config
from vitrail.models.vit import VisionTransformer
from vitrail.weights.bundle import BundleConfig, made_up_pictures, save_bundle
from vitrail.weights.labels import default_labels
config, preprocessing = get_config(sys.argv[2]), Preprocessing()
model = VisionTransformer(config, generator=torch.Generator().manual_seed(0)).eval()
with torch.no_grad():
    model.head.weight.normal_(0, 0.05, generator=torch.Generator().manual_seed(1))
bundle = BundleConfig(config, default_labels(config.num_classes), preprocessing)
save_bundle(Path(sys.argv[1]), model, bundle, made_up_pictures(preprocessing))
"""

_PIPELINE = """
import sys
from transformers import pipeline
print(pipeline("image-classification", model=sys.argv[1])(sys.argv[2])[0])
"""


def measure_predict(data: Path | None) -> list[Row]:
    """The files are in the system's cache. The first `vitrail predict` verifies the bundle, the later ones know it."""
    with tempfile.TemporaryDirectory() as place:
        bundle, folder, picture = f"{place}/bundle", f"{place}/huggingface", f"{place}/picture.jpg"
        run_alone(MAKE_BUNDLE, bundle, MODEL)
        time_command(vitrail("convert", bundle, folder, "--to", "huggingface"), runs=1, warmup=0)
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)).save(picture)
        ours = vitrail("predict", bundle, picture)
        theirs = [sys.executable, "-c", _PIPELINE, folder, picture]
        bare = [sys.executable, "-c", "import torch"]
        first = time_command(ours, runs=1, warmup=0).seconds
        time_command(theirs, runs=1, warmup=0)
        seconds: dict[str, list[float]] = {"ours": [], "theirs": [], "bare": []}
        for _ in range(ROUNDS):
            for name, command in (("ours", ours), ("theirs", theirs), ("bare", bare)):
                seconds[name].append(time_command(command, runs=1, warmup=0).seconds)
    median = {name: statistics.median(found) for name, found in seconds.items()}
    ratio = statistics.median(b / a for a, b in zip(seconds["ours"], seconds["theirs"], strict=True))
    return [
        Row(f"vitrail predict, {MODEL}, whole process", f"{median['ours']:.2f} s"),
        Row("  its first start, which verifies the bundle", f"{first:.2f} s"),
        Row("transformers' pipeline, whole process", f"{median['theirs']:.2f} s"),
        Row("  python -c 'import torch' alone", f"{median['bare']:.2f} s"),
        goal_row(
            "predict-one",
            ratio,
            "transformers' pipeline",
            what="pipeline / predict",
            conditions={f"{median['ours']:.2f} s, under {MOST_SECONDS:g} s": median["ours"] < MOST_SECONDS},
        ),
    ]
