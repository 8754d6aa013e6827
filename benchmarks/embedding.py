"""Thousands of photographs through a model as whole processes: `vitrail predict` and `embed` beside timm's way.

timm's way is that of its inference script: a DataLoader with its evaluation transform and as many worker processes as
there are cores, the model in float32, the answers kept and written as CSV.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import Row, run_alone, time_command, vitrail
from benchmarks.predict import MAKE_BUNDLE

MODEL, TIMM_MODEL, NUM_PICTURES, ROUNDS = "ViT-Ti/16", "vit_tiny_patch16_224", 3000, 3
GOAL = 2.0

_TIMM = """
import csv, os, sys
import timm, torch
from timm.data import ImageDataset, create_loader, resolve_model_data_config
from safetensors.torch import load_file
name, weights, photos, out = sys.argv[1:]
if __name__ == "__main__":
    model = timm.create_model(name, pretrained=False)
    model.load_state_dict(load_file(weights))
    model.eval()
    config = resolve_model_data_config(model)
    loader = create_loader(
        ImageDataset(photos), batch_size=256, use_prefetcher=False, num_workers=os.cpu_count(), device="cpu",
        input_size=config["input_size"], interpolation="bilinear", crop_pct=1.0, mean=config["mean"],
        std=config["std"], is_training=False,
    )
    rows = []
    with torch.inference_mode():
        for images, _ in loader:
            probabilities, indices = model(images).softmax(-1).topk(3)
            rows += zip(indices.tolist(), probabilities.tolist())
    files = loader.dataset.filenames(basename=False)
    with open(out, "w", newline="") as file:
        csv.writer(file).writerows([name, *indices, *values] for name, (indices, values) in zip(files, rows))
"""


def measure_embedding(data: Path | None) -> list[Row]:
    if data is None or not (data / "clothing-photos").is_dir():
        return [Row("photographs to answers", "left out: VITRAIL_DATA has no clothing-photos")]
    with tempfile.TemporaryDirectory() as place:
        photos, bundle, folder = Path(place, "photos", "all"), f"{place}/bundle", f"{place}/timm"
        _copy(data / "clothing-photos", photos)
        run_alone(MAKE_BUNDLE, bundle, MODEL)
        time_command(vitrail("convert", bundle, folder, "--to", "timm"), runs=1, warmup=0)
        (weights,) = Path(folder).glob("*.safetensors")
        script = Path(place, "timm_way.py")
        script.write_text(_TIMM)
        ways = {
            "vitrail predict --csv": vitrail("predict", bundle, str(photos), "--csv"),
            "vitrail predict --csv --precision auto": vitrail(
                "predict", bundle, str(photos), "--csv", "--precision", "auto"
            ),
            "vitrail embed": vitrail("embed", bundle, str(photos), "--out", f"{place}/vectors.npy", "--force"),
            "timm's way": [
                sys.executable, str(script), TIMM_MODEL, str(weights), str(photos.parent), f"{place}/timm.csv"
            ],
        }  # fmt: skip
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, command in ways.items():
                seconds[name].append(time_command(command, runs=1, warmup=0).seconds)
    rows = []
    for name, found in seconds.items():
        ratio = statistics.median(theirs / ours for ours, theirs in zip(found, seconds["timm's way"], strict=True))
        text = f"{statistics.median(found):.1f} s, timm's / ours {ratio:.2f}"
        promised = name in ("vitrail predict --csv", "vitrail embed")
        rows.append(
            Row(name, text, f"at least {GOAL:g} times" if promised else "", ratio >= GOAL if promised else None)
        )
    return [Row(f"{NUM_PICTURES:,} photographs, {MODEL}", "whole processes"), *rows]


def _copy(source: Path, folder: Path) -> None:
    """Copies of the photographs, in one folder, until there are enough of them."""
    folder.mkdir(parents=True)
    photos = sorted(source.rglob("*.jpg"))
    for number in range(NUM_PICTURES):
        shutil.copyfile(photos[number % len(photos)], folder / f"{number:05d}.jpg")
