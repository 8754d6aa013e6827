"""The model card of a bundle: README.md, written for people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitrail.weights.bundle import BundleConfig

_MAX_LABELS = 200
_LICENCE = """## Licence

The code that made and reads this model is Vitrail, under Apache-2.0. The weights carry no licence of their own:
whoever trained them decides, and the rights in the training pictures may bear on that. Write yours here before you
pass the model on; this file may be edited freely."""


def model_card(config: BundleConfig) -> str:
    """Markdown: what the model knows, how well, how it is used, where it comes from, what to mind."""
    return (
        "\n\n".join(
            [
                f"# {_plain(config.name)}",
                _what_it_is(config),
                "## What it knows\n\n" + _labels(config.labels),
                "## How well\n\n" + _table(config.metrics, "No figures were recorded when the model was saved."),
                _use(),
                "## What it does to a picture first\n\n" + _preprocessing(config),
                "## Where it comes from\n\n" + _table(config.provenance, "Nothing was recorded."),
                _limits(config),
                _LICENCE,
            ]
        )
        + "\n"
    )


def _what_it_is(config: BundleConfig) -> str:
    model = config.model
    height, width = model.image_size
    return (
        f"A picture classifier with {len(config.labels)} classes: a Vision Transformer of width {model.width} and"
        f" {model.depth} blocks that sees {height} x {width} pixels in patches of {model.patch_size}."
    )


def _labels(labels: tuple[str, ...]) -> str:
    shown = ", ".join(f"`{_plain(label)}`" for label in labels[:_MAX_LABELS])
    rest = len(labels) - _MAX_LABELS
    return shown + (f", and {rest} more, all listed in config.json." if rest > 0 else ".")


def _use() -> str:
    return (
        "## How to use it\n\n"
        "```\npip install vitrail\nvitrail predict THIS_FOLDER photo.jpg another.png\n"
        "vitrail evaluate THIS_FOLDER FOLDER_OF_LABELLED_PHOTOS\n```\n\n"
        "This folder is all that is needed; keep its files together. Loading checks every file against `config.json`"
        " and asks the model about the pictures in `samples/` again, so a damaged copy is noticed."
    )


def _preprocessing(config: BundleConfig) -> str:
    prep = config.preprocessing
    height, width = prep.image_size
    if prep.resize == "squash":
        how = f"resized to {height} x {width} pixels whatever its shape"
    else:
        how = f"its short side resized to {height} / {prep.crop_fraction:g} pixels and the centre cut out"
        how = f"{how}, {height} x {width} pixels"
    colour = "grey" if prep.num_channels == 1 else "RGB"
    return (
        f"Turned upright, made {colour}, {how} ({prep.interpolation}); values from 0 to 1, then minus {list(prep.mean)}"
        f" and divided by {list(prep.std)}. `vitrail predict` does this by itself."
    )


def _limits(config: BundleConfig) -> str:
    return (
        "## What to mind\n\n"
        f"- It always answers with one of its {len(config.labels)} classes, also for a picture that shows none of"
        " them.\n"
        "- Its figures hold for pictures like those it was trained on; other cameras, places or times can lower them"
        " a lot. Measure with `vitrail evaluate` on your own.\n"
        "- Probabilities can be too sure of themselves; see the calibration in the run's report.\n"
        "- Do not let it decide about people."
    )


def _table(values: Mapping[str, Any], if_empty: str) -> str:
    if not values:
        return if_empty
    rows = "\n".join(f"| {_plain(name.replace('_', ' '))} | {_value(name, value)} |" for name, value in values.items())
    return f"| | |\n|---|---|\n{rows}"


def _value(name: str, value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.1%}" if "accuracy" in name and 0 <= value <= 1 else f"{value:.4g}"
    return _plain(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _plain(text: str) -> str:
    """Text that cannot break out of its line, table cell or code span."""
    return " ".join(text.split()).replace("`", "'").replace("|", "\\|")
