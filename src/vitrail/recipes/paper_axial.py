"""Pre-training of axial models (Dosovitskiy et al. 2021, appendix D.6), whose settings the paper does not print.

Here they have those of table 3 for the models that figure 13 shows them beside. The figure, of five-shot accuracy on
ImageNet after JFT-300M, prints no numbers; in its order Axial-ViT-B/16 is above ViT-B/16, and Axial-ResNet-50 above
ResNet-50. Neither was run whole here; `--scale` shrinks both.
"""

from __future__ import annotations

from dataclasses import replace

from vitrail.models.axial_resnet_config import AXIAL_RESNETS
from vitrail.recipes.paper_pretraining import Row, table_3, with_sigmoid_head
from vitrail.recipes.paper_resnets import resnet50_large_data
from vitrail.recipes.situation import Situation
from vitrail.training.config import TrainConfig


def axial_vit_large_data(situation: Situation) -> TrainConfig:
    """Axial-ViT-B/16 with the settings that table 3 has for ViT-B/16 on JFT-300M: 7 epochs, learning rate 8e-4.

    Command: `vitrail train axial_vit_large_data --data PHOTOS`. No figure is printed in the paper. Not run here.
    """
    return table_3(situation, "axial_vit_large_data", Row("Axial-ViT-B/16", 7, 8e-4))


def axial_resnet50_large_data(situation: Situation) -> TrainConfig:
    """Axial-ResNet-50-L with the settings that table 3 has for ResNet-50 on JFT-300M: 7 epochs, learning rate 1e-3.

    Command: `vitrail train axial_resnet50_large_data --data PHOTOS`. No figure is printed in the paper. Not run here.
    """
    model = with_sigmoid_head(AXIAL_RESNETS["Axial-ResNet-50-L"].config, situation.facts.num_classes)
    return replace(resnet50_large_data(situation), recipe="axial_resnet50_large_data", model=model)
