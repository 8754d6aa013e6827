"""The most that this machine's matrix products reach, measured: what every engine is held against."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import torch
from torch import Tensor

from vitrail.engines import trials
from vitrail.engines.config import Precision
from vitrail.engines.linear import Linear, PackedLinear, can_pack
from vitrail.engines.products import Int8Weights
from vitrail.engines.quantization import Int8Product, has_int8, pack_int8

_ROWS, _IN, _OUT = 2048, 1024, 4096  # of one product, as large as those of ViT-L


def measure_ceiling(seconds: float = 2.0) -> dict[Precision, float]:
    """Multiply-adds a second by precision, of those that the machine has: the best of several large products."""
    rows = torch.randn(_ROWS, _IN)
    linear = Linear(torch.randn(_OUT, _IN), None)
    candidates: dict[str, Callable[[], Tensor]] = {"float32": lambda: linear(rows)}
    if can_pack(torch.float32):
        whole32 = PackedLinear(linear, _ROWS)
        candidates["float32 packed"] = lambda: whole32(rows)
    if can_pack(torch.bfloat16):
        packed, half = PackedLinear(Linear(linear.weight, None).bfloat16(), _ROWS), rows.bfloat16()
        candidates["bfloat16"] = lambda: packed(half)
    if has_int8():
        weight = torch.randint(-127, 128, (_OUT, _IN), dtype=torch.int8)
        product = Int8Product(Int8Weights(pack_int8(weight), torch.ones(_OUT), torch.zeros(_OUT), 128), torch.bfloat16)
        whole = torch.randint(0, 256, (_ROWS, _IN), dtype=torch.uint8)
        candidates["int8"] = lambda: product(whole)
    with torch.inference_mode():
        times = trials.time_in_turns(candidates, seconds)
    speeds = {name: _ROWS * _IN * _OUT / took for name, took in times.items()}
    speeds["float32"] = max(speeds["float32"], speeds.pop("float32 packed", 0.0))
    return {name: speeds[name] for name in get_args(Precision) if name in speeds}
