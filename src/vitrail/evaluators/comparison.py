"""Whether one classifier beats another on the same pictures, or whether the difference may be chance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

Verdict = Literal["beat", "no clear difference", "did not beat"]
SIGNIFICANCE = 0.05  # a difference that chance makes at least this often is not called one


@dataclass(frozen=True)
class Comparison:
    """A model against a floor, picture by picture; only those that one got right and the other wrong can tell."""

    num_pictures: int
    only_model: int  # right by the model, wrong by the floor
    only_floor: int  # the reverse
    p_value: float  # exact, two-sided (McNemar 1947 with the binomial distribution)

    @property
    def verdict(self) -> Verdict:
        """ "did not beat" is a floor that is clearly better; too few pictures to tell is "no clear difference"."""
        if self.p_value >= SIGNIFICANCE:
            return "no clear difference"
        return "beat" if self.only_model > self.only_floor else "did not beat"

    def to_json(self) -> dict[str, object]:
        return {
            "num_pictures": self.num_pictures,
            "only_model": self.only_model,
            "only_floor": self.only_floor,
            "p_value": self.p_value,
            "verdict": self.verdict,
        }


def compare(model_correct: np.ndarray, floor_correct: np.ndarray) -> Comparison:
    """Compare two classifiers by their (N,) bool of right answers, in the same order of pictures."""
    if model_correct.shape != floor_correct.shape or model_correct.dtype != bool or floor_correct.dtype != bool:
        raise ValueError(
            f"two vectors of bool of one length are needed, not {model_correct.dtype} {model_correct.shape}"
            f" and {floor_correct.dtype} {floor_correct.shape}"
        )
    only_model = int((model_correct & ~floor_correct).sum())
    only_floor = int((floor_correct & ~model_correct).sum())
    return Comparison(len(model_correct), only_model, only_floor, sign_test(only_model, only_floor))


def sign_test(wins: int, losses: int) -> float:
    """How often fair coins fall at least as unevenly as `wins` against `losses`: the exact two-sided p-value."""
    num = wins + losses
    if num == 0:
        return 1.0
    k = np.arange(min(wins, losses) + 1)
    # ln of the binomial coefficients by their ratios: exact integers of 50,000 coins have 15,000 digits.
    steps = np.log((num - k[1:] + 1) / k[1:])
    log_terms = np.concatenate([[0.0], np.cumsum(steps)]) - num * math.log(2)
    largest = log_terms.max()
    return min(1.0, 2 * math.exp(largest) * float(np.exp(log_terms - largest).sum()))
