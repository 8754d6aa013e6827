"""What every listed variant owes: a model of its config, its formulas right, a name that finds it."""

from __future__ import annotations

import pytest
import torch

from vitrail.errors import ConfigError
from vitrail.models.costs import count_macs, count_parameters
from vitrail.models.variants import HYBRIDS, SIZES, TIMM_NAMES, VARIANTS, get_config
from vitrail.models.vit import VisionTransformer


@pytest.mark.parametrize("name", list(VARIANTS))
def test_a_variant_is_what_its_name_and_its_formula_say(name: str) -> None:
    variant = VARIANTS[name]
    assert variant.name == name
    assert variant.config == get_config(name)
    # This name alone is of the paper's table and not of its stride: see `HYBRIDS`.
    assert name == "R+ViT-Ti/16" or name.endswith(f"/{variant.config.patch_size}")
    with torch.device("meta"):
        model = VisionTransformer(variant.config, initialize=False)
    assert sum(parameter.numel() for parameter in model.parameters()) == count_parameters(variant.config)
    assert count_macs(variant.config) > 0


@pytest.mark.parametrize("size", list(SIZES))
def test_a_model_of_every_size_answers_on_the_meta_device(size: str) -> None:
    with torch.device("meta"):
        model = VisionTransformer(get_config(f"ViT-{size}/32"), initialize=False)
        assert model(torch.empty(2, 3, 224, 224)).shape == (2, 1000)


@pytest.mark.parametrize("timm_name", list(TIMM_NAMES))
def test_timm_calls_the_same_architecture_so(timm_name: str) -> None:
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        theirs = timm.create_model(timm_name, num_classes=1000)
        ours = VisionTransformer(get_config(timm_name), initialize=False)
    shapes = {key: value.shape for key, value in ours.state_dict().items()}
    assert shapes == {key: value.shape for key, value in theirs.state_dict().items()}
    assert get_config(timm_name).num_heads == theirs.blocks[0].attn.num_heads


@pytest.mark.parametrize(
    ("name", "grid"),
    [
        ("R+ViT-Ti/16", (7, 7)),
        ("R26+ViT-S/32@384", (12, 12)),
        ("R50+ViT-B/16@384", (24, 24)),
        ("R50+ViT-L/32@224x384", (7, 12)),
        ("vit_tiny_r_s16_p8_384", (12, 12)),
    ],
)
def test_a_hybrid_can_be_named_with_its_picture_size(name: str, grid: tuple[int, int]) -> None:
    assert get_config(name).grid == grid
    assert get_config(name).stem == "resnet"


@pytest.mark.parametrize("name", list(HYBRIDS))
def test_a_hybrid_answers_on_the_meta_device(name: str) -> None:
    with torch.device("meta"):
        model = VisionTransformer(get_config(name), initialize=False)
        assert model.patch_embed(torch.empty(2, 3, 224, 224)).shape == (2, model.config.num_patches, model.config.width)


def test_a_variant_lists_its_timm_names() -> None:
    assert VARIANTS["ViT-B/16"].timm_names == ("vit_base_patch16_224", "deit_base_patch16_224")


@pytest.mark.parametrize("patch_size", range(2, 33))
def test_any_patch_size_and_any_picture_it_divides_can_be_named(patch_size: int) -> None:
    config = get_config(f"ViT-B/{patch_size}@{patch_size * 3}x{patch_size * 5}")
    assert config.patch_size == patch_size
    assert config.grid == (3, 5)
    assert get_config(f"ViT-B/{patch_size}@{patch_size * 7}").grid == (7, 7)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ViT-B16", "unknown model 'ViT-B16'. Did you mean 'ViT-B/16'"),
        ("vit_base_patch16_22", "Did you mean 'vit_base_patch16_224'"),
        ("ViT-B/0", "unknown model"),
        ("R50+ViT-B/8", "unknown model 'R50\\+ViT-B/8'. Did you mean 'R50\\+ViT-B/(16|32)'"),
        ("R26+ViT-S/32@100", "patch_size 32 does not divide"),
        ("ViT-B/16@", "unknown model"),
        ("ViT-B/10", "patch_size 10 does not divide image_size 224 x 224"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_known_one(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        get_config(name)
