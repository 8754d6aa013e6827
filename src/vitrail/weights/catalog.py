"""Public checkpoints by name: where they are, what they are, and under which licence. Free of torch.

What stands here was taken from the sources named, and None where they say nothing:
- timm's: repositories, licences, sizes and preprocessing of its pretrained configs (timm 1.0.31); accuracy of its
  results-imagenet.csv, evaluated at the picture size given (DeiT-III, hybrids and BiT: the edition of 2023).
- torchvision's: its weights enums (torchvision 0.29), with the first eight digits of each SHA-256.
- Google's npz: the addresses in timm and big_vision; the licence is what timm states for the same weights, and so is
  the accuracy of SAM's; that of big_vision's plain ViT-S/16: Beyer et al. 2022.
- Hugging Face transformers': the pages of the repositories.
- MoCo v3's: the README of facebookresearch/moco-v3 (linear classification). SWAG's licence: the README of
  facebookresearch/SWAG.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CatalogEntry:
    """One published checkpoint.

    Attributes:
        name: what `--weights` takes.
        variant: of `models.variants` or `models.resnet_variants`, with what differs from it.
        source: "hf-hub:owner/name", or an https address.
        family: the adapter that reads it.
        licence: of the weights, as an identifier of the hub ("apache-2.0"); None: their source states none.
        trained_on: the pictures, and the method where it was not plain classification.
        accuracy: published top-1 on ImageNet-1k's validation pictures, in percent, at `image_size`; None: no head of
            these classes, or no figure published.
        image_size: height = width in pixels at which it was published.
        parameters: millions, with the published head; None: not counted by its source.
        preprocessing: what its evaluation does to a picture, in short: mean and std, interpolation, crop.
        sha256: of an address, whole or its published beginning; None: none is published. Repositories state theirs.
    """

    name: str
    variant: str
    source: str
    family: str
    licence: str | None
    trained_on: str
    accuracy: float | None
    image_size: int
    parameters: float | None
    preprocessing: str
    sha256: str | None = None


_IN21K = "ImageNet-21k"
_IN1K = "ImageNet-1k"
_BOTH = "ImageNet-21k, then ImageNet-1k"
_SWAG = "Instagram hashtags (SWAG), then ImageNet-1k"
_SAM = "ImageNet-1k (SAM)"
_LVD = "LVD-142M without labels (DINOv2)"
_DINO, _MAE = "ImageNet-1k without labels (DINO)", "ImageNet-1k without labels (MAE)"
_MOCO_V3 = "ImageNet-1k without labels (MoCo v3)"
_APACHE, _NON_COMMERCIAL = "apache-2.0", "cc-by-nc-4.0"
_HALF, _IMAGENET = "mean 0.5, std 0.5", "ImageNet's mean and std"
_GOOGLE = f"{_HALF}, bilinear, squashed"
_GOOGLE_BUCKET = "https://storage.googleapis.com/vit_models"
_BIG_VISION_BUCKET = "https://storage.googleapis.com/big_vision"
_MOCO = "https://dl.fbaipublicfiles.com/moco-v3"
_TORCHVISION = "https://download.pytorch.org/models"


def _timm(
    name: str, variant: str, trained_on: str, accuracy: float | None, size: int, parameters: float,
    norm: str = _HALF, *, crop: float | None = None, licence: str = _APACHE,
) -> CatalogEntry:  # fmt: skip
    crop = crop or (0.9 if size == 224 else 1.0)
    preprocessing = f"{norm}, bicubic, crop {crop:g}"
    source = f"hf-hub:timm/{name}"
    return CatalogEntry(name, variant, source, "timm", licence, trained_on, accuracy, size, parameters, preprocessing)


def _bit(
    name: str, variant: str, trained_on: str, accuracy: float | None, size: int, parameters: float
) -> CatalogEntry:
    preprocessing = f"{_HALF}, bilinear, crop {0.875 if size == 224 else 1:g}"
    source = f"hf-hub:timm/{name}"
    return CatalogEntry(name, variant, source, "bit", _APACHE, trained_on, accuracy, size, parameters, preprocessing)


def _huggingface(
    name: str, variant: str, trained_on: str, size: int, parameters: float, preprocessing: str, family: str
) -> CatalogEntry:
    source = f"hf-hub:{name}"
    return CatalogEntry(name, variant, source, family, _APACHE, trained_on, None, size, parameters, preprocessing)


def _google(
    name: str, variant: str, path: str, trained_on: str, accuracy: float | None, parameters: float
) -> CatalogEntry:
    source = f"{_GOOGLE_BUCKET}/{path}.npz"
    return CatalogEntry(name, variant, source, "google", _APACHE, trained_on, accuracy, 224, parameters, _GOOGLE)


def _torchvision(
    name: str, variant: str, file: str, trained_on: str, accuracy: float, size: int, parameters: float, resize: int
) -> CatalogEntry:
    is_swag = "swag" in file
    how = "bicubic" if is_swag else "bilinear"
    preprocessing = f"{_IMAGENET}, {how}, short side {resize}"
    return CatalogEntry(
        name, variant, f"{_TORCHVISION}/{file}.pth", "torchvision", _NON_COMMERCIAL if is_swag else None, trained_on,
        accuracy, size, parameters, preprocessing, sha256=file.rpartition("-")[2],
    )  # fmt: skip


# fmt: off
_ENTRIES = (
    # AugReg (Steiner et al. 2021), trained on ImageNet-21k: what fine-tuning starts from best.
    _timm("vit_tiny_patch16_224.augreg_in21k", "ViT-Ti/16", _IN21K, None, 224, 9.74),
    _timm("vit_small_patch32_224.augreg_in21k", "ViT-S/32", _IN21K, None, 224, 30.9),
    _timm("vit_small_patch16_224.augreg_in21k", "ViT-S/16", _IN21K, None, 224, 30.08),
    _timm("vit_base_patch32_224.augreg_in21k", "ViT-B/32", _IN21K, None, 224, 104.25),
    _timm("vit_base_patch16_224.augreg_in21k", "ViT-B/16", _IN21K, None, 224, 102.6),
    _timm("vit_base_patch8_224.augreg_in21k", "ViT-B/8", _IN21K, None, 224, 102.61),
    _timm("vit_large_patch16_224.augreg_in21k", "ViT-L/16", _IN21K, None, 224, 325.69),
    # The same, fine-tuned on ImageNet-1k.
    _timm("vit_tiny_patch16_224.augreg_in21k_ft_in1k", "ViT-Ti/16", _BOTH, 75.452, 224, 5.72),
    _timm("vit_small_patch32_224.augreg_in21k_ft_in1k", "ViT-S/32", _BOTH, 76.01, 224, 22.88),
    _timm("vit_small_patch16_224.augreg_in21k_ft_in1k", "ViT-S/16", _BOTH, 81.402, 224, 22.05),
    _timm("vit_base_patch32_224.augreg_in21k_ft_in1k", "ViT-B/32", _BOTH, 80.732, 224, 88.22),
    _timm("vit_base_patch16_224.augreg_in21k_ft_in1k", "ViT-B/16", _BOTH, 84.534, 224, 86.57),
    _timm("vit_large_patch16_224.augreg_in21k_ft_in1k", "ViT-L/16", _BOTH, 85.856, 224, 304.33),
    _timm("vit_base_patch16_224.augreg2_in21k_ft_in1k", "ViT-B/16", _BOTH, 85.108, 224, 86.57),
    _timm("vit_base_patch8_224.augreg2_in21k_ft_in1k", "ViT-B/8", _BOTH, 86.252, 224, 86.58),
    _timm("vit_tiny_patch16_384.augreg_in21k_ft_in1k", "ViT-Ti/16@384", _BOTH, 78.438, 384, 5.79),
    _timm("vit_small_patch32_384.augreg_in21k_ft_in1k", "ViT-S/32@384", _BOTH, 80.476, 384, 22.92),
    _timm("vit_small_patch16_384.augreg_in21k_ft_in1k", "ViT-S/16@384", _BOTH, 83.814, 384, 22.2),
    _timm("vit_base_patch32_384.augreg_in21k_ft_in1k", "ViT-B/32@384", _BOTH, 83.358, 384, 88.3),
    _timm("vit_base_patch16_384.augreg_in21k_ft_in1k", "ViT-B/16@384", _BOTH, 86.01, 384, 86.86),
    _timm("vit_large_patch16_384.augreg_in21k_ft_in1k", "ViT-L/16@384", _BOTH, 87.096, 384, 304.72),
    _timm("vit_small_patch16_224.augreg_in1k", "ViT-S/16", _IN1K, 78.842, 224, 22.05),
    _timm("vit_base_patch16_224.augreg_in1k", "ViT-B/16", _IN1K, 79.154, 224, 86.57),
    # The first paper (Dosovitskiy et al. 2021).
    _timm("vit_base_patch16_224.orig_in21k_ft_in1k", "ViT-B/16", _BOTH, 81.782, 224, 86.57),
    _timm("vit_base_patch16_384.orig_in21k_ft_in1k", "ViT-B/16@384", _BOTH, 84.212, 384, 86.86),
    _timm("vit_large_patch32_384.orig_in21k_ft_in1k", "ViT-L/32@384", _BOTH, 81.508, 384, 306.63),
    _timm("vit_huge_patch14_224.orig_in21k", "ViT-H/14, no head", _IN21K, None, 224, 630.76),
    _huggingface("google/vit-base-patch16-224-in21k", "ViT-B/16, no head", _IN21K, 224, 85.8, _GOOGLE,
          "huggingface_vit"),
    _huggingface("google/vit-base-patch16-224", "ViT-B/16", _BOTH, 224, 86.57, _GOOGLE, "huggingface_vit"),
    _huggingface("google/vit-base-patch16-384", "ViT-B/16@384", _BOTH, 384, 86.86, _GOOGLE, "huggingface_vit"),
    _huggingface("google/vit-base-patch32-384", "ViT-B/32@384", _BOTH, 384, 88.3, _GOOGLE, "huggingface_vit"),
    _huggingface("google/vit-large-patch16-384", "ViT-L/16@384", _BOTH, 384, 304.72, _GOOGLE, "huggingface_vit"),
    _huggingface("google/vit-large-patch32-384", "ViT-L/32@384", _BOTH, 384, 306.63, _GOOGLE, "huggingface_vit"),
    # Google's own files, in the bucket of google-research/vision_transformer.
    _google("Ti_16.augreg_in21k.google", "ViT-Ti/16",
            "augreg/Ti_16-i21k-300ep-lr_0.001-aug_none-wd_0.03-do_0.0-sd_0.0", _IN21K, None, 9.74),
    _google("S_16.augreg_in21k.google", "ViT-S/16",
            "augreg/S_16-i21k-300ep-lr_0.001-aug_light1-wd_0.03-do_0.0-sd_0.0", _IN21K, None, 30.08),
    _google("B_16.augreg_in21k.google", "ViT-B/16",
            "augreg/B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0", _IN21K, None, 102.6),
    _google("L_16.augreg_in21k.google", "ViT-L/16",
            "augreg/L_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.1-sd_0.1", _IN21K, None, 325.69),
    _google("B_16.in21k.google", "ViT-B/16, pre-logits",
            "imagenet21k/ViT-B_16", _IN21K, None, 103.19),
    _google("B_32.in21k.google", "ViT-B/32, pre-logits",
            "imagenet21k/ViT-B_32", _IN21K, None, 104.84),
    _google("L_16.in21k.google", "ViT-L/16, pre-logits",
            "imagenet21k/ViT-L_16", _IN21K, None, 326.74),
    _google("B_16.in21k_ft_in1k.google", "ViT-B/16",
            "imagenet21k+imagenet2012/ViT-B_16-224", _BOTH, None, 86.57),
    _google("B_16.sam_in1k.google", "ViT-B/16",
            "sam/ViT-B_16", _SAM, 80.246, 86.57),
    _google("B_32.sam_in1k.google", "ViT-B/32",
            "sam/ViT-B_32", _SAM, 73.704, 88.22),
    # big_vision's plain ViT-S/16 (Beyer et al. 2022).
    CatalogEntry("vit_s16_i1k_90ep.big_vision", "ViT-S/16, mean pooling",
          f"{_BIG_VISION_BUCKET}/vit_s16_i1k_90ep.npz",
                 "big_vision", None, f"{_IN1K}, 90 epochs", 76.5, 224, None, f"{_HALF}, bilinear, short side 256"),
    CatalogEntry("vit_s16_i1k_150ep.big_vision", "ViT-S/16, mean pooling",
          f"{_BIG_VISION_BUCKET}/vit_s16_i1k_150ep.npz",
                 "big_vision", None, f"{_IN1K}, 150 epochs", 78.5, 224, None, f"{_HALF}, bilinear, short side 256"),
    CatalogEntry("vit_s16_i1k_300ep.big_vision", "ViT-S/16, mean pooling",
          f"{_BIG_VISION_BUCKET}/vit_s16_i1k_300ep.npz",
                 "big_vision", None, f"{_IN1K}, 300 epochs", 80.0, 224, None, f"{_HALF}, bilinear, short side 256"),
    # DeiT (Touvron et al. 2021), and DeiT-III (Touvron et al. 2022).
    _timm("deit_tiny_patch16_224.fb_in1k", "ViT-Ti/16", _IN1K, 72.19, 224, 5.72, _IMAGENET),
    _timm("deit_small_patch16_224.fb_in1k", "ViT-S/16", _IN1K, 79.856, 224, 22.05, _IMAGENET),
    _timm("deit_base_patch16_224.fb_in1k", "ViT-B/16", _IN1K, 81.98, 224, 86.57, _IMAGENET),
    _timm("deit_base_patch16_384.fb_in1k", "ViT-B/16@384", _IN1K, 83.108, 384, 86.86, _IMAGENET),
    _timm("deit_base_distilled_patch16_384.fb_in1k", "ViT-B/16@384, distilled", _IN1K, 85.438, 384, 87.63, _IMAGENET),
    _huggingface("facebook/deit-tiny-distilled-patch16-224", "ViT-Ti/16, distilled", _IN1K, 224, 5.91,
                 f"{_IMAGENET}, bicubic, short side 256", "huggingface_deit"),
    _huggingface("facebook/deit-small-distilled-patch16-224", "ViT-S/16, distilled", _IN1K, 224, 22.44,
                 f"{_IMAGENET}, bicubic, short side 256", "huggingface_deit"),
    _huggingface("facebook/deit-base-distilled-patch16-224", "ViT-B/16, distilled", _IN1K, 224, 87.34,
                 f"{_IMAGENET}, bicubic, short side 256", "huggingface_deit"),
    _timm("deit3_small_patch16_224.fb_in22k_ft_in1k", "ViT-S/16, LayerScale", _BOTH, 83.074, 224, 22.06, _IMAGENET,
          crop=1.0),
    _timm("deit3_medium_patch16_224.fb_in22k_ft_in1k", "ViT-M/16, LayerScale", _BOTH, 84.552, 224, 38.85,
          _IMAGENET, crop=1.0),
    _timm("deit3_base_patch16_224.fb_in22k_ft_in1k", "ViT-B/16, LayerScale", _BOTH, 85.7, 224, 86.59, _IMAGENET,
          crop=1.0),
    _timm("deit3_large_patch16_224.fb_in22k_ft_in1k", "ViT-L/16, LayerScale", _BOTH, 86.982, 224, 304.37,
          _IMAGENET, crop=1.0),
    # Trained without labels, with no head but MoCo v3's linear one: DINO (Caron et al. 2021), DINOv2 (Oquab et al.
    # 2023; registers: Darcet et al. 2023), MAE (He et al. 2022), MoCo v3 (Chen et al. 2021).
    _timm("vit_small_patch16_224.dino", "ViT-S/16, no head", _DINO, None, 224, 21.67, _IMAGENET),
    _timm("vit_small_patch8_224.dino", "ViT-S/8, no head", _DINO, None, 224, 21.67, _IMAGENET),
    _timm("vit_base_patch16_224.dino", "ViT-B/16, no head", _DINO, None, 224, 85.8, _IMAGENET),
    _timm("vit_base_patch8_224.dino", "ViT-B/8, no head", _DINO, None, 224, 85.81, _IMAGENET),
    _timm("vit_small_patch14_dinov2.lvd142m", "ViT-S/14, no head", _LVD, None, 518, 22.06, _IMAGENET),
    _timm("vit_base_patch14_dinov2.lvd142m", "ViT-B/14, no head", _LVD, None, 518, 86.58, _IMAGENET),
    _timm("vit_large_patch14_dinov2.lvd142m", "ViT-L/14, no head", _LVD, None, 518, 304.37, _IMAGENET),
    _timm("vit_small_patch14_reg4_dinov2.lvd142m", "ViT-S/14, 4 registers, no head", _LVD, None, 518, 22.06, _IMAGENET),
    _timm("vit_base_patch14_reg4_dinov2.lvd142m", "ViT-B/14, 4 registers, no head", _LVD, None, 518, 86.58, _IMAGENET),
    _timm("vit_large_patch14_reg4_dinov2.lvd142m", "ViT-L/14, 4 registers, no head", _LVD, None, 518, 304.37,
          _IMAGENET),
    _timm("vit_base_patch16_224.mae", "ViT-B/16, no head", _MAE, None, 224, 85.8, _IMAGENET, licence=_NON_COMMERCIAL),
    _timm("vit_large_patch16_224.mae", "ViT-L/16, no head", _MAE, None, 224, 303.3, _IMAGENET, licence=_NON_COMMERCIAL),
    _timm("vit_huge_patch14_224.mae", "ViT-H/14, no head", _MAE, None, 224, 630.76, _IMAGENET, licence=_NON_COMMERCIAL),
    CatalogEntry("vit-s-300ep-linear.moco_v3", "ViT-S/16, 12 heads",
          f"{_MOCO}/vit-s-300ep/linear-vit-s-300ep.pth.tar",
                 "moco", _NON_COMMERCIAL, _MOCO_V3, 73.2, 224, 22.05, f"{_IMAGENET}, bilinear, short side 256"),
    CatalogEntry("vit-b-300ep-linear.moco_v3", "ViT-B/16, 12 heads",
          f"{_MOCO}/vit-b-300ep/linear-vit-b-300ep.pth.tar",
                 "moco", _NON_COMMERCIAL, _MOCO_V3, 76.7, 224, 86.57, f"{_IMAGENET}, bilinear, short side 256"),
    # Hybrids: a ResNet in front of the blocks (AugReg; the first paper's R50+ViT-B/16).
    _timm("vit_tiny_r_s16_p8_224.augreg_in21k", "R+ViT-Ti/16", _IN21K, None, 224, 10.36),
    _timm("vit_small_r26_s32_224.augreg_in21k", "R26+ViT-S/32", _IN21K, None, 224, 44.46),
    _timm("vit_small_r26_s32_224.augreg_in21k_ft_in1k", "R26+ViT-S/32", _BOTH, 81.864, 224, 36.43),
    _timm("vit_small_r26_s32_384.augreg_in21k_ft_in1k", "R26+ViT-S/32@384", _BOTH, 84.048, 384, 36.47),
    _timm("vit_base_r50_s16_384.orig_in21k_ft_in1k", "R50+ViT-B/16@384", _BOTH, 84.976, 384, 98.95),
    _timm("vit_large_r50_s32_224.augreg_in21k", "R50+ViT-L/32", _IN21K, None, 224, 350.36),
    _timm("vit_large_r50_s32_224.augreg_in21k_ft_in1k", "R50+ViT-L/32", _BOTH, 84.422, 224, 328.99),
    _timm("vit_large_r50_s32_384.augreg_in21k_ft_in1k", "R50+ViT-L/32@384", _BOTH, 86.182, 384, 329.09),
    # BiT-M's ResNets (Kolesnikov et al. 2020).
    _bit("resnetv2_50x1_bit.goog_in21k", "BiT-R50x1", _IN21K, None, 224, 68.26),
    _bit("resnetv2_50x1_bit.goog_in21k_ft_in1k", "BiT-R50x1@448", _BOTH, None, 448, 25.55),
    _bit("resnetv2_50x3_bit.goog_in21k_ft_in1k", "BiT-R50x3@448", _BOTH, 84.02, 448, 217.32),
    _bit("resnetv2_101x1_bit.goog_in21k", "BiT-R101x1", _IN21K, None, 224, 87.25),
    _bit("resnetv2_101x1_bit.goog_in21k_ft_in1k", "BiT-R101x1@448", _BOTH, 82.342, 448, 44.54),
    _bit("resnetv2_152x2_bit.goog_in21k_ft_in1k", "BiT-R152x2@448", _BOTH, 84.51, 448, 236.34),
    # torchvision's.
    _torchvision("vit_b_16.torchvision", "ViT-B/16", "vit_b_16-c867db91", _IN1K, 81.072, 224, 86.57, 256),
    _torchvision("vit_b_32.torchvision", "ViT-B/32", "vit_b_32-d86f8d99", _IN1K, 75.912, 224, 88.22, 256),
    _torchvision("vit_l_16.torchvision", "ViT-L/16", "vit_l_16-852ce7e3", _IN1K, 79.662, 224, 304.33, 242),
    _torchvision("vit_l_32.torchvision", "ViT-L/32", "vit_l_32-c7638314", _IN1K, 76.972, 224, 306.54, 256),
    _torchvision("vit_b_16_swag.torchvision", "ViT-B/16@384", "vit_b_16_swag-9ac1b537", _SWAG, 85.304, 384, 86.86, 384),
    _torchvision("vit_l_16_swag.torchvision", "ViT-L/16@512", "vit_l_16_swag-4f3808c9", _SWAG, 88.064, 512, 305.17,
          512),
    _torchvision("vit_h_14_swag.torchvision", "ViT-H/14@518", "vit_h_14_swag-80465313", _SWAG, 88.552, 518, 633.47,
          518),
    _torchvision("vit_b_16_lc_swag.torchvision", "ViT-B/16", "vit_b_16_lc_swag-4e70ced5", _SWAG, 81.886, 224,
          86.57, 224),
)
# fmt: on

CATALOG: dict[str, CatalogEntry] = {entry.name: entry for entry in _ENTRIES}


def find(name: str) -> CatalogEntry | None:
    """The entry of a name, or of the repository or address it stands for; None: there is none."""
    sources = (entry for entry in _ENTRIES if name in (entry.source, entry.source.removeprefix("hf-hub:")))
    return CATALOG.get(name) or next(sources, None)


# Pictures forwards and backwards a second on one core at 224 x 224 in float32, measured on a server's Xeon.
_PICTURES_PER_CORE_SECOND = {"vit_tiny_patch16_224.augreg_in21k": 14.0, "vit_small_patch16_224.augreg_in21k": 4.9}
_GPU_CHOICE = "vit_base_patch16_224.augreg_in21k"
_ENOUGH_EPOCHS = 10
_USUAL_MINUTES = 15.0
_TINY_PICTURES = 48


def default_weights(
    num_train: int, picture_size: tuple[int, int], cores: int, has_gpu: bool, minutes: float | None
) -> CatalogEntry | None:
    """The public weights to start from where the user names none; None: training from scratch.

    All are AugReg's, trained on ImageNet-21k, which Steiner et al. 2021 recommend to fine-tune from rather than to
    train from scratch, and whose licence allows every use. Which size is a matter of time: on a CPU the larger of Ti/16
    and S/16 with which every picture is seen ten times in the minutes allowed (fifteen where none are given); on a GPU
    B/16.

    Pictures of at most 48 pixels a side start from scratch: enlarged to 224 each would cost (224 / 48)^2 = 22 times as
    much or more, for pixels that are only interpolated, while a small model reads them as they are.

    Args:
        num_train: pictures to train on.
        picture_size: (height, width) that is typical of them, in pixels.
        cores: of the CPU.
        minutes: the user's limit for training.
    """
    if max(picture_size) <= _TINY_PICTURES:
        return None
    if has_gpu:
        return CATALOG[_GPU_CHOICE]
    seconds = 60 * (minutes if minutes is not None else _USUAL_MINUTES)
    tiny, small = _PICTURES_PER_CORE_SECOND
    epochs = _PICTURES_PER_CORE_SECOND[small] * cores * seconds / max(1, num_train)
    return CATALOG[small if epochs >= _ENOUGH_EPOCHS else tiny]
