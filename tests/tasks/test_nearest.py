"""The index of a run's training pictures: it finds what the model finds alike, and is refused where it is another's."""

from __future__ import annotations

import errno
import io
import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.tasks.test_sweep import RATES, tiny

from vitrail.data.config import DataConfig, Preprocessing
from vitrail.data.images import open_picture
from vitrail.data.transforms import EvaluationTransform
from vitrail.errors import ConfigError, RunError, WeightsError
from vitrail.models.resnet_config import ResNetConfig
from vitrail.storage import sha256_of
from vitrail.tasks import nearest as module
from vitrail.tasks.fit import resume
from vitrail.tasks.nearest import ARRAYS, FOLDER, RECORD, NearestPictures, open_nearest, spread_over_classes
from vitrail.tasks.result import RunResult
from vitrail.tasks.run import Run
from vitrail.tasks.sweep import sweep
from vitrail.tasks.timing import plan_minutes
from vitrail.tasks.train import train
from vitrail.training.config import TrainConfig
from vitrail.training.events import Events, SilentSink
from vitrail.weights.bundle import Bundle
from vitrail.weights.files import read_tensors, write_tensors
from vitrail.weights.load import load

CLASSES = {"day": 14, "dusk": 22, "night": 30}


@dataclass(frozen=True)
class Place:
    photos: Path
    result: RunResult

    @property
    def run(self) -> Path:
        return self.result.folder

    @property
    def training(self) -> list[str]:
        return list(json.loads((self.run / "data.json").read_bytes())["splits"]["train"])


def write_photos(folder: Path) -> None:
    generator = np.random.default_rng(0)
    for number, (name, count) in enumerate(CLASSES.items()):
        (folder / name).mkdir(parents=True)
        for place in range(count):
            pixels = generator.integers(0, 90, (150, 200, 3)) + 80 * number
            pixels[:, : 10 + 5 * place] //= 2
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{place}.{'png' if place % 2 else 'jpg'}")


def do_train(config: TrainConfig, out: Path) -> RunResult:
    with Events(SilentSink()) as events:
        result = train(config, str(out), events)
    assert isinstance(result, RunResult)
    return result


def config_of(photos: Path) -> TrainConfig:
    return replace(
        tiny(str(photos), 16, channels=3), data=DataConfig(str(photos), validation_share=0.2, test_share=0.2)
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("nearest")
    write_photos(folder / "photos")
    return Place(folder / "photos", do_train(config_of(folder / "photos"), folder / "run"))


@pytest.fixture
def copied(place: Place, tmp_path: Path) -> Path:
    return Path(shutil.copytree(place.run, tmp_path / "run"))


def opened(run: Path) -> NearestPictures:
    index = open_nearest(run, load(run))
    assert index is not None
    return index


def features_of(bundle: Bundle, picture: Path) -> np.ndarray:
    pixels = EvaluationTransform(bundle.config.preprocessing)(open_picture(picture))
    mean, std = (
        torch.tensor(x)[:, None, None] for x in (bundle.config.preprocessing.mean, bundle.config.preprocessing.std)
    )
    with torch.inference_mode():
        tokens = bundle.model.forward_features(((torch.from_numpy(pixels) / 255 - mean) / std)[None])
        return bundle.model.forward_head(tokens, pre_logits=True).numpy()


def test_a_training_picture_is_nearest_to_itself_and_the_others_are_all_there(place: Place) -> None:
    index, bundle = opened(place.run), load(place.run)
    assert len(index) == index.num_training == len(place.training)
    for name in place.training[::9]:
        [found] = index.find(features_of(bundle, place.photos / name), 100)
        assert (found[0].name, found[0].label) == (name, name.split("/")[0])
        assert found[0].similarity == pytest.approx(1, abs=1e-6)
        assert sorted(one.name for one in found) == sorted(place.training)
        similarities = [one.similarity for one in found]
        assert similarities == sorted(similarities, reverse=True)


def test_a_thumbnail_is_the_picture_made_small(place: Place) -> None:
    index, bundle = opened(place.run), load(place.run)
    name = place.training[3]
    [[found]] = index.find(features_of(bundle, place.photos / name), 1)
    with Image.open(io.BytesIO(found.thumbnail)) as thumbnail, Image.open(place.photos / name) as picture:
        assert (thumbnail.format, thumbnail.size) == ("JPEG", (128, 96))
        small = np.asarray(picture.convert("RGB").resize((16, 12), Image.Resampling.BOX), dtype=float)
        np.testing.assert_allclose(np.asarray(thumbnail.resize((16, 12), Image.Resampling.BOX)), small, atol=12)


def test_it_is_beside_the_bundle_and_not_in_it(place: Place) -> None:
    assert sorted(path.name for path in (place.run / FOLDER).iterdir()) == [RECORD, ARRAYS]
    inside = {path.relative_to(place.run / "bundle").as_posix() for path in (place.run / "bundle").rglob("*")}
    listed = load(place.run).config.files
    assert inside == {*listed, "config.json", "README.md", "samples"}
    assert not any(FOLDER in file or "index" in file for file in inside)
    assert open_nearest(place.run / "bundle", load(place.run / "bundle")) is None
    assert "nearest" in place.result.durations


def test_many_may_ask_at_once(place: Place) -> None:
    index, bundle = opened(place.run), load(place.run)
    asked = np.concatenate([features_of(bundle, place.photos / name) for name in place.training[:8]])
    alone = [index.find(row[None], 5)[0] for row in asked]
    assert index.find(asked, 5) == alone
    with ThreadPoolExecutor(4) as executor:
        for _ in range(5):
            assert [found for [found] in executor.map(lambda row: index.find(row[None], 5), asked)] == alone


def test_a_finish_that_is_repeated_writes_the_same_bytes(place: Place, copied: Path) -> None:
    before = {path.name: path.read_bytes() for path in (copied / FOLDER).iterdir()}
    shutil.rmtree(copied / FOLDER)
    with Events(SilentSink()) as events:
        resume(str(copied), events)
    assert {path.name: path.read_bytes() for path in (copied / FOLDER).iterdir()} == before


def test_a_full_disk_is_said_and_leaves_the_index_that_was_there(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, _: object) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "write_tensors", fail)
    with (
        Events(SilentSink()) as events,
        pytest.raises(RunError, match=r"nearest: cannot be written \(No space.*vitrail fit --resume"),
    ):
        resume(str(copied), events)
    assert not list(copied.glob(".*.partial"))
    assert len(opened(copied))


def test_none_is_kept_where_none_is_wanted_and_an_older_run_has_none(copied: Path) -> None:
    config = json.loads((copied / "config.json").read_bytes())
    (copied / "config.json").write_text(json.dumps({**config, "nearest_pictures": 0}))
    with Events(SilentSink()) as events:
        resume(str(copied), events)
    assert not (copied / FOLDER).exists()
    assert open_nearest(copied, load(copied)) is None
    assert open_nearest("hf-hub:somebody/something", load(copied)) is None
    with pytest.raises(ConfigError, match="nearest_pictures -1 is negative"):
        replace(config_of(copied), nearest_pictures=-1)


def test_pictures_that_are_broken_by_now_are_left_out(place: Place, tmp_path: Path) -> None:
    photos = Path(shutil.copytree(place.photos, tmp_path / "photos"))
    result = do_train(config_of(photos), tmp_path / "run")
    names = json.loads((result.folder / "data.json").read_bytes())["splits"]["train"]
    (photos / names[2]).write_bytes(b"no picture")
    said: list[str] = []

    class Sink(SilentSink):
        def warning(self, message: str) -> None:
            said.append(message)

    with Events(Sink()) as events:
        resume(str(result.folder), events)
    assert any("left out of the nearest training pictures: 1 " in message for message in said)
    index = opened(result.folder)
    assert (len(index), index.num_training) == (len(names) - 1, len(names))
    [found] = index.find(features_of(load(result.folder), photos / names[0]), 100)
    assert names[2] not in [one.name for one in found]


def test_the_index_of_other_weights_is_refused(place: Place, copied: Path) -> None:
    other = do_train(replace(config_of(place.photos), seed=1), copied.parent / "other")
    shutil.rmtree(copied / FOLDER)
    shutil.copytree(other.folder / FOLDER, copied / FOLDER)
    with pytest.raises(WeightsError, match=r"other weights.*vitrail fit --resume .*run; or remove"):
        open_nearest(copied, load(copied))
    with Events(SilentSink()) as events:
        resume(str(copied), events)  # as the message says
    assert len(opened(copied))


def change(**arrays: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    """Change arrays and write their checksum, as one who knows the format would."""

    def done(folder: Path) -> None:
        tensors = {name: tensor.clone() for name, tensor in read_tensors(folder / ARRAYS).items()}
        write_tensors(folder / ARRAYS, {**tensors, **{name: make(tensors[name]) for name, make in arrays.items()}})
        note(sha256=sha256_of(folder / ARRAYS))(folder)

    return done


def note(**values: Any) -> Callable[[Path], None]:
    def done(folder: Path) -> None:
        (folder / RECORD).write_text(json.dumps({**json.loads((folder / RECORD).read_bytes()), **values}))

    return done


def truncate(file: str, size: int) -> Callable[[Path], None]:
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:size]) and None


def swap(offsets: torch.Tensor) -> torch.Tensor:
    return offsets[[0, 2, 1, *range(3, len(offsets))]]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate(ARRAYS, 5000), "not what was written"),
        (truncate(RECORD, 100), "damaged"),
        (lambda folder: (folder / RECORD).unlink(), "cannot be read"),
        (lambda folder: (folder / ARRAYS).unlink(), "cannot be read"),
        (note(format="vitrail-nearest-9"), "this version of vitrail reads 'vitrail-nearest-1'"),
        (note(names=["one"]), "1 names"),
        (note(names=None), "damaged"),
        (note(labels="abc"), "3 labels"),
        (note(classes=["day"]), "not one of its classes"),
        (note(num_training="many"), "num_training"),
        (change(features=lambda x: x.float()), "float32"),
        (change(features=lambda x: x[:-1]), "shapes"),
        (change(features=lambda x: x * torch.inf), "not finite"),
        (change(offsets=swap), "do not follow one another"),
        (change(offsets=lambda x: x + 1), "do not follow one another"),
        (change(thumbnails=lambda x: x[:-1]), "do not follow one another"),
    ],
)  # fmt: skip
def test_a_damaged_index_is_refused_and_says_what_to_do(
    damage: Callable[[Path], None], message: str, copied: Path
) -> None:
    damage(copied / FOLDER)
    with pytest.raises(WeightsError, match=rf"(?s){message}.*vitrail fit --resume"):
        open_nearest(copied, load(copied))


def test_a_sweep_keeps_one_of_its_last_run_alone(tmp_path: Path) -> None:
    with Events(SilentSink()) as events:
        result = sweep(
            tiny("digits", 8), replace(RATES, learning_rates=(1e-3, 1e-2)), str(tmp_path / "run"), events, ""
        )
    assert list(tmp_path.rglob(FOLDER)) == [result.folder / FOLDER]
    assert len(opened(result.folder)) == len(json.loads((result.folder / "data.json").read_bytes())["splits"]["train"])
    assert "nearest" in result.durations


def test_models_without_tokens_have_features_too(place: Place, tmp_path: Path) -> None:
    model = ResNetConfig(image_size=(32, 32), depths=(1, 1), width_factor=0.5, num_classes=3)
    config = replace(config_of(place.photos), model=model, preprocessing=Preprocessing((32, 32)))
    result = do_train(config, tmp_path / "run")
    [[found]] = opened(result.folder).find(features_of(load(result.folder), place.photos / place.training[0]), 1)
    assert found.name == place.training[0]


def test_no_class_is_left_out_for_the_sake_of_another() -> None:
    labels = np.repeat([0, 1, 2, 4], [3, 50, 50, 50])
    for most in (1, 4, 7, 60, 61, 152, 153, 1000):
        chosen = spread_over_classes(labels, most)
        counts = np.bincount(labels[chosen], minlength=5)
        assert len(chosen) == len(set(chosen.tolist())) == min(most, len(labels))
        assert (np.diff(chosen) > 0).all()
        if most >= 12:
            assert counts[0] == 3  # all of a small class
            assert np.ptp(counts[[1, 2, 4]]) <= 1
        else:
            assert np.ptp(counts[[0, 1, 2, 4]]) <= 1
    assert spread_over_classes(labels, 0).size == 0
    np.testing.assert_array_equal(spread_over_classes(np.zeros(10, np.int64), 3), [0, 3, 6])


def test_a_short_budget_keeps_fewer_and_a_long_one_all(place: Place) -> None:
    config = place.result.config
    run = Run(config, place.result.prepared, Events(SilentSink()))
    num_validation = len(run.validation.indices)

    def kept(minutes: float, picture_seconds: float) -> int:
        seconds = picture_seconds * num_validation
        return plan_minutes(config, run, 0.1, seconds, seconds, 60 * minutes).nearest_pictures

    assert kept(10, 1e-3) == config.nearest_pictures
    assert kept(1, 0.5) == 6  # a twentieth of a minute
    assert kept(0, 0.5) == 0
