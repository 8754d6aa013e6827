from __future__ import annotations

from typing import Any

import pytest
from small_models import pictures, vit_bundle

from vitrail.engines.module_for_export import module_for_export
from vitrail.engines.openvino_engine import OpenVINOEngine, _convert, _quantize

pytestmark = pytest.mark.skipif(OpenVINOEngine().missing() is not None, reason="OpenVINO is not installed")


@pytest.mark.parametrize("changes", [{}, {"stem": "conv", "stem_widths": (6, 8), "pooling": "gap"}], ids=str)
def test_the_first_and_the_last_product_are_not_quantized_and_those_between_are(changes: dict[str, Any]) -> None:
    pytest.importorskip("nncf")
    bundle = vit_bundle(**changes)
    module, _ = module_for_export(bundle.model, bundle.config.preprocessing, "logits")
    model = _quantize(_convert(module, pictures(bundle, 2)), pictures(bundle, 8))
    products = [one for one in model.get_ordered_ops() if one.get_type_name() in ("MatMul", "Convolution")]
    quantized = [one.input_value(0).get_node().get_type_name() == "FakeQuantize" for one in products]
    assert not quantized[0]
    assert not quantized[-1]
    assert sum(quantized[1:-1]) >= 4 * len(bundle.model.blocks)  # type: ignore[arg-type]
