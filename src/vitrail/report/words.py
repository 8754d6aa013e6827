"""Figures in words that need no training in statistics."""

from __future__ import annotations

from collections.abc import Sequence

from vitrail.evaluators.calibration import ReliabilityBins
from vitrail.evaluators.comparison import Comparison
from vitrail.evaluators.evaluation import Calibration, ClassScore, Evaluation

FEW_PICTURES = 100  # below this, a share of test pictures is rough and the page says so
FEW_IN_CLASS = 5  # below this, nothing is said of a single class in words
NBSP = "\u00a0"


def percent(share: float, digits: int = 1) -> str:
    """ "83.1 %", with a space that does not break; an en dash for nan."""
    return "\u2013" if share != share else f"{100 * share:.{digits}f}{NBSP}%"


def probability(share: float) -> str:
    """ "97 %", and never "100 %" for what is not certain."""
    return f">{NBSP}99{NBSP}%" if 0.995 <= share < 1 else percent(share, 0)


def in_pictures(share: float) -> str:
    """ "about 7 of 10"; in hundreds near the ends, where tenths would say nothing."""
    for whole in (10, 100, 1000):
        part = round(share * whole)
        if 0 < part < whole and (whole > 10 or 0.07 <= share <= 0.93):
            return f"about {part} of {whole:,}"
    return "practically every one" if share > 0.5 else "practically none"


def duration(seconds: float) -> str:
    """ "8 s", "2 min 05 s", "3 h 12 min"."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}{NBSP}s" if seconds >= 9.5 else f"{seconds:.1f}{NBSP}s"
    if whole < 3600:
        return f"{whole // 60}{NBSP}min {whole % 60:02d}{NBSP}s"
    return f"{whole // 3600}{NBSP}h {whole % 3600 // 60:02d}{NBSP}min"


def power_of_ten(number: float) -> str:
    """ "8.4 x 10^12" in the signs of a printed page; at least 10, three digits at most."""
    digits, power = f"{number:.2e}".split("e")
    factor = f"{float(digits):g}"
    raised = str(int(power)).translate(
        str.maketrans("0123456789", "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079")
    )
    return f"10{raised}" if factor == "1" else f"{factor}{NBSP}\u00d7{NBSP}10{raised}"


def pictures(number: int) -> str:
    return f"{number:,} picture" if number == 1 else f"{number:,} pictures"


def p_value(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}" if value < 0.1 else f"p = {value:.2f}"


def verdict(comparison: Comparison, floor: str) -> str:
    """Whether training beat the floor, with the two counts that decide it. `floor` as in "the ridge classifier"."""
    counts = (
        f"{pictures(comparison.only_model)} only the model got right, {comparison.only_floor:,} only {floor} did"
        f" ({p_value(comparison.p_value)}, exact McNemar test)"
    )
    if comparison.verdict == "beat":
        return f"Training beat {floor}: {counts}. Luck alone hardly ever does that."
    if comparison.verdict == "did not beat":
        return f"Training did not beat {floor}, which is clearly the better of the two: {counts}."
    return f"Between the model and {floor} there is no clear difference: {counts}. Luck alone can do that."


def rough(evaluation: Evaluation) -> str:
    """A warning where the test split is too small for a firm figure, else nothing."""
    if evaluation.num_pictures >= FEW_PICTURES:
        return ""
    return f"The test split holds only {pictures(evaluation.num_pictures)}, so take the figure as a rough one."


def best_and_worst(evaluation: Evaluation) -> tuple[ClassScore, ClassScore] | None:
    """The classes with the highest and the lowest recall, of those with pictures enough; None where they are equal."""
    seen = [score for score in evaluation.per_class if score.support >= FEW_IN_CLASS]
    if len(seen) < 2:
        return None
    ranked = sorted(seen, key=lambda score: score.recall)
    return None if ranked[0].recall == ranked[-1].recall else (ranked[-1], ranked[0])


def calibration(figures: Calibration, accuracy: float) -> Sequence[str]:
    """Sentences: how far the probabilities are off, in which direction, and one example."""
    gap = figures.mean_confidence - accuracy
    off = figures.expected_calibration_error
    sentences = [
        f"The probability it states is off by {percent(off).replace('%', 'points')} on average"
        f" (expected calibration error over {len(figures.bins.counts)} bins of equal width)."
    ]
    if abs(gap) < 0.02:
        sentences.append("It is neither too sure of itself nor too shy.")
    else:
        tendency = "too sure of itself" if gap > 0 else "too shy"
        sentences.append(
            f"It is {tendency}: its answers claim {percent(figures.mean_confidence)} on average"
            f" and are right {percent(accuracy)} of the time."
        )
    example = _example(figures.bins)
    return [*sentences, example] if example else sentences


def _example(bins: ReliabilityBins) -> str:
    """The fullest bin in words."""
    if not bins.counts.any():
        return ""
    fullest = int(bins.counts.argmax())
    return (
        f"Where it claims about {percent(float(bins.confidence[fullest]), 0)}, which it does most often"
        f" ({pictures(int(bins.counts[fullest]))}), it is right {percent(float(bins.accuracy[fullest]), 0)}"
        " of the time."
    )
