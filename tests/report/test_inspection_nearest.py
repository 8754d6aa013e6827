"""The training pictures beside the pictures that are inspected."""

from __future__ import annotations

import base64
import csv
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.report.test_page import Page
from tests.tasks.test_inspect import bundle, photos
from tests.tasks.test_nearest import config_of, do_train, write_photos

from vitrail.report.inspection_nearest import nearest_pictures
from vitrail.report.inspection_page import render_inspection
from vitrail.tasks.inspect import InspectConfig, Inspection, inspect
from vitrail.tasks.nearest import FOLDER, RECORD
from vitrail.training.events import Events, SilentSink


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inspected")
    write_photos(folder / "photos")
    return do_train(config_of(folder / "photos"), folder / "run").folder


def training_of(run: Path) -> list[Path]:
    names = json.loads((run / "data.json").read_bytes())["splits"]["train"]
    return [run.parent / "photos" / name for name in names]


def look(model: Path, *pictures: Path) -> Inspection:
    return inspect(InspectConfig(str(model), tuple(map(str, pictures))), Events(SilentSink()))


def table_of(page: str) -> list[list[str]]:
    [link] = [link["href"] for link in Page(page).all("a") if link.get("download") == "nearest.csv"]
    return list(csv.reader(io.StringIO(base64.b64decode(link.partition(",")[2]).decode())))


def test_beside_a_training_picture_stands_itself(run: Path) -> None:
    asked = training_of(run)[::11]
    result = look(run, *asked)
    page = render_inspection(result)
    assert [section["id"] for section in Page(page).all("section")][:3] == ["pictures", "nearest", "heads"]
    rows = table_of(page)
    assert rows[0] == ["file", "place", "training picture", "label", "similarity"]
    assert len(rows) == 1 + 6 * len(asked)
    for path, first in zip(asked, rows[1::6], strict=True):
        name = path.relative_to(run.parent / "photos").as_posix()
        assert first == [str(path), "1", name, path.parent.name, "1.000000"]
    assert f"Of the {len(training_of(run))} training pictures" in page
    shown = Page(nearest_pictures(result)).all("img")
    assert len(shown) == 7 * len(asked)
    assert all(image["src"].startswith("data:image/") and image["alt"] for image in shown)
    said: Any = result.to_json()["nearest"]
    assert [one["name"] for neighbours in said for one in neighbours] == [row[2] for row in rows[1:]]


def test_neighbours_with_the_label_of_the_answer_are_bold(run: Path) -> None:
    result = look(run, *training_of(run)[::11])
    assert result.nearest is not None
    page = nearest_pictures(result)
    for label in ("day", "dusk", "night"):
        tiles = sum(
            one.label == label == answer[0][0]
            for answer, neighbours in zip(result.answers, result.nearest.found, strict=True)
            for one in neighbours
        )
        assert page.count(f"<figcaption><b><bdi>{label}</bdi></b><span>") == tiles


def test_it_is_said_where_only_some_training_pictures_are_kept(run: Path) -> None:
    result = look(run, *training_of(run)[:1])
    assert result.nearest is not None
    some = replace(result, nearest=replace(result.nearest, num_kept=20_000, num_training=50_000))
    assert "Of 20,000 of the 50,000 training pictures" in nearest_pictures(some)


def test_names_are_text(run: Path) -> None:
    result = look(run, *training_of(run)[:1])
    assert result.nearest is not None
    [[first, *_]] = result.nearest.found
    hostile = replace(first, name='"><script>alert(1)</script>', label="<b>hat</b>", thumbnail=b"no picture")
    page = nearest_pictures(replace(result, nearest=replace(result.nearest, found=((hostile,),))))
    parsed = Page(page)
    assert not parsed.all("script")
    assert "<b>hat</b>" in parsed.text
    assert "no picture" in parsed.text


def test_a_model_that_is_no_run_has_no_such_section(run: Path, tmp_path: Path) -> None:
    for model in (run / "bundle", Path(bundle(tmp_path))):
        result = look(model, *training_of(run)[:1])
        assert result.nearest is None
        assert result.to_json()["nearest"] is None
        assert 'id="nearest"' not in render_inspection(result)
    both = render_inspection(look(run, Path(photos(tmp_path))), look(run / "bundle", tmp_path / "photos"))
    assert both.partition('id="nearest"')[2].partition("</section>")[0].count("This model has none.") == 1


def test_a_damaged_index_is_told_of_and_the_rest_is_shown(run: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(run, tmp_path / "run"))
    (copied / FOLDER / RECORD).write_bytes(b"{")
    result = look(copied, *training_of(run)[:1])
    assert result.nearest is None
    assert any("nearest training pictures" in note and "vitrail fit --resume" in note for note in result.missing)
    sections = [section["id"] for section in Page(render_inspection(result)).all("section")]
    assert "nearest" not in sections
    assert {"pictures", "notes"} <= set(sections)
