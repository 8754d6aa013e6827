"""`vitrail inspect MODEL PICTURES`: where a Vision Transformer looks, as a page."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from tyro.conf import Positional

from vitrail.cli.imports import heavy_imports
from vitrail.cli.output import write_json, write_line
from vitrail.cli.parsing import UsageError, parse
from vitrail.cli.terminal import Terminal


@dataclass(frozen=True)
class Inspect:
    """Filters, positions, attention distance, every head's look at every picture, and what reached each answer: one
    self-contained page. Exits with 1 where a picture could not be read."""

    model: Positional[str]
    """A bundle, a run, a weights file of any layout, a name of `vitrail models --weights`, or hf-hub:owner/name."""
    pictures: Positional[tuple[str, ...]]
    """Files, or folders whose pictures are taken. If the first is a model too, the page shows both: what changed from
    MODEL to it."""
    out: str = "inspection.html"
    """The page."""
    most: int = 16
    """Pictures; those that come after are left out."""
    occlude: bool = False
    """Cover each square of two by two patches in turn and ask again: the honest check of the other maps, and as many
    answers as there are patches."""
    shifts_beside: str | None = None
    """Another model, of any kind (a ResNet, say), asked about the same shifts of the same pictures and drawn beside."""
    force: bool = False
    """Replace a file that is there already."""
    json: bool = False
    """The figures as JSON too: distances, entropies, answers, shifts."""


def run(arguments: list[str]) -> int:
    command = parse(Inspect, arguments, prog="vitrail inspect")
    if not command.pictures:
        raise UsageError("no picture was named. See `vitrail inspect --help`.")
    if command.most < 1:
        raise UsageError(f"--most {command.most} is below 1.")
    out = Path(command.out).expanduser()
    if out.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--out {command.out} is no page: name a file that ends in .html.")
    if out.exists() and not command.force:
        raise UsageError(f"{command.out} is there already: name another --out, or add --force to replace it.")
    if not out.parent.is_dir():
        raise UsageError(f"the folder of --out {command.out} does not exist: make it, or name another.")
    with heavy_imports():
        from vitrail.report.inspection_page import write_inspection_page
        from vitrail.tasks.inspect import InspectConfig, inspect
        from vitrail.training.events import Events
        from vitrail.weights.load import names_a_model

    models, pictures = [command.model], command.pictures
    if names_a_model(pictures[0]):
        models, pictures = [command.model, pictures[0]], pictures[1:]
        if not pictures:
            raise UsageError("two models and no picture were named. See `vitrail inspect --help`.")

    terminal = Terminal()
    with Events(terminal) as events:
        settings = InspectConfig(models[0], pictures, command.most, command.occlude, command.shifts_beside)
        results = [inspect(replace(settings, model=model), events) for model in models]
    write_inspection_page(results, out)
    for _, message in results[0].broken:
        terminal.warning(message)
    if command.json:
        figures = [result.to_json() for result in results]
        write_json(figures[0] if len(figures) == 1 else {"before": figures[0], "after": figures[1]})
        return 1 if results[0].broken else 0
    for result in results:
        if len(results) == 2:
            write_line(f"{result.model}:")
        for file, answer in zip(result.files, result.answers, strict=True):
            said = ", ".join(f"{label} {100 * share:.1f} %" for label, share in answer) or "no head, no answer"
            write_line(f"{file}: {said}")
        for note in result.missing:
            write_line(f"left out: {note}")
        if result.left_out:
            write_line(f"left out: {result.left_out:,} pictures after the first {command.most}; --most takes more")
    write_line(f"page: {out}")
    return 1 if results[0].broken else 0
