"""One point of growth.py, in the process that it has for itself: median seconds of a step, and peak memory."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch._dynamo  # an optimizer imports it when it is first made
from torch.nn import functional as F

from vitrail.data.config import Preprocessing
from vitrail.engines.config import InferenceConfig
from vitrail.engines.prepare import prepare
from vitrail.models.config import ViTConfig
from vitrail.models.costs import count_macs, count_parameters
from vitrail.models.variants import get_config
from vitrail.models.vit import VisionTransformer
from vitrail.training.allocation import keep_freed_memory
from vitrail.training.config import OptimizerConfig
from vitrail.training.fused_block import can_fuse, set_fused
from vitrail.training.optimizer import build_optimizer
from vitrail.training.precision import autocast
from vitrail.weights.bundle import Bundle, BundleConfig
from vitrail.weights.labels import default_labels

LEAST_STEPS, MOST_STEPS, SECONDS = 3, 30, 2.0
Step = Callable[[], object]


def main() -> None:
    """Reads the point from the command line, writes what was measured, both as JSON."""
    work, precision, model, pixels, batch, threads = json.loads(sys.argv[1])
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    config = replace(get_config(model), image_size=(pixels, pixels))
    before = _reset_peak()
    step = (_inference if work == "inference" else _update)(config, precision, batch)
    seconds = _time(step)
    found = {
        "seconds": statistics.median(seconds),
        "fastest": min(seconds),
        "steps": len(seconds),
        "peak_mib": None if before is None else round((_status("VmHWM") - before) / 1024, 1),
        "tokens": config.num_tokens,
        "macs": count_macs(config),
        "parameters": count_parameters(config),
    }
    print(json.dumps(found))


def _inference(config: ViTConfig, precision: str, batch: int) -> Step:
    """As `vitrail.compile_for_inference` without a compiler: bytes in, logits out."""
    preprocessing = Preprocessing(image_size=config.image_size)
    bundle = BundleConfig(config, default_labels(config.num_classes), preprocessing)
    wanted = InferenceConfig(precision=precision, batch_size=batch, compile=False)  # type: ignore[arg-type]
    prepared = prepare(Bundle(VisionTransformer(config).eval(), bundle, Path(config.family)), wanted)
    images = torch.randint(0, 256, (batch, config.in_channels, *config.image_size), dtype=torch.uint8)
    return lambda: prepared(images)


def _update(config: ViTConfig, precision: str, batch: int) -> Step:
    """Forward, backward and AdamW, as `vitrail train` makes them of pictures that are there already."""
    keep_freed_memory()
    model = VisionTransformer(config).train()
    set_fused(model, precision == "bfloat16" and can_fuse(model))
    optimizer = build_optimizer(model, OptimizerConfig())
    images = torch.randn(batch, config.in_channels, *config.image_size)
    labels = torch.randint(0, config.num_classes, (batch,))

    def step() -> None:
        with autocast(images.device, precision):
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _time(step: Step) -> list[float]:
    """Seconds of each step but the first two, which find memory and kernels."""
    seconds: list[float] = []
    for _ in range(2):
        step()
    while len(seconds) < LEAST_STEPS or (len(seconds) < MOST_STEPS and sum(seconds) < SECONDS):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return seconds


def _reset_peak() -> int | None:
    """Forget the peak of the imports; KiB that the process has now, None where the system does not tell."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _status("VmRSS")


def _status(name: str) -> int:
    """KiB, of this process."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":"))


if __name__ == "__main__":
    main()
