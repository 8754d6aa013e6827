"""What loading costs beside safetensors' own load_file: a ViT-L/16 as a bundle and as a file that timm would write.

Each loading has a process of its own, and the kinds take turns, so that a busy machine slows all of them alike. The
clock starts after the imports. "Touched" adds the sum of every tensor: a mapped file costs nothing before it is read.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path

from benchmarks.measure import Row, run_alone

MODEL = "ViT-L/16"
ROUNDS = 5
MEMORY_LIMIT, TIME_LIMIT = 1.3, 2.0  # times the file, times load_file

_MAKE = """
import json, sys
from pathlib import Path
import numpy as np
import torch
from safetensors.torch import save_file
from vitrail.data.config import Preprocessing
from vitrail.models.variants import get_config
from vitrail.models.vit import VisionTransformer
from vitrail.weights.adapters import WRITERS
from vitrail.weights.adapters.base import Model
from vitrail.weights.adapters.mapping import from_native
from vitrail.weights.bundle import BundleConfig, save_bundle
from vitrail.weights.labels import default_labels

folder = Path(sys.argv[1])
config = get_config(sys.argv[2])
model = VisionTransformer(config, generator=torch.Generator().manual_seed(0)).eval()
labels, preprocessing = default_labels(config.num_classes), Preprocessing()
picture = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
save_bundle(folder / "bundle", model, BundleConfig(config, labels, preprocessing), [("noise", picture)])
writing = WRITERS["timm"](Model(config, preprocessing, labels))
(folder / "foreign").mkdir()
save_file(from_native(model.state_dict(), writing.entries), folder / "foreign" / writing.weights_file)
for name, values in writing.files.items():
    (folder / "foreign" / name).write_text(json.dumps(values))
"""

_LOAD = """
import json, sys, time
from pathlib import Path
import safetensors.torch
import torch
from vitrail.storage import sha256_of
from vitrail.weights.bundle import load_bundle
from vitrail.weights.checkpoint import open_checkpoint
from vitrail.weights.reading import read_checkpoint

def status(name):  # of this process, bytes; resident pages of mapped files are counted
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))

kind, folder = sys.argv[1], Path(sys.argv[2])
before = status("VmRSS") if Path("/proc/self/status").exists() else None
start = time.perf_counter()
if kind == "load_file, bundle":
    tensors = safetensors.torch.load_file(folder / "bundle" / "model.safetensors")
elif kind == "load_file, foreign":
    tensors = safetensors.torch.load_file(folder / "foreign" / "model.safetensors")
elif kind == "checksums alone":
    tensors = {}
    sha256_of(folder / "bundle" / "model.safetensors")
else:
    if kind == "foreign":
        bundle = read_checkpoint(open_checkpoint(folder / "foreign"), folder / "foreign")
    else:
        bundle = load_bundle(folder / "bundle", verify=kind == "bundle, verified")
    tensors = bundle.model.state_dict()
loaded = time.perf_counter() - start
total = sum(float(tensor.sum()) for tensor in tensors.values())
touched = time.perf_counter() - start
memory = None if before is None else status("VmHWM") - before
print(json.dumps({"loaded": loaded, "touched": touched, "memory": memory, "finite": total == total}))
"""

# What is loaded -> what it is measured against.
_KINDS = {
    "load_file, bundle": None,
    "bundle": "load_file, bundle",
    "bundle, verified": "load_file, bundle",
    "load_file, foreign": None,
    "foreign": "load_file, foreign",
    "checksums alone": None,
}


def measure_loading(data: Path | None) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        run_alone(_MAKE, folder, MODEL)
        size = (Path(folder) / "bundle" / "model.safetensors").stat().st_size
        runs: dict[str, list[dict[str, float]]] = {kind: [] for kind in _KINDS}
        for _ in range(1 + ROUNDS):  # the first one fills the operating system's cache of files
            for kind, past in runs.items():
                past.append(json.loads(run_alone(_LOAD, kind, folder)))
    median = {
        kind: {name: statistics.median(run[name] for run in past[1:]) for name in ("loaded", "touched")}
        for kind, past in runs.items()
    }
    rows = [Row(f"{MODEL}, size of the weights", f"{size / 1e9:.2f} GB")]
    for kind, reference in _KINDS.items():
        rows += _rows(kind, runs[kind], median[kind], reference and median[reference], size)
    return rows


def _rows(
    kind: str, runs: list[dict[str, float]], median: dict[str, float], reference: dict[str, float] | None, size: int
) -> list[Row]:
    seconds = f"{median['touched']:.2f} s touched, {median['loaded']:.2f} s before"
    if kind == "checksums alone":
        return [Row("SHA-256 of the weights alone, part of verifying", f"{median['loaded']:.2f} s")]
    memory = None if runs[0]["memory"] is None else max(run["memory"] for run in runs[1:]) / size
    shown = "cannot be measured here" if memory is None else f"{memory:.2f} times the file"
    if reference is None:
        return [Row(f"{kind}: time", seconds), Row(f"{kind}: peak memory", shown)]
    ratio = median["touched"] / reference["touched"]
    # Verifying reads the file once more and asks about pictures: measured, not promised.
    promised = kind != "bundle, verified"
    return [
        Row(f"{kind}: time", seconds),
        Row(
            f"{kind}: time beside load_file, touched",
            f"{ratio:.2f} times",
            f"at most {TIME_LIMIT:g}" if promised else "",
            ratio <= TIME_LIMIT if promised else None,
        ),
        Row(
            f"{kind}: peak memory",
            shown,
            f"at most {MEMORY_LIMIT:g}",
            None if memory is None else memory <= MEMORY_LIMIT,
        ),
    ]
