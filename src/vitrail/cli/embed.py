"""`vitrail embed MODEL PICTURES --out FILE`: feature vectors of pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tyro.conf import Positional

from vitrail.cli.answering import AnsweringOptions
from vitrail.cli.imports import heavy_imports
from vitrail.cli.output import write_json, write_line
from vitrail.cli.parsing import UsageError, parse
from vitrail.cli.terminal import Terminal


@dataclass(frozen=True)
class Embed(AnsweringOptions):
    """Feature vectors for search, clustering or a classifier of your own. Exits with 1 where a picture could not be
    read; it has no row."""

    model: Positional[str]
    """A bundle, a run, a weights file of any layout, a name of `vitrail models --weights`, or hf-hub:owner/name."""
    pictures: Positional[tuple[str, ...]]
    """Files, or folders whose pictures are taken."""
    out: str
    """FILE.parquet, FILE.npy (with the names in FILE.csv) or FILE.csv."""
    features: Literal[
        "pre_logits", "class_token", "patch_mean", "class_token_and_patch_mean", "last_4_class_tokens"
    ] = "pre_logits"
    """What the head sees, the class token, the mean over the patches, both, or the last 4 blocks' class tokens."""
    layer: int | None = None
    """Take them from this block of a Vision Transformer, counted from 0, or from -1 backwards."""
    force: bool = False
    """Replace a file that is there already."""
    batch_size: int = 32
    """Pictures the model sees at once."""
    json: bool = False
    """What was written as JSON."""


def run(arguments: list[str]) -> int:
    command = parse(Embed, arguments, prog="vitrail embed")
    if not command.pictures:
        raise UsageError("no picture was named. See `vitrail embed --help`.")
    if command.batch_size < 1:
        raise UsageError(f"--batch-size {command.batch_size} is below 1.")
    answering = command.answering()
    with heavy_imports():
        from vitrail.tasks.embed import EmbedConfig, embed
        from vitrail.training.events import Events

    terminal = Terminal()
    with Events(terminal) as events:
        config = EmbedConfig(
            model=command.model,
            pictures=command.pictures,
            out=command.out,
            features=command.features,
            layer=command.layer,
            force=command.force,
            batch_size=command.batch_size,
            answering=answering,
        )
        result = embed(config, events)
    for _, message in result.broken:
        terminal.warning(message)
    if command.json:
        write_json(result.to_json())
    else:
        names = " and ".join(str(path) for path in result.files)
        write_line(f"{names}: {result.num_rows:,} pictures, {result.num_features:,} features each")
        if result.broken:
            write_line(f"left out because they cannot be read: {len(result.broken):,}")
    return 1 if result.broken else 0
