"""What a run says when it ends."""

from __future__ import annotations

from vitrail.tasks.floor import FROZEN_FEATURES
from vitrail.tasks.result import did_not_pay


def test_fine_tuning_that_is_no_better_than_the_frozen_features_is_called_not_worth_it() -> None:
    said = did_not_pay(FROZEN_FEATURES, "dino.pth", "photos")
    assert "Fine-tuning was not worth it" in said
    assert "vitrail probe dino.pth photos" in said
    assert "Fine-tuning" not in did_not_pay("ridge on pixels", None, "photos")
    assert "Fine-tuning" not in did_not_pay("always 'hat'", "dino.pth", "photos")
