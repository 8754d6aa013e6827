"""`vitrail convert SOURCE OUT --to LAYOUT`: weights from one published layout to another, with a certificate."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from vitrail.cli.output import write_json, write_line
from vitrail.cli.parsing import UsageError, parse
from vitrail.cli.terminal import Terminal


@dataclass(frozen=True)
class Convert:
    """Read weights of any published layout and write them in another; the certificate says what was read and compared.

    Peers' own code (timm, transformers, torchvision) is asked for the same logits where it is installed.
    """

    source: Positional[str]
    """A weights file or folder of any known layout, a bundle, a run, a name of `vitrail models --weights`, or
    hf-hub:owner/name."""
    out: Positional[str]
    """A folder that is not there yet; or one file with the ending of the layout's weights (.npz, .safetensors)."""
    to: Literal["timm", "huggingface", "google", "torchvision", "vitrail"]
    """The layout to write."""
    family: Annotated[str | None, arg(name="from")] = None
    """The family that the source is of, where its keys are misread."""
    num_heads: int | None = None
    """Heads of the attention, where shapes and config cannot tell."""
    query_scale: Literal["head", "width"] | None = None
    """vit-pytorch: whether queries were scaled by the width of a head (newer) or of the model (2020)."""
    pooling: Literal["token", "mean"] | None = None
    """vit-pytorch: whether the answer is read from the class token or from the mean of all tokens."""
    activation: Literal["gelu", "gelu_tanh", "quick_gelu", "relu"] | None = None
    """What the MLPs use, where the config is known to be wrong: "quick_gelu" for CLIP's first weights in timm."""
    layer_norm_eps: float | None = None
    """The epsilon of the norms, likewise."""
    image_size: tuple[int, int] | None = None
    """Height and width in pixels, for positions that could be several rectangles."""
    prefix: str | None = None
    """The part of a nested checkpoint to take ("params/img/", "teacher/")."""
    labels: str | None = None
    """A text file with the names of the classes, one a line, in the order of the head."""
    no_peers: bool = False
    """Do not ask other libraries for their answers."""
    json: bool = False
    """The certificate as JSON."""


def run(arguments: list[str]) -> int:
    command = parse(Convert, arguments, prog="vitrail convert")
    labels = None if command.labels is None else _read_labels(Path(command.labels))
    from vitrail.tasks.convert import ConvertConfig, convert
    from vitrail.training.events import Events
    from vitrail.weights.checkpoint import Choices

    choices = Choices(
        family=command.family,
        num_heads=command.num_heads,
        query_scale=command.query_scale,
        pooling=command.pooling,
        activation=command.activation,
        layer_norm_eps=command.layer_norm_eps,
        image_size=command.image_size,
        prefix=command.prefix,
        labels=labels,
    )
    with Events(Terminal()) as events:
        config = ConvertConfig(command.source, command.out, command.to, choices, peers=not command.no_peers)
        result = convert(config, events)
    if command.json:
        write_json(result.to_json())
        return 0
    write_line(f"read      {result.source}")
    write_line(f"written   {result.out}, in the layout of {result.layout}")
    write_line("\ncertificate")
    for line in result.certificate.lines():
        write_line(f"  {line}")
    write_line(f"\nto load it: {result.how_to_load}")
    return 0


def _read_labels(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--labels {path}: cannot be read as UTF-8 text ({error}).") from error
    labels = tuple(line.strip() for line in lines if line.strip())
    if not labels:
        raise UsageError(f"--labels {path}: holds no name.")
    return labels
