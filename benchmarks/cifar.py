"""CIFAR-10 in twenty minutes of training: the recipe `cifar10_20min` beside timm's model in an equally long plain loop.

The loop has the recipe's batch, optimizer, schedule, label smoothing, flips and shifts, and bfloat16; its pictures are
in memory. timm's model is a plain Vision Transformer of patches of 4 pixels, 192 wide, 6 blocks, its fused attention
off, with which it is nearly twice as fast here: the strongest of timm's shapes that was tried in so little time.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from benchmarks.goals import goal_row
from benchmarks.measure import Row, run_alone, time_command, vitrail

_TIMM = """
import sys, time
import numpy as np, torch
from torch.nn import functional as F
from timm.models.vision_transformer import VisionTransformer
from vitrail.data.config import DataConfig
from vitrail.data.sources import open_source
from vitrail.data.split import TEST, TRAIN
from vitrail.data.transforms import EvaluationTransform
from vitrail.data.batches import normalize
from vitrail.recipes import RECIPES, Situation
from vitrail.training.optimizer import build_optimizer, clip_gradients, set_learning_rate

seconds = float(sys.argv[2])
config = RECIPES["cifar10_20min"](Situation(DataConfig(sys.argv[1])))
source, transform = open_source(sys.argv[1]), EvaluationTransform(config.preprocessing)

def pictures(split):
    rows = np.flatnonzero(source.splits == split)
    images = torch.from_numpy(np.stack([transform(source.open(int(row))) for row in rows]))
    return images, torch.from_numpy(source.labels[rows]).long()

images, labels = pictures(TRAIN)
torch.manual_seed(0)
model = VisionTransformer(32, 4, num_classes=10, embed_dim=192, depth=6, num_heads=3).train()
for block in model.blocks:
    block.attn.fused_attn = False
optimizer = build_optimizer(model, config.optimizer)
parameters = [p for group in optimizer.param_groups for p in group["params"]]
most, size, share = config.augmentation.max_shift, config.batch_size, 1 / config.schedule.epochs
begin, order, place, updates = time.monotonic(), torch.randperm(len(images)), 0, 0
while (done := (time.monotonic() - begin) / seconds) < 1:
    if place + size > len(order):
        order, place = torch.randperm(len(images)), 0
    rows, place = order[place : place + size], place + size
    batch = torch.where((torch.rand(size) < 0.5)[:, None, None, None], images[rows].flip(3), images[rows])
    down, right = (int(value) for value in torch.randint(-most, most + 1, (2,)))
    batch = F.pad(batch, (most,) * 4)[:, :, most + down : most + down + 32, most + right : most + right + 32]
    rate = config.optimizer.learning_rate * (done / share if done < share else (1 - done) / (1 - share))
    set_learning_rate(optimizer, rate)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(normalize(batch, config.preprocessing))
    loss = F.cross_entropy(logits.float(), labels[rows], label_smoothing=config.objective.label_smoothing)
    loss.backward()
    clip_gradients(parameters, config.optimizer.clip_norm)
    optimizer.step()
    optimizer.zero_grad()
    updates += 1
images, labels = pictures(TEST)
model.eval()
with torch.inference_mode():
    right = sum(
        int((model(normalize(part, config.preprocessing)).argmax(1) == truth).sum())
        for part, truth in zip(images.split(500), labels.split(500))
    )
print(right / len(images), updates * size / len(order))
"""


def measure_cifar(data: Path | None) -> list[Row]:
    if data is None or not (data / "cifar10-jpeg").is_dir():
        return [Row("CIFAR-10 in 20 minutes", "left out: VITRAIL_DATA has no cifar10-jpeg")]
    pictures = str(data / "cifar10-jpeg")
    with tempfile.TemporaryDirectory() as place:
        command = vitrail("train", "cifar10_20min", "--data", pictures, "--out", f"{place}/run", "--json")
        result, _ = json.JSONDecoder().raw_decode(time_command(command, runs=1, warmup=0).output)
    ours, seconds = result["test_accuracy"], result["seconds"]["training"]
    theirs, epochs = (float(value) for value in run_alone(_TIMM, pictures, str(seconds)).split())
    return [
        Row("CIFAR-10, the recipe cifar10_20min", f"{100 * ours:.2f} % in {seconds / 60:.1f} min of training"),
        Row("timm's model, as long a loop", f"{100 * theirs:.2f} % ({epochs:.1f} epochs)"),
        goal_row("cifar", 100 * (ours - theirs), "timm's model, as long a loop", what="ours above timm's"),
    ]
