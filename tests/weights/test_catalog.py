from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace

import pytest

from vitrail.models.kinds import count_parameters
from vitrail.models.resnet_variants import get_resnet_config, is_resnet
from vitrail.models.variants import get_config
from vitrail.weights.catalog import CATALOG, CatalogEntry, default_weights, find

ENTRIES = pytest.mark.parametrize("entry", CATALOG.values(), ids=lambda entry: entry.name)
BIG, SMALL_PICTURES = (480, 640), (32, 32)


@ENTRIES
def test_every_entry_says_where_and_what(entry: CatalogEntry) -> None:
    assert re.fullmatch(r"hf-hub:[\w.-]+/[\w.-]+|https://[\w./+-]+\.(npz|pth|pth\.tar)", entry.source)
    assert entry.licence in {"apache-2.0", "cc-by-nc-4.0", None}
    assert entry.sha256 is None or re.fullmatch(r"[0-9a-f]{8,64}", entry.sha256)
    assert entry.accuracy is None or 70 < entry.accuracy < 90
    assert entry.trained_on
    assert entry.preprocessing


@ENTRIES
def test_its_family_has_an_adapter(entry: CatalogEntry) -> None:
    from vitrail.weights.adapters import ADAPTERS

    assert entry.family in ADAPTERS


@ENTRIES
def test_its_size_is_the_one_that_we_build(entry: CatalogEntry) -> None:
    variant, _, rest = entry.variant.partition(", ")
    if is_resnet(variant):
        resnet = get_resnet_config(variant)
        resnet = replace(resnet, num_classes=21843) if entry.trained_on == "ImageNet-21k" else resnet
        assert resnet.image_size == (entry.image_size, entry.image_size)
        assert entry.parameters == pytest.approx(count_parameters(resnet) / 1e6, abs=0.006)
        return
    config = get_config(variant)
    if "@" in variant:
        assert config.image_size == (entry.image_size, entry.image_size)
    config = replace(config, image_size=(entry.image_size, entry.image_size))
    if "no head" in rest:
        config = replace(config, num_classes=0)
    elif entry.trained_on == "ImageNet-21k":
        config = replace(config, num_classes=21843)
    if "pre-logits" in rest:
        config = replace(config, pre_logits_size=config.width)
    if "registers" in rest:  # timm's have no position of their own
        config = replace(config, num_register_tokens=4, position_for_prefix=False)
    if "dinov2" in entry.name:
        config = replace(config, layer_scale_init=1e-5)
    if "LayerScale" in rest:
        config = replace(config, layer_scale_init=1e-6, position_for_prefix=False)
    if "distilled" in rest:
        config = replace(config, distillation_token=True)
    if entry.parameters is not None:
        assert count_parameters(config) / 1e6 == pytest.approx(entry.parameters, abs=0.006)


def test_names_and_sources_are_there_once() -> None:
    assert len(CATALOG) >= 60
    assert len({entry.source for entry in CATALOG.values()}) == len(CATALOG)


def test_what_is_timms_is_as_timm_says() -> None:
    timm = pytest.importorskip("timm")
    for entry in CATALOG.values():
        if not entry.source.startswith("hf-hub:timm/"):
            continue
        config = timm.models.get_pretrained_cfg(entry.name)
        assert config.hf_hub_id == entry.source.removeprefix("hf-hub:")
        assert config.license == entry.licence
        assert config.input_size == (3, entry.image_size, entry.image_size)
        norm = "mean 0.5, std 0.5" if config.mean == (0.5,) * 3 else "ImageNet's mean and std"
        assert entry.preprocessing == f"{norm}, {config.interpolation}, crop {config.crop_pct:g}"


def test_what_is_torchvisions_is_as_torchvision_says() -> None:
    vision_transformer = pytest.importorskip("torchvision.models.vision_transformer")
    weights = {
        member.url: member
        for name in dir(vision_transformer)
        if name.endswith("_Weights")
        for member in getattr(vision_transformer, name)
    }
    entries = [entry for entry in CATALOG.values() if entry.family == "torchvision"]
    assert entries
    for entry in entries:
        published = weights[entry.source]
        assert published.meta["_metrics"]["ImageNet-1K"]["acc@1"] == entry.accuracy
        assert published.meta["num_params"] / 1e6 == pytest.approx(entry.parameters, abs=0.006)
        assert published.transforms().crop_size == [entry.image_size]
        assert f"short side {published.transforms().resize_size[0]}" in entry.preprocessing
        assert f"-{entry.sha256}." in entry.source


def test_an_entry_is_found_by_its_name_and_by_its_source() -> None:
    entry = find("vit_small_patch16_224.augreg_in21k")
    assert find("timm/vit_small_patch16_224.augreg_in21k") is entry
    assert find("hf-hub:timm/vit_small_patch16_224.augreg_in21k") is entry


def test_every_entry_is_found_by_its_own_source_and_nothing_else_is() -> None:
    for entry in CATALOG.values():
        assert find(entry.source) is entry
    assert find("vit_smal_patch16_224.augreg_in21k") is None


def test_tiny_pictures_start_from_nothing() -> None:
    assert default_weights(50_000, SMALL_PICTURES, 16, True, None) is None
    assert default_weights(50_000, (28, 28), 2, False, 5) is None
    assert default_weights(500, BIG, 2, False, 5) is not None


def test_more_time_never_chooses_fewer_parameters() -> None:
    for cores in (1, 2, 8, 64):
        sizes = []
        for minutes in (0.1, 1, 10, 30, 100, 1000):
            entry = default_weights(3000, BIG, cores, False, minutes)
            assert entry is not None
            assert entry.licence == "apache-2.0"
            assert entry.parameters is not None
            sizes.append(entry.parameters)
        assert sizes == sorted(sizes)


def test_a_gpu_takes_the_base_size_and_two_cores_the_tiny_one() -> None:
    on_gpu, on_cpu = default_weights(3000, BIG, 2, True, None), default_weights(3000, BIG, 2, False, None)
    assert on_gpu is not None
    assert on_gpu.variant == "ViT-B/16"
    assert on_cpu is not None
    assert on_cpu.variant == "ViT-Ti/16"
    assert default_weights(0, BIG, 1, False, 0) is not None


def test_the_catalog_imports_no_torch() -> None:
    code = "import sys, vitrail.weights.catalog; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
