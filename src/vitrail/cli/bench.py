"""`vitrail bench MODEL [PICTURES]`: how fast a model answers on this machine, and what holds it back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from vitrail.cli.output import write_columns, write_json, write_line
from vitrail.cli.parsing import parse
from vitrail.cli.terminal import Terminal

if TYPE_CHECKING:
    from vitrail.tasks.bench import BenchResult


@dataclass(frozen=True)
class Bench:
    """Pictures a second by engine, precision and batch, beside what the machine's matrix products reach."""

    model: Positional[str]
    """A bundle, a run, a weights file of any layout, or the name of a model (`vitrail models`), with random weights."""
    pictures: Positional[tuple[str, ...]] = ()
    """Files or folders: reading them is timed too, and int8 is calibrated on them."""
    engines: tuple[Literal["torch", "openvino", "onnx"], ...] = ()
    """Those installed by default."""
    precisions: tuple[Literal["float32", "bfloat16", "int8"], ...] = ("float32", "bfloat16", "int8")
    """What to multiply in."""
    batch_sizes: tuple[int, ...] = (1, 16)
    """Pictures at once."""
    compile: bool = True
    """Whether torch compiles first, up to a minute for each precision and batch of one or more."""
    seconds: float = 3.0
    """Of timing for each row."""
    labelled: str | None = None
    """Labelled pictures, as for `vitrail evaluate`: measure every accuracy on them, and calibrate int8."""
    max_loss: float = 0.3
    """Points of accuracy that may be lost on them; what loses more is refused."""
    json: bool = False
    """Everything as JSON."""


def run(arguments: list[str]) -> int:
    command = parse(Bench, arguments, prog="vitrail bench")
    from vitrail.tasks.bench import BenchConfig, bench
    from vitrail.training.events import Events

    config = BenchConfig(
        model=command.model,
        pictures=command.pictures,
        engines=command.engines,
        precisions=command.precisions,
        batch_sizes=command.batch_sizes,
        compile=command.compile,
        seconds=command.seconds,
        labelled=command.labelled,
        max_loss=command.max_loss / 100,
    )
    with Events(Terminal()) as events:
        result = bench(config, events)
    if command.json:
        write_json(result.to_json())
    else:
        _tell(result)
    return 0


def _tell(result: BenchResult) -> None:
    threads = "1 thread" if result.threads == 1 else f"{result.threads} threads"
    write_line(f"{result.model}: {result.parameters:,} parameters, {result.macs / 1e9:.3g} GMACs a picture, {threads}")
    peaks = ", ".join(f"{name} {value / 1e9:,.0f}" for name, value in result.ceiling.items())
    write_line(f"ceiling, GMACs a second of large products: {peaks}")
    write_line()
    table = [["engine", "precision", "batch", "ms", "pictures/s", "of ceiling", "cosine"]]
    if result.labelled_pictures:
        table[0] += ["accuracy", "points lost"]
    for row in result.rows:
        share = "" if row.share_of_ceiling is None else f"{100 * row.share_of_ceiling:.0f} %"
        table.append(
            [row.engine, row.precision, str(row.batch_size), f"{row.milliseconds:,.1f}",
             f"{row.images_per_second:,.1f}", share, f"{row.cosine:.5f}"]
        )  # fmt: skip
        if row.accuracy is not None and row.loss is not None:
            table[-1] += [f"{100 * row.accuracy:.2f} %", f"{100 * row.loss:.2f}"]
    write_columns(table, right=range(2, len(table[0])))
    write_line()
    if result.reading is not None:
        reading = result.reading
        write_line(
            f"reading, one core, of {reading.pictures} pictures: decode {reading.decode:.2f} ms, transform"
            f" {reading.transform:.2f} ms; up to {reading.images_per_second:,.0f} pictures a second on {reading.cores}"
        )
    if result.time_goes:
        shares = ", ".join(f"{kind} {100 * share:.0f} %" for kind, share in result.time_goes.items())
        write_line(f"where the time goes ({result.profiled}): {shares}")
    write_line(result.verdict)
    for what, reason in result.refused:
        write_line(f"refused: {what}: {reason}")
    if result.own_accuracy is not None:
        own = f"{100 * result.own_accuracy:.2f} % of {result.labelled_pictures:,} pictures"
        write_line(f"accuracy of the model itself in float32: {own}")
        write_line(result.keeps_accuracy)
