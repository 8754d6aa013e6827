"""One update, forward, backward and AdamW, beside timm's model in a plain loop: the same pictures, in bfloat16.

Each run is a process of its own, ours and timm's in turns, because what the C library does with freed memory is set for
a whole process.
"""

from __future__ import annotations

import statistics
from pathlib import Path

from benchmarks.goals import goal_row
from benchmarks.measure import Row, run_alone

ROUNDS = 3
# name of the goal: (what, pixels, patch, width, blocks, heads, pictures)
CASES = {
    "update-small": ("32-pixel ViT, 192 wide, 12 blocks, patch 4, 256 pictures", 32, 4, 192, 12, 3, 256),
    "update-vit-s": ("ViT-S/16 at 224, 16 pictures", 224, 16, 384, 12, 6, 16),
}

_UPDATES = """
import statistics, sys, time
import torch
from torch.nn import functional as F
who, (side, patch, width, depth, heads, batch) = sys.argv[1], map(int, sys.argv[2:])
torch.manual_seed(0)
images, labels = torch.randn(batch, 3, side, side), torch.randint(10, (batch,))
if who == "ours":
    from vitrail.models.build import build_model
    from vitrail.models.config import ViTConfig
    from vitrail.training.allocation import keep_freed_memory
    from vitrail.training.config import OptimizerConfig
    from vitrail.training.fused_block import can_fuse, set_fused
    from vitrail.training.optimizer import build_optimizer
    keep_freed_memory()
    size = (side, side)
    model = build_model(ViTConfig(size, patch, num_classes=10, width=width, depth=depth, num_heads=heads,
                                  mlp_size=4 * width)).train()
    set_fused(model, can_fuse(model))
    optimizer = build_optimizer(model, OptimizerConfig())
else:
    from timm.models.vision_transformer import VisionTransformer
    model = VisionTransformer(side, patch, num_classes=10, embed_dim=width, depth=depth, num_heads=heads).train()
    for block in model.blocks:
        block.attn.fused_attn = who == "timm"
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
seconds = []
for _ in range(7):
    start = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16):
        loss = F.cross_entropy(model(images), labels)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    seconds.append(time.perf_counter() - start)
print(statistics.median(seconds[2:]))
"""


def measure_training(_: Path | None) -> list[Row]:
    rows = []
    for goal, (what, *shape) in CASES.items():
        arguments = [str(value) for value in shape]
        seconds: dict[str, list[float]] = {"ours": [], "timm": [], "timm without fused attention": []}
        for _ in range(ROUNDS):
            for who, times in seconds.items():
                times.append(float(run_alone(_UPDATES, who, *arguments)))
        medians = {who: statistics.median(times) for who, times in seconds.items()}
        speeds = ", ".join(f"{who} {shape[-1] / median:.0f}" for who, median in medians.items())
        rows.append(goal_row(goal, medians["timm"] / medians["ours"], "timm, as it comes", what=what))
        rows.append(Row("  pictures a second", speeds))
    return rows
