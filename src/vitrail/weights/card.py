"""The model card of a bundle: README.md, written for people, with the header that the Hugging Face hub reads."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vitrail.models.resnet_config import ResNetConfig
from vitrail.models.timm_config import TimmConfig

if TYPE_CHECKING:
    from vitrail.weights.bundle import BundleConfig

_MAX_LABELS = 200
_REPOSITORY = re.compile(r"hf-hub:([\w.-]+/[\w.-]+)(@.*)?")
# The hub's identifiers that weights of Vision Transformers come under; others are named as "other".
_LICENCES = {
    "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0", "gpl-3.0", "agpl-3.0", "lgpl-3.0", "mpl-2.0", "openrail", "unlicense",
}  # fmt: skip
_MODULES = ("safetensors.torch", "timm", "torchvision", "transformers", "vitrail")
_ORIGIN = ("starting_weights", "origin")  # of a model that was trained further; of one that was only converted
_METRICS = {"accuracy": "Accuracy", "balanced_accuracy": "Balanced accuracy"}


def model_card(config: BundleConfig, *, library: str = "vitrail", how_to_load: str | None = None) -> str:
    """Markdown: what the model knows, how well, how it is used, where it comes from, what to mind.

    Args:
        library: whose layout the files beside the card have, as the hub names it.
        how_to_load: a line of that library's code, for files that are no bundle.
    """
    return (
        "\n\n".join(
            [
                _header(config, library),
                f"# {_plain(config.name)}",
                _what_it_is(config),
                *(["## What it knows\n\n" + _labels(config.labels)] if config.labels else []),
                "## How well\n\n" + _table(config.metrics, "No figures were recorded when the model was saved."),
                _use(config, how_to_load),
                "## What it does to a picture first\n\n" + _preprocessing(config),
                "## Where it comes from\n\n" + _provenance(config),
                _limits(config),
                _licence(config),
            ]
        )
        + "\n"
    )


def _header(config: BundleConfig, library: str) -> str:
    """YAML between lines of dashes: https://huggingface.co/docs/hub/model-cards."""
    task = "image-classification" if config.labels else "image-feature-extraction"
    lines = [f"library_name: {library}", f"pipeline_tag: {task}", "tags:", "- vision", "- vision-transformer", "- vit"]
    if config.licence is not None and config.licence.lower() in _LICENCES:
        lines.append(f"license: {config.licence.lower()}")
    elif config.licence is not None:
        lines += ["license: other", f"license_name: {_yaml(config.licence)}"]
    kind, origin = _origin(config)
    repository = _REPOSITORY.fullmatch(str(origin.get("weights", "")))
    if repository is not None:
        lines.append(f"base_model: {_yaml(repository[1])}")
        lines += ["base_model_relation: finetune"] if kind == "starting_weights" else []
    return "\n".join(["---", *lines, *_model_index(config), "---"])


def _model_index(config: BundleConfig) -> list[str]:
    """The figures, as the hub shows them beside the model."""
    lines: list[str] = []
    for split in ("test", "validation"):
        values = {name: config.metrics.get(f"{split}_{name}") for name in _METRICS}
        known = {name: value for name, value in values.items() if isinstance(value, float) and math.isfinite(value)}
        if not known:
            continue
        lines += [
            "  - task:",
            "      type: image-classification",
            "    dataset:",
            f"      name: {_yaml(config.provenance.get('data') or config.name)}",
            "      type: imagefolder",
            f"      split: {split}",
            "    metrics:",
        ]
        for name, value in known.items():
            lines += [f"    - type: {name}", f"      name: {_METRICS[name]}", f"      value: {value:.6f}"]
    return ["model-index:", f"- name: {_yaml(config.name)}", "  results:", *lines] if lines else []


def _yaml(value: object) -> str:
    """A YAML string that holds any text on its line: JSON's, without the characters YAML has no place for."""
    text = "".join(character if character.isprintable() else " " for character in str(value))
    return json.dumps(" ".join(text.split()), ensure_ascii=False)


def _what_it_is(config: BundleConfig) -> str:
    model = config.model
    height, width = model.image_size
    what = f"A picture classifier with {len(config.labels)} classes" if config.labels else "Features of pictures"
    if isinstance(model, TimmConfig):
        return f"{what}: a {model.family}, that sees {height} x {width} pixels. It needs timm to be loaded."
    if isinstance(model, ResNetConfig):
        return (
            f"{what}: a {model.family} of {model.num_layers} layers and width factor {model.width_factor:g} that sees"
            f" {height} x {width} pixels."
        )
    return (
        f"{what}: a {model.family} of width {model.width} and"
        f" {model.depth} blocks that sees {height} x {width} pixels in patches of {model.patch_size}."
    )


def _labels(labels: tuple[str, ...]) -> str:
    shown = ", ".join(f"`{_plain(label)}`" for label in labels[:_MAX_LABELS])
    rest = len(labels) - _MAX_LABELS
    return shown + (f", and {rest} more, all listed in config.json." if rest > 0 else ".")


def _use(config: BundleConfig, how_to_load: str | None) -> str:
    commands = (
        "vitrail predict THIS_FOLDER photo.jpg another.png\nvitrail evaluate THIS_FOLDER FOLDER_OF_LABELLED_PHOTOS"
        if config.labels
        else "vitrail fit YOUR_PHOTOS --weights THIS_FOLDER"
    )
    if how_to_load is not None:
        return (
            f"## How to use it\n\n```python\n{_imports_of(how_to_load)}{how_to_load}\n```\n\n"
            f"or\n\n```\npip install vitrail\n{commands}\n```\n\n"
            "`vitrail.json` keeps what the other files have no place for, and the checksum of the weights."
        )
    return (
        f"## How to use it\n\n```\npip install vitrail\n{commands}\n```\n\n"
        "This folder is all that is needed; keep its files together. Loading checks every file against `config.json`"
        " and asks the model about the pictures in `samples/` again, so a damaged copy is noticed."
    )


def _imports_of(code: str) -> str:
    """The imports that a line such as "timm.create_model(...)" needs."""
    needed = [module for module in _MODULES if f"{module}." in code]
    return "".join(f"import {module}\n" for module in needed) + ("\n" if needed else "")


def _preprocessing(config: BundleConfig) -> str:
    prep = config.preprocessing
    height, width = prep.image_size
    if prep.resize == "squash":
        how = f"resized to {height} x {width} pixels whatever its shape"
    else:
        short = " x ".join(dict.fromkeys(str(math.floor(side / prep.crop_fraction)) for side in (height, width)))
        how = f"its short side resized to {short} pixels and the centre cut out"
        how = f"{how}, {height} x {width} pixels"
    colour = "grey" if prep.num_channels == 1 else "RGB"
    return (
        f"Turned upright, made {colour}, {how} ({prep.interpolation}); values from 0 to 1, then minus {list(prep.mean)}"
        f" and divided by {list(prep.std)}. `vitrail predict` does this by itself."
    )


def _origin(config: BundleConfig) -> tuple[str, Mapping[str, Any]]:
    """How the weights came about that were not made here, and what is known of them."""
    for kind in _ORIGIN:
        origin = config.provenance.get(kind)
        if isinstance(origin, Mapping) and origin.get("weights"):
            return kind, origin
    return "", {}


def _provenance(config: BundleConfig) -> str:
    kind, origin = _origin(config)
    if not kind:
        return _table(config.provenance, "Nothing was recorded.")
    how = "It was trained further from" if kind == "starting_weights" else "It was converted, not trained here, from"
    sentence = f"{how} the weights `{_plain(str(origin['weights']))}`"
    facts = [f"{name} {_plain(str(origin[name]))}" for name in ("family", "licence") if origin.get(name)]
    sentence += f" ({', '.join(facts)})." if facts else "."
    rest = {name: value for name, value in config.provenance.items() if name != kind and value is not None}
    known = ("weights", "family", "licence")
    rest |= {f"{kind}: {name}": value for name, value in origin.items() if name not in known and value is not None}
    return sentence + (f"\n\n{_table(rest, '')}" if rest else "")


def _licence(config: BundleConfig) -> str:
    code = "## Licence\n\nThe code that made and reads this model is Vitrail, under Apache-2.0."
    if config.licence is None:
        return (
            f"{code} The weights carry no licence of their own: whoever trained them decides, and the rights in the"
            " training pictures may bear on that. Write yours here before you pass the model on; this file may be"
            " edited freely."
        )
    kind, _ = _origin(config)
    whose = "The weights it was trained further from are" if kind == "starting_weights" else "The weights are"
    return (
        f"{code} {whose} under `{_plain(config.licence)}`, as their source states it: keep to it when you use or pass"
        " on this model. The rights in the training pictures may bear on that too; this file may be edited freely."
    )


def _limits(config: BundleConfig) -> str:
    if not config.labels:
        return (
            "## What to mind\n\n"
            "- It names nothing: it has no head. What is built on its features must be measured on your own pictures.\n"
            "- Its features reflect the pictures it was trained on. Do not let what is built on them decide about"
            " people."
        )
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
