"""BiT's ResNets against published counts, torch's own counter, timm, and reference values."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from vitrail.errors import ConfigError
from vitrail.layers.std_conv import standardize
from vitrail.models.resnet import ResNet, Root
from vitrail.models.resnet_config import ResNetConfig
from vitrail.models.resnet_costs import count_macs, count_parameters

DEPTHS = {26: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3), 200: (3, 24, 36, 3)}
TINY = ResNetConfig(image_size=(40, 56), depths=(1, 2), width_factor=0.5, num_classes=3)


def filled(config: ResNetConfig, seed: int = 0) -> ResNet:
    """A model of which no tensor is zero or one throughout, so that nothing is lost in it."""
    generator = torch.Generator().manual_seed(seed)
    model = ResNet(config, generator=generator).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "conv" not in name:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def pictures(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


# Kolesnikov et al. 2020: the models of the paper with no head, 1000, 21843 (ImageNet-21k) and 18291 (JFT) classes.
@pytest.mark.parametrize(
    ("layers", "factor", "counts"),
    [
        (50, 1, (23_500_352, 25_549_352, 68_256_659, 60_978_611)),
        (50, 2, (93_891_712, 97_988_712, 183_382_483, 168_829_939)),
        (50, 3, (211_174_080, 217_319_080, 345_399_315, 323_572_275)),
        (101, 1, (42_492_480, 44_541_480, 87_248_787, 79_970_739)),
        (101, 3, (381_789_888, 387_934_888, 516_015_123, 494_188_083)),
        (152, 1, (58_136_128, 60_185_128, 102_892_435, 95_614_387)),
        (152, 2, (232_238_208, 236_335_208, 321_728_979, 307_176_435)),
        (152, 4, (928_340_224, 936_533_224, 1_107_299_923, 1_078_198_387)),
        (200, 3, (562_488_000, 568_633_000, 696_713_235, 674_886_195)),
    ],
)
def test_parameters_are_the_published_counts(layers: int, factor: int, counts: tuple[int, ...]) -> None:
    configs = [
        ResNetConfig(depths=DEPTHS[layers], width_factor=factor, num_classes=classes)
        for classes in (0, 1000, 21843, 18291)
    ]
    assert tuple(count_parameters(config) for config in configs) == counts
    assert configs[0].num_layers == layers
    with torch.device("meta"):
        model = ResNet(configs[1], initialize=False)
    assert sum(parameter.numel() for parameter in model.parameters()) == counts[1]


@pytest.mark.parametrize("factor", [0.5, 1, 1.5, 5])
def test_the_formula_counts_the_parameters_of_a_model_of_any_width(factor: float) -> None:
    config = ResNetConfig(depths=DEPTHS[26], width_factor=factor, in_channels=1, num_classes=7)
    with torch.device("meta"):
        model = ResNet(config, initialize=False)
    assert sum(parameter.numel() for parameter in model.parameters()) == count_parameters(config)


@pytest.mark.parametrize("size", [(224, 224), (97, 130)])
def test_the_formula_of_multiply_adds_agrees_with_torchs_counter(size: tuple[int, int]) -> None:
    config = ResNetConfig(image_size=size, depths=DEPTHS[26])
    with torch.device("meta"):
        model = ResNet(config, initialize=False)
        counter = FlopCounterMode(display=False)
        with counter:
            features = model.forward_features(torch.empty(1, 3, *size))
            model.forward_head(features)
    assert counter.get_total_flops() == 2 * count_macs(config)
    assert features.shape == (1, config.num_features, *config.grid)


@pytest.mark.parametrize(("layers", "factor", "gmacs"), [(50, 1, 4.23), (101, 3, 71.23), (152, 4, 186.9)])
def test_multiply_adds_are_those_timm_publishes_less_its_norms(layers: int, factor: int, gmacs: float) -> None:
    config = ResNetConfig(depths=DEPTHS[layers], width_factor=factor)
    # timm's counter takes four operations for each weight that is standardised and five for each normalised value.
    standardised = 4 * (count_parameters(config) - config.num_features * config.num_classes) / 1e9
    assert 0.98 * gmacs < count_macs(config) / 1e9 + standardised < gmacs


def test_kernels_are_standardised_as_bits_code_does() -> None:
    kernel = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64).reshape(1, 1, 2, 2)
    expected = torch.tensor([-1.34164079, -0.4472136, 0.4472136, 1.34164079], dtype=torch.float64)
    torch.testing.assert_close(standardize(kernel, 1e-10, "variance").flatten(), expected, rtol=0, atol=5e-9)


@pytest.mark.parametrize("depths", [(1, 1, 1, 1), DEPTHS[50]])
def test_answers_are_timms(depths: tuple[int, ...]) -> None:
    timm = pytest.importorskip("timm")
    from timm.layers import StdConv2d
    from timm.models.resnetv2 import ResNetV2

    model = filled(ResNetConfig(image_size=(64, 64), depths=depths, num_classes=5, std_conv_eps=1e-8))
    if depths == DEPTHS[50]:
        peer = timm.create_model("resnetv2_50x1_bit", num_classes=5)
    else:
        from timm.layers import StdConv2d

        peer = ResNetV2(
            depths, num_classes=5, stem_type="fixed", conv_layer=lambda *a, **k: StdConv2d(*a, **k, eps=1e-8)
        )
    peer.load_state_dict(model.state_dict())
    images = pictures(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(images), peer.eval()(images), rtol=1e-4, atol=1e-4)


def test_zero_padding_wins_over_a_negative_border_and_minus_infinity_never_does() -> None:
    images = pictures(1, 3, 12, 12)
    zero, infinite = (
        Root(ResNetConfig(max_pool_padding=padding))  # type: ignore[arg-type]
        for padding in ("zero", "minus_infinity")
    )
    with torch.no_grad():
        infinite.load_state_dict(zero.state_dict())
        raw = F.conv2d(images, standardize(zero.conv.weight, 1e-10, "variance"), stride=2, padding=3)
        # The corner's window has two rows and columns of the map, the others are padding.
        corner = raw[:, :, :2, :2].amax((2, 3))
        assert (corner < 0).any()
        torch.testing.assert_close(zero(images)[:, :, 0, 0], corner.clamp(min=0))
        torch.testing.assert_close(infinite(images)[:, :, 0, 0], corner)
        inside = (slice(None), slice(None), slice(1, None), slice(1, None))
        assert torch.equal(zero(images)[inside], infinite(images)[inside])


def test_a_picture_does_not_leak_into_its_neighbour() -> None:
    model = filled(TINY)
    images = pictures(2, 3, 40, 56)
    with torch.no_grad():
        torch.testing.assert_close(model(images)[:1], model(images[:1]), rtol=1e-5, atol=1e-5)


def test_equal_generators_give_equal_weights_and_leave_the_global_one_alone() -> None:
    before = torch.random.get_rng_state()
    first, second = (ResNet(TINY, generator=torch.Generator().manual_seed(3)).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not first["head.fc.weight"].any()


def test_gradient_checkpointing_changes_no_gradient() -> None:
    gradients = []
    for is_on in (False, True):
        model = filled(TINY).train()
        model.gradient_checkpointing = is_on
        model(pictures(2, 3, 40, 56)).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_intermediates_are_the_stages_and_end_in_the_features() -> None:
    model = filled(TINY)
    images = pictures(1, 3, 41, 57)
    with torch.no_grad():
        stages = model.forward_intermediates(images, [-1])
        assert list(stages) == ["stem", "stages.1", "norm"]
        assert stages["stem"].shape == (1, 32, 11, 15)
        assert stages["stages.1"].shape == (1, 256, 6, 8)
        assert torch.equal(stages["norm"], model.forward_features(images))
    with pytest.raises(ValueError, match="stage 2 does not exist"):
        model.forward_intermediates(images, [2])


def test_without_classes_the_answers_are_the_features() -> None:
    model = ResNet(ResNetConfig(depths=(1,), width_factor=0.5, num_classes=0)).eval()
    images = pictures(1, 3, 20, 20)
    features = model.forward_features(images)
    assert torch.equal(model(images), model.forward_head(features, pre_logits=True))


@pytest.mark.parametrize(
    ("field", "value"),
    [("width_factor", 0.3), ("depths", ()), ("depths", (2, 0)), ("max_pool_padding", "same"), ("in_channels", True)],
)
def test_a_field_out_of_range_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=field):
        ResNetConfig(**{field: value})  # type: ignore[arg-type]


def test_pictures_of_other_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="3 channels"):
        ResNet(TINY)(pictures(1, 1, 40, 56))
