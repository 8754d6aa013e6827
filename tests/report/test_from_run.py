"""The report of a run that was made: what it shows is what the run's model does, and no picture can stop it."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.report.test_page import Page
from tests.tasks.test_nearest import config_of, do_train, write_photos

from vitrail.models.resnet_config import ResNetConfig
from vitrail.report.data import ReportData
from vitrail.report.from_run import report_data
from vitrail.report.page import render_report
from vitrail.tasks.result import RunResult


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    folder = tmp_path_factory.mktemp("report")
    write_photos(folder / "photos")
    return do_train(config_of(folder / "photos"), folder / "run")


def as_if_wrong(result: RunResult) -> RunResult:
    """Every test picture is a mistake."""
    wrong = np.roll(np.eye(3, dtype=np.float32), 1, axis=1)[result.test.labels]
    return replace(result, test=replace(result.test, values=wrong * (1 + result.test.indices[:, None] / 100)))


def without_attention(data: ReportData) -> ReportData:
    return dataclasses.replace(
        data, distances=None, mistakes=[dataclasses.replace(one, rollout=None) for one in data.mistakes]
    )


def test_mistakes_have_their_rollout_and_the_model_its_distances(finished: RunResult) -> None:
    data = report_data(as_if_wrong(finished))
    assert len(data.mistakes) == len(finished.test.labels)
    for mistake in data.mistakes:
        assert isinstance(mistake.rollout, np.ndarray)
        assert mistake.rollout.shape == (16, 16, 3)
    assert data.distances is not None
    assert data.distances.pixels.shape == (1, 2)
    assert data.distances.num_pictures == len(finished.test.indices)
    parsed = Page(render_report(data))
    assert "distance" in [section.get("id") for section in parsed.all("section")]
    assert sum("where its answer came from" in image["alt"] for image in parsed.all("img")) == len(data.mistakes)


def test_a_report_is_the_same_each_time(finished: RunResult) -> None:
    assert render_report(report_data(finished)) == render_report(report_data(finished))


def test_pictures_that_are_broken_by_now_are_blank_and_stop_nothing(finished: RunResult) -> None:
    source, result = finished.prepared.source, as_if_wrong(finished)
    broken = {Path(source.spec) / source.key(int(index)) for index in result.test.indices[:3]}
    before = {path: path.read_bytes() for path in broken}
    try:
        for path in broken:
            path.write_bytes(b"no picture")
        data = report_data(result)
    finally:
        for path, content in before.items():
            path.write_bytes(content)
    gone = [mistake for mistake in data.mistakes if mistake.picture is None]
    assert {mistake.key for mistake in gone} == {source.key(int(index)) for index in result.test.indices[:3]}
    assert all((mistake.rollout is None) == (mistake.picture is None) for mistake in data.mistakes)
    assert data.distances is not None
    assert data.distances.num_pictures == len(result.test.indices) - 3
    Page(render_report(data))


def test_for_models_without_attention_nothing_changes(finished: RunResult, tmp_path: Path) -> None:
    config = config_of(Path(finished.prepared.source.spec))
    model = ResNetConfig(image_size=(32, 32), depths=(1, 1), width_factor=0.5, num_classes=3)
    result = do_train(
        replace(config, model=model, preprocessing=replace(config.preprocessing, image_size=(32, 32))),
        tmp_path / "run",
    )
    data = report_data(as_if_wrong(result))
    assert render_report(data) == render_report(without_attention(data))
    assert "rollout" not in render_report(data)
