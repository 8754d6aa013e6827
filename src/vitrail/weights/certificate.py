"""The certificate: what is known of loaded or converted weights, and what was done to them. Free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Shape = tuple[int, ...]
_SHOWN = 5  # tensors named one by one; the JSON form has them all


@dataclass(frozen=True)
class Setting:
    """Something that changes the numbers, and where it was taken from."""

    name: str  # "layer_norm_eps"
    value: str  # "1e-06"
    source: str  # "config.json", "the family's rule", "the shape of ...", "the caller"


@dataclass(frozen=True)
class Unused:
    """A tensor of the file that the model has no place for, and why nothing is lost with it."""

    name: str
    shape: Shape
    reason: str  # "the decoder of the pre-training"


@dataclass(frozen=True)
class Check:
    """Logits compared on the same pictures."""

    against: str  # "timm 1.0.31", "the file read again", "Google's code, whose GELU is the tanh approximation"
    largest_difference: float  # of any logit, absolute
    largest_logit: float  # in absolute value, of the reference: the scale of the difference
    num_pictures: int


@dataclass(frozen=True)
class Certificate:
    """What one load or one conversion did."""

    source: str  # file or repository
    family: str  # "timm"
    reason: str  # why it was recognised as such
    architecture: str  # "ViT-B/16 at 224x224, 1000 classes, 86.57 M parameters"
    num_matched: int  # tensors of the file that the model was made from
    num_tensors: int  # of the model
    unused: tuple[Unused, ...] = ()
    fresh: tuple[tuple[str, Shape], ...] = ()  # tensors of the model that the file does not have
    surgery: tuple[str, ...] = ()  # sentences
    settings: tuple[Setting, ...] = ()
    checks: tuple[Check, ...] = ()
    licence: str | None = None

    def lines(self) -> tuple[str, ...]:
        """For people."""
        lines = [
            f"family: {self.family}, because {self.reason}",
            f"architecture: {self.architecture}",
            f"tensors: {self.num_matched} of the file used for {self.num_tensors} of the model,"
            f" {len(self.unused)} left over, {len(self.fresh)} fresh",
        ]
        by_reason: dict[str, list[Unused]] = {}
        for tensor in self.unused:
            by_reason.setdefault(tensor.reason, []).append(tensor)
        for reason, tensors in by_reason.items():
            lines.append(f"left over, {reason}: {_named([(tensor.name, tensor.shape) for tensor in tensors])}")
        if self.fresh:
            lines.append(f"fresh: {_named(self.fresh)}")
        lines += [f"changed: {sentence}" for sentence in self.surgery]
        by_source: dict[str, list[str]] = {}
        for setting in self.settings:
            by_source.setdefault(setting.source, []).append(f"{setting.name} {setting.value}")
        lines += [f"from {source}: {', '.join(values)}" for source, values in by_source.items()]
        for check in self.checks:
            lines.append(f"checked: {_compared(check)}")
        lines.append(f"licence of the weights: {self.licence or 'not stated where they came from'}")
        return tuple(lines)

    def summary(self) -> str:
        """One line for people who did not ask: what it is, that it is whole, and its licence."""
        left_over = f"{len(self.unused)} left over and of no use here" if self.unused else "none left over"
        return (
            f"{self.architecture}; layout {self.family}; {self.num_matched} tensors used, {left_over};"
            f" licence {self.licence or 'not stated'}"
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "family": self.family,
            "reason": self.reason,
            "architecture": self.architecture,
            "num_matched": self.num_matched,
            "num_tensors": self.num_tensors,
            "unused": [{"name": t.name, "shape": list(t.shape), "reason": t.reason} for t in self.unused],
            "fresh": [{"name": name, "shape": list(shape)} for name, shape in self.fresh],
            "surgery": list(self.surgery),
            "settings": [{"name": s.name, "value": s.value, "source": s.source} for s in self.settings],
            "checks": [
                {
                    "against": check.against,
                    "largest_difference": check.largest_difference,
                    "largest_logit": check.largest_logit,
                    "num_pictures": check.num_pictures,
                }
                for check in self.checks
            ],
            "licence": self.licence,
        }


def _named(tensors: Sequence[tuple[str, Shape]]) -> str:
    shown = ", ".join(f"{name} {'x'.join(map(str, shape)) or 'scalar'}" for name, shape in tensors[:_SHOWN])
    more = len(tensors) - _SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def _compared(check: Check) -> str:
    if check.largest_difference == 0:
        return f"the same logits bit for bit as {check.against} ({check.num_pictures} pictures)"
    return (
        f"logits differ from {check.against} by at most {check.largest_difference:.2g}, the largest logit being"
        f" {check.largest_logit:.3g} ({check.num_pictures} pictures)"
    )
