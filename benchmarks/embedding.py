"""Thousands of photographs through a model as whole processes: `vitrail predict` and `embed` beside timm's way.

timm's way is that of its inference script: a DataLoader with its evaluation transform and as many worker processes as
there are cores, the model in float32, the answers kept and written as CSV.

How well decoding and model share the cores is measured on fewer of them, in `embed` itself: how long the model waited
for pictures, and how long the threads that decode had nothing to do. Where both are small, nothing is left to overlap.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.goals import goal_row
from benchmarks.measure import Row, run_alone, time_command, vitrail
from benchmarks.predict import MAKE_BUNDLE

MODEL, TIMM_MODEL, NUM_PICTURES, ROUNDS = "ViT-Ti/16", "vit_tiny_patch16_224", 10_000, 2
NUM_WATCHED = 3_000  # of them, for the overlap
TIMM = "timm's way"
GOALS = {"vitrail predict --csv": "predict-many", "vitrail embed": "embed-many"}

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

# A clock around what `embed` takes its batches from, and around what its threads make them with.
_OVERLAP = """
import json, sys, time
from pathlib import Path
from vitrail.data.loader import Loader, _Maker, num_cores
from vitrail.tasks.embed import EmbedConfig, embed
from vitrail.training.events import Events
model, photos, out, number = sys.argv[1:]
once, make = Loader.once, _Maker.__call__
waited, busy, found = [], [], {}

def timed_once(loader, threads=0):
    start = asked = time.perf_counter()
    processor = time.process_time()
    for batch in once(loader, threads):
        waited.append(time.perf_counter() - asked)
        yield batch
        asked = time.perf_counter()
    seconds = asked - start
    found["waited"] = sum(waited) / seconds
    found["idle"] = 1 - sum(busy) / (max(threads, 1) * seconds)
    found["cores"] = (time.process_time() - processor) / (num_cores() * seconds)

def timed_make(maker, plan):
    start = time.perf_counter()
    made = make(maker, plan)
    busy.append(time.perf_counter() - start)
    return made

Loader.once, _Maker.__call__ = timed_once, timed_make
pictures = tuple(map(str, sorted(Path(photos).iterdir())[:int(number)]))
with Events() as events:
    embed(EmbedConfig(model, pictures, out, force=True), events)
print(json.dumps(found))
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
            "vitrail embed": vitrail("embed", bundle, str(photos), "--out", f"{place}/vectors.npy", "--force"),
            TIMM: [
                sys.executable, str(script), TIMM_MODEL, str(weights), str(photos.parent), f"{place}/timm.csv"
            ],
        }  # fmt: skip
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, command in ways.items():
                seconds[name].append(time_command(command, runs=1, warmup=0).seconds)
        overlap = json.loads(run_alone(_OVERLAP, bundle, str(photos), f"{place}/vectors.npy", str(NUM_WATCHED)))
    rows = [Row(f"{NUM_PICTURES:,} photographs, {MODEL}", "whole processes")]
    for name, found in seconds.items():
        ratio = statistics.median(theirs / ours for ours, theirs in zip(found, seconds[TIMM], strict=True))
        rows.append(Row(name, f"{statistics.median(found):.1f} s, timm's / ours {ratio:.2f}"))
        if name in GOALS:
            rows.append(goal_row(GOALS[name], ratio, TIMM, what=f"  {TIMM} / {name}"))
    return [
        *rows,
        Row(f"of {NUM_WATCHED:,}, `embed`: the model waited for pictures", f"{overlap['waited']:.0%} of the time"),
        Row("  the threads that decode had nothing to do", f"{overlap['idle']:.0%} of their time"),
        Row("  the cores worked for it", f"{overlap['cores']:.0%} of the time"),
    ]


def _copy(source: Path, folder: Path) -> None:
    """Copies of the photographs, in one folder, until there are enough of them."""
    folder.mkdir(parents=True)
    photos = sorted(source.rglob("*.jpg"))
    for number in range(NUM_PICTURES):
        shutil.copyfile(photos[number % len(photos)], folder / f"{number:05d}.jpg")
