"""The page of `inspect`: whole without its script, and with it a head can be pointed at and each figure saved."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.browser import barriers, browser
from tests.report.test_page import Page
from tests.tasks.test_inspect import bundle, look, photos, resnet

from vitrail.report.inspection_page import render_inspection
from vitrail.report.tiles import RAMP, coloured
from vitrail.tasks.inspect import Inspection


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Inspection:
    folder = tmp_path_factory.mktemp("inspection")
    beside = resnet(folder, (32, 48))
    return look(bundle(folder), photos(folder, 2), occlude=True, shifts_beside=beside)


def tables(page: str) -> dict[str, list[list[str]]]:
    """What each link of the page saves: file -> rows."""
    links = re.findall(r'download="([\w-]+\.csv)" href="data:text/csv;base64,([^"]*)"', page)
    return {file: list(csv.reader(io.StringIO(base64.b64decode(data).decode()))) for file, data in links}


def test_nothing_runs_but_the_script_of_the_page(result: Inspection) -> None:
    text = render_inspection(result)
    scripts = re.findall(r"<script[^>]*>(.*?)</script>", text, flags=re.DOTALL)
    assert len(scripts) == 1
    policy = next(one["content"] for one in Page(text).all("meta") if one.get("http-equiv"))
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert re.findall(r"script-src ([^;]*)", policy) == [f"'sha256-{digest}'"]
    assert policy.startswith("default-src 'none'; img-src data:;")
    handlers = [name for _, attributes in Page(text).elements for name in attributes if name.startswith("on")]
    assert not handlers


@pytest.mark.parametrize("count", [1, 2], ids=["one model", "before and after"])
def test_every_figure_can_be_taken_along_as_numbers_and_as_a_picture(result: Inspection, count: int) -> None:
    text = render_inspection(*[result] * count)
    figures = [part.partition("</section>")[0] for part in text.split('<div class="exhibit">')[1:]]
    assert len(figures) == {1: 8, 2: 17}[count]
    saved = []
    for figure in figures:
        links, buttons = re.findall(r'download="([^"]+)"', figure), re.findall(r'data-save="([^"]+)" hidden', figure)
        assert len(buttons) == 1
        assert buttons[0].replace(".png", ".csv") == links[0]
        saved += [*links, *buttons]
    assert len(saved) == len(set(saved))
    assert all(len(rows) > 1 and {len(row) for row in rows} == {len(rows[0])} for rows in tables(text).values())


def test_without_a_script_everything_is_there(result: Inspection) -> None:
    text = re.sub(r"<script>.*</script>", "", render_inspection(result), flags=re.DOTALL)
    page = Page(text)
    rows = [one["data-entropy"].split() for one in page.all("tr") if "data-entropy" in one]
    entropies = [f"{value:.2f}" for index in (0, 1) for one in result.maps for value in one.entropy[index].tolist()]
    assert [value for row in rows for value in row] == entropies
    assert [float(one["data-far"]) for one in page.all("g")] == pytest.approx(
        result.distance.pixels.flatten().tolist(), abs=0.05
    )
    hidden = [tag for tag, attributes in page.elements if "hidden" in attributes]
    assert set(hidden) == {"button", "img"}
    assert hidden.count("img") == len(result.files)  # rollout through every depth, of which four are shown
    assert all(one["src"].startswith("data:image/") and one["alt"] for one in page.all("img"))


def test_colours_and_covering_can_be_taken_along(result: Inspection) -> None:
    found = tables(render_inspection(result))
    colours = np.array([[float(value) for value in row[3:]] for row in found["colours.csv"][1:]])
    np.testing.assert_allclose(colours, result.colours.colours.reshape(-1, 3), atol=1e-4)
    assert result.occluded is not None
    rows = found["occlusion.csv"][1:]
    np.testing.assert_allclose([float(row[4]) for row in rows], result.occluded.lost.flatten(), atol=1e-6)
    assert [row[1:4] for row in rows[:2]] == [["0", "0", "16"], ["0", "8", "16"]]


def test_shares_can_be_read_back_from_their_colours() -> None:
    assert (np.diff(RAMP.sum(1)) > 0).all()
    sums = coloured(np.linspace(0, 1, 1001)).astype(int).sum(-1)
    assert (np.diff(sums) >= -1).all()  # each channel is rounded by itself
    read = np.interp(sums, RAMP.sum(1), np.linspace(0, 1, len(RAMP)))
    np.testing.assert_allclose(read, np.linspace(0, 1, 1001), atol=0.006)


def test_another_model_is_drawn_at_the_same_share_of_the_width(result: Inspection) -> None:
    text = render_inspection(result)
    section = text.partition('<section id="shifts"')[2].partition("</section>")[0]
    plots = re.findall(r"<figure>.*?</figure>", section)
    assert len(plots) == 2
    for plot in plots:
        ends = [points.split()[-1].split(",")[0] for points in re.findall(r'points="([^"]*)"', plot)]
        assert len(ends) == 2
        assert ends[0] == ends[1]  # 16 pixels of 24 are 32 of 48
    assert "16 x 24 pixels" in section
    assert "32 x 48" in section
    assert "2 of its pixels for each one" in section
    # A line at each patch of 8 pixels, up to 16.
    assert plots[0].count('class="period"') == 2
    rows = tables(text)["shifts.csv"]
    assert {row[0] for row in rows[1:]} == {result.model, result.beside.model if result.beside else ""}
    shares = {model: sorted({row[2] for row in rows[1:] if row[0] == model}) for model in {row[0] for row in rows[1:]}}
    assert len(set(map(tuple, shares.values()))) == 1


def test_models_of_one_size_are_not_said_to_differ(tmp_path: Path) -> None:
    beside = resnet(tmp_path, (16, 24))
    text = render_inspection(look(bundle(tmp_path), photos(tmp_path, 1), shifts_beside=beside))
    assert "different sizes" not in text
    assert text.count('<ul class="legend"><li>') == 1
    assert "</li><li>" in text


@pytest.fixture
def shown(result: Inspection, tmp_path: Path) -> Iterator[Any]:
    """The page in a browser; a script that fails or is kept from running fails the test."""
    path = tmp_path / "page.html"
    path.write_text(render_inspection(result, result), encoding="utf-8")
    with browser() as chromium:
        page = chromium.new_page()
        complaints: list[str] = []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text))
        page.goto(path.as_uri())
        yield page
        assert complaints == []


def _light(page: Any) -> str:
    """What lies over the first picture, as an address of its pixels."""
    script = "document.querySelector('.view .stage canvas')?.toDataURL() ?? ''"
    return str(page.evaluate(script))


def test_arrow_keys_go_from_head_to_head_and_layer_to_layer(shown: Any, result: Inspection) -> None:
    live = shown.locator("[aria-live=polite]")
    first = shown.locator("details").first
    assert first.locator(".tile[tabindex='0']").count() == 1
    assert shown.locator("[aria-pressed=true]").count() == 0
    first.locator(".tile[tabindex='0']").focus()
    seen = set()
    for key, layer, head in [
        ("Home", 0, 0), ("ArrowRight", 0, 1), ("ArrowRight", 0, 1), ("ArrowDown", 1, 1), ("ArrowDown", 2, 1),
        ("ArrowDown", 2, 1), ("Home", 2, 0), ("End", 2, 1), ("ArrowUp", 1, 1), ("ArrowLeft", 1, 0),
    ]:  # fmt: skip
        shown.keyboard.press(key)
        far, nats = float(result.distance.pixels[layer, head]), float(result.maps[layer].entropy[0, head])
        said = f"layer {layer + 1}, head {head + 1}: mean distance {round(far)} px, entropy {nats:.2f} nats"
        assert live.inner_text() == said
        assert first.locator("figcaption span").first.inner_text() == said
        # In both models, over tiles of pictures that are open: one of each is chosen, and its dot.
        assert shown.locator(".tile[aria-pressed=true]").count() == 2
        dots = shown.locator("g[aria-pressed=true]")
        assert [one.get_attribute("data-layer") for one in dots.all()] == [str(layer)] * 2
        assert [one.get_attribute("data-head") for one in dots.all()] == [str(head)] * 2
        seen.add(_light(shown))
    assert len(seen) == 6  # as many as heads were chosen
    assert first.locator(".tile[tabindex='0']").count() == 1


def test_what_is_shown_large_is_dark_where_the_head_does_not_look(shown: Any, result: Inspection) -> None:
    shown.locator(".tile").nth(0).hover()
    script = """() => {
      const canvas = document.querySelector('.view .stage canvas');
      return [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]
        .filter((_, at) => at % 4 === 3).concat([canvas.width]);
    }"""
    *alphas, width = shown.evaluate(script)
    dark = np.array(alphas).reshape(-1, width)
    rows, columns = result.grid
    height = len(dark)
    # At the centres of patches the smooth map has the values of the patches themselves.
    ys = [round((row + 0.5) * height / rows) for row in range(rows)]
    xs = [round((column + 0.5) * width / columns) for column in range(columns)]
    weights = result.maps[0].weights[0, 0].numpy()
    np.testing.assert_allclose(dark[np.ix_(ys, xs)], 204 * (1 - weights / weights.max()), atol=6)


def test_a_dot_of_the_plot_chooses_its_head(shown: Any, result: Inspection) -> None:
    assert shown.locator("circle.ring").count() == 0  # nothing is chosen yet
    shown.locator("g[data-far]").nth(3).focus()  # two heads a layer
    places = "circles => circles.map((one) => [one.getAttribute('cx'), one.getAttribute('cy')])"
    dots = shown.locator("g[aria-pressed=true] circle").evaluate_all(places)
    assert len(dots) == 2  # in both models
    assert shown.locator("circle.ring").evaluate_all(places) == dots
    assert shown.locator("[aria-live=polite]").inner_text().startswith("layer 2, head 2: ")
    assert shown.locator(".tile[aria-pressed=true]").first.get_attribute("aria-label") == "layer 2, head 2"
    shown.keyboard.press("ArrowRight")
    assert shown.locator("[aria-live=polite]").inner_text().startswith("layer 3, head 2: ")
    shown.keyboard.press("ArrowUp")
    farthest = int(result.distance.pixels[2].argmax())
    assert shown.locator("[aria-live=polite]").inner_text().startswith(f"layer 3, head {farthest + 1}: ")


def test_a_picture_that_is_opened_later_shows_the_chosen_head_too(shown: Any) -> None:
    shown.locator(".tile").nth(3).hover()
    second = shown.locator("[data-model='0'] details").nth(1)
    second.locator("summary").click()
    second.locator(".tile").first.wait_for()
    assert second.locator(".tile[aria-pressed=true]").get_attribute("aria-label") == "layer 2, head 2"
    assert second.locator("figcaption span").first.inner_text().startswith("layer 2, head 2: ")


def test_nothing_keeps_anyone_out(shown: Any) -> None:
    assert barriers(shown) == []
    shown.locator(".tile").nth(0).hover()
    assert barriers(shown) == []


def test_rollout_is_followed_block_by_block(shown: Any) -> None:
    figure = shown.locator(".rolled").first
    before = figure.locator("figcaption").inner_text()
    figure.locator("input").fill("2")
    assert figure.locator("figcaption").inner_text() == "through 2 of 3 blocks"
    figure.locator("input").fill("0")
    assert figure.locator("figcaption").inner_text() == before


def test_each_figure_is_saved_as_a_png_of_its_name(shown: Any, tmp_path: Path) -> None:
    buttons = shown.locator("[data-save]:visible").all()
    assert len(buttons) == 17
    for button in buttons:
        shown.wait_for_timeout(110)  # browsers take no more than ten downloads a second from a page
        with shown.expect_download() as waiting:
            button.click()
        download = waiting.value
        assert download.suggested_filename == button.get_attribute("data-save")
        path = tmp_path / download.suggested_filename
        download.save_as(path)
        with Image.open(path, formats=("PNG",)) as picture:
            assert min(picture.size) > 50
            assert len(np.unique(np.asarray(picture.convert("L")))) > 8
