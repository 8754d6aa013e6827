"""The page's colours against WCAG 2.2, success criterion 1.4.3: text needs a contrast of 4.5."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import vitrail.report
from vitrail.report.sections import _cell

STYLE = Path(vitrail.report.__file__).with_name("palette.css").read_text(encoding="utf-8")
Colour = tuple[float, float, float]


def _palette(dark: bool) -> dict[str, Colour]:
    blocks = re.findall(r":root \{(.*?)\}", STYLE, flags=re.DOTALL)
    palette: dict[str, Colour] = {}
    for block in blocks[: 2 if dark else 1]:
        for name, value in re.findall(r"--([\w-]+): ([^;]+);", block):
            numbers = [int(value[i : i + 2], 16) for i in (1, 3, 5)] if value[0] == "#" else map(int, value.split())
            red, green, blue = (number / 255 for number in numbers)
            palette[name] = (red, green, blue)
    return palette


def _contrast(text: Colour, ground: Colour) -> float:
    def luminance(colour: Colour) -> float:
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    bright, dark = sorted((luminance(text), luminance(ground)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def _over(top: Colour, alpha: float, ground: Colour) -> Colour:
    red, green, blue = (alpha * above + (1 - alpha) * below for above, below in zip(top, ground, strict=True))
    return red, green, blue


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_stands_out(dark: bool) -> None:
    palette = _palette(dark)
    pairs = [
        ("ink", "paper"), ("ink", "card"), ("ink", "cell"), ("soft", "paper"), ("soft", "card"), ("soft", "cell"),
        ("accent", "paper"), ("green", "green-soft"), ("amber", "amber-soft"), ("red", "red-soft"),
        ("ink", "amber-soft"), ("red", "card"), ("red", "paper"), ("amber", "paper"),
    ]  # fmt: skip
    for text, ground in pairs:
        assert _contrast(palette[text], palette[ground]) >= 4.5, (text, ground)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("is_right", [False, True])
def test_every_figure_of_the_confusion_matrix_stands_out(dark: bool, is_right: bool) -> None:
    palette = _palette(dark)
    for count in range(1, 201):
        cell = _cell(count, 200, is_right)
        alpha = float(re.findall(r"--a:([\d.]+)", cell)[0])
        ground = _over(palette["right" if is_right else "wrong"], alpha, palette["cell"])
        text = (1.0, 1.0, 1.0) if "strong" in cell else palette["ink"]
        assert _contrast(text, ground) >= 4.5, cell
