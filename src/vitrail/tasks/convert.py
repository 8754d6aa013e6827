"""Weights from one published layout to another, with a certificate of what was read, written and compared."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vitrail.errors import ConfigError, WeightsError, did_you_mean
from vitrail.training.events import Events
from vitrail.weights.adapters import WRITERS
from vitrail.weights.bundle import Bundle, load_bundle
from vitrail.weights.certificate import Certificate, Check
from vitrail.weights.checkpoint import Choices
from vitrail.weights.load import load
from vitrail.weights.peers import PeerError, check_with_peer, layout_of
from vitrail.weights.reading import certify_bundle
from vitrail.weights.writing import answers, compare, write_layout

BUNDLE = "vitrail"
LAYOUTS = (*WRITERS, BUNDLE)


@dataclass(frozen=True)
class ConvertConfig:
    source: str  # as `weights.load.load`
    out: str  # a folder that is not there yet, or a file with the ending of the layout's weights
    to: str  # one of LAYOUTS
    choices: Choices = field(default_factory=Choices)
    peers: bool = True  # also ask the peer's own code, where it is installed

    def __post_init__(self) -> None:
        if self.to not in LAYOUTS:
            raise ConfigError(f"to '{self.to}' is none of {', '.join(LAYOUTS)}.{did_you_mean(self.to, LAYOUTS)}")


@dataclass(frozen=True)
class Conversion:
    source: str
    out: Path
    layout: str
    certificate: Certificate
    how_to_load: str

    def to_json(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "out": str(self.out),
            "layout": self.layout,
            "how_to_load": self.how_to_load,
            "certificate": self.certificate.to_json(),
        }


def convert(config: ConvertConfig, events: Events) -> Conversion:
    """Read, write, read what was written, compare.

    Raises:
        WeightsError: the source cannot be read, or the layout cannot say it; nothing is left behind.
    """
    out = Path(config.out)
    if out.exists():
        raise WeightsError(f"{out}: is there already and is not overwritten; name another place")
    bundle = load(config.source, choices=config.choices, progress=events.download)
    certificate = bundle.certificate or certify_bundle(bundle)
    checks = _peer_checks(bundle, bundle.path, layout_of(bundle.path), events) if config.peers else []
    if config.to == BUNDLE:
        bundle.save_pretrained(out)
        written = compare(bundle.model, answers(load_bundle(out).model), "the written bundle read again")
        how, checks = f'vitrail.load("{out.absolute()}")', [*checks, written]
    else:
        result = write_layout(bundle, config.to, out)
        how, checks = result.how_to_load, [*checks, *result.checks]
        if config.peers:
            checks += _peer_checks(bundle, result.path, config.to, events)
    return Conversion(config.source, out, config.to, replace(certificate, checks=tuple(checks)), how)


def _peer_checks(bundle: Bundle, path: Path, layout: str | None, events: Events) -> list[Check]:
    try:
        check = check_with_peer(bundle, path, layout)
    except PeerError as error:
        events.warning(f"not compared: {error}")
        return []
    return [] if check is None else [check]
