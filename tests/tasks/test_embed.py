"""`embed` and many pictures at once: the rows of the plain way, in order, whole or not at all, in bounded memory."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from vitrail.cli.main import main
from vitrail.data.batches import normalize
from vitrail.data.config import Preprocessing
from vitrail.data.images import open_picture
from vitrail.data.sources.pictures import find_pictures
from vitrail.data.transforms import EvaluationTransform
from vitrail.engines.base import Description, Prepared
from vitrail.errors import ConfigError, DataError
from vitrail.models.config import ViTConfig
from vitrail.models.vit import VisionTransformer
from vitrail.tasks import pace, vectors
from vitrail.tasks.embed import EmbedConfig, embed
from vitrail.tasks.features import forward_features_of
from vitrail.tasks.inference import ask, find_loader
from vitrail.tasks.predict import PredictConfig, predict
from vitrail.training.events import Events, SilentSink
from vitrail.weights.bundle import BundleConfig, save_bundle
from vitrail.weights.load import load

NUM_PICTURES, BROKEN = 30, 7
PREPROCESSING = Preprocessing(image_size=(8, 8))


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    config = ViTConfig(image_size=(8, 8), patch_size=4, width=16, depth=2, num_heads=2, mlp_size=32, num_classes=3)
    model = VisionTransformer(config, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():  # a fresh head is zero
        model.head.weight.normal_(generator=torch.Generator().manual_seed(1))
    folder = tmp_path_factory.mktemp("backbone") / "bundle"
    save_bundle(folder, model, BundleConfig(config, ("a", "b", "c"), PREPROCESSING))
    return str(folder)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> str:
    """30 pictures of noise, one of them cut off."""
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for number in range(NUM_PICTURES):
        path = folder / f"{number:02d}.jpg"
        Image.fromarray(generator.integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(path)
        if number == BROKEN:
            path.write_bytes(path.read_bytes()[:-400])
    return str(folder)


def one_by_one(backbone: str, photos: str, kind: str = "pre_logits", layer: int | None = None) -> np.ndarray:
    """The features in the plainest way: a picture at a time."""
    bundle, transform = load(backbone), EvaluationTransform(PREPROCESSING)
    forward = forward_features_of(bundle.model, kind, layer)  # type: ignore[arg-type]
    rows = []
    with torch.inference_mode():
        for path in sorted(Path(photos).iterdir()):
            if path.name != f"{BROKEN:02d}.jpg":
                pixels = torch.from_numpy(transform(open_picture(path)))[None]
                rows.append(forward(normalize(pixels, PREPROCESSING))[0].numpy())
    return np.stack(rows)


def names(photos: str) -> list[str]:
    return [str(path) for path in sorted(Path(photos).iterdir()) if path.name != f"{BROKEN:02d}.jpg"]


def read(path: Path) -> tuple[list[str], np.ndarray]:
    """(names, rows), by other people's readers."""
    if path.suffix == ".parquet":
        table = pytest.importorskip("pyarrow.parquet").read_table(path)
        return table["file"].to_pylist(), np.array(table["features"].to_pylist(), np.float32)
    with path.with_suffix(".csv").open(newline="", encoding="utf-8") as file:
        header, *lines = csv.reader(file)
    assert header[0] == "file"
    if path.suffix == ".npy":
        return [line[0] for line in lines], np.load(path, allow_pickle=False)
    return [line[0] for line in lines], np.array([line[1:] for line in lines], dtype=np.float32)


@pytest.mark.parametrize("suffix", sorted(vectors.KINDS))
@pytest.mark.parametrize(("kind", "layer"), [("pre_logits", None), ("patch_mean", 0)])
def test_rows_are_those_of_one_picture_at_a_time_in_order(
    backbone: str, photos: str, tmp_path: Path, suffix: str, kind: str, layer: int | None
) -> None:
    out = tmp_path / "new" / f"vectors{suffix}"
    config = EmbedConfig(backbone, (photos,), str(out), kind, layer, batch_size=4)  # type: ignore[arg-type]
    result = embed(config, Events())
    found, rows = read(out)
    expected = one_by_one(backbone, photos, kind, layer)
    assert found == names(photos)
    np.testing.assert_allclose(rows, expected, rtol=1e-5, atol=1e-6)
    assert rows.dtype == np.float32
    assert (result.num_rows, result.num_features) == expected.shape
    assert result.files[0] == out
    ((file, message),) = result.broken
    assert file.endswith(f"{BROKEN:02d}.jpg")
    assert "truncated" in message
    assert sorted(path.name for path in out.parent.iterdir()) == sorted(path.name for path in result.files)


def test_a_csv_keeps_every_bit_and_a_parquet_file_says_what_made_it(backbone: str, photos: str, tmp_path: Path) -> None:
    for suffix in (".npy", ".csv", ".parquet"):
        embed(EmbedConfig(backbone, (photos,), str(tmp_path / f"{suffix[1:]}_{suffix}")), Events())
    rows = [read(tmp_path / f"{suffix[1:]}_{suffix}")[1] for suffix in (".npy", ".csv", ".parquet")]
    for others in rows[1:]:
        np.testing.assert_array_equal(rows[0], others)
    parquet = pytest.importorskip("pyarrow.parquet")
    made_from = json.loads(parquet.read_metadata(tmp_path / "parquet_.parquet").metadata[b"vitrail"])
    assert made_from["model"] == backbone
    assert len(made_from["weights"]) == 64


@pytest.mark.parametrize("suffix", sorted(vectors.KINDS))
def test_a_file_that_is_there_is_replaced_only_by_force(
    backbone: str, photos: str, tmp_path: Path, suffix: str
) -> None:
    out = tmp_path / f"vectors{suffix}"
    out.write_text("mine")
    with pytest.raises(ConfigError, match="--force"):
        embed(EmbedConfig(backbone, (photos,), str(out)), Events())
    assert out.read_text() == "mine"
    embed(EmbedConfig(backbone, (photos,), str(out), force=True), Events())
    assert len(read(out)[0]) == NUM_PICTURES - 1


def test_names_beside_an_array_are_not_overwritten_either(backbone: str, photos: str, tmp_path: Path) -> None:
    (tmp_path / "vectors.csv").write_text("mine")
    with pytest.raises(ConfigError, match=r"vectors.csv: is there already"):
        embed(EmbedConfig(backbone, (photos,), str(tmp_path / "vectors.npy")), Events())


def test_what_cannot_be_written_is_refused_before_the_model_is_read(
    photos: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for out, message in (
        ("vectors.txt", r"\.parquet, \.npy, \.csv"),
        ("vectors", r"must end in"),
        ("folder.npy", "is a folder"),
        ("file/x.npy", "cannot be written"),
    ):
        (tmp_path / "folder.npy").mkdir(exist_ok=True)
        (tmp_path / "file").touch()
        with pytest.raises(ConfigError, match=message):
            embed(EmbedConfig("nowhere", (photos,), str(tmp_path / out)), Events())
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"pip install 'vitrail\[parquet\]'"):
        embed(EmbedConfig("nowhere", (photos,), str(tmp_path / "x.parquet")), Events())


def test_no_readable_picture_is_an_error_and_leaves_no_file(backbone: str, photos: str, tmp_path: Path) -> None:
    broken = str(Path(photos) / f"{BROKEN:02d}.jpg")
    with pytest.raises(DataError, match=r"none of the 1 pictures can be read.*truncated"):
        embed(EmbedConfig(backbone, (broken,), str(tmp_path / "out" / "x.npy")), Events())
    assert not list((tmp_path / "out").iterdir())


KILLED = """
import os, signal, sys
from vitrail.tasks import embed, vectors
kind = vectors.KINDS[sys.argv[4]]
appended = 0
def append(self, *arguments):
    global appended
    appended += 1
    if appended == int(sys.argv[5]):
        self._part.file.flush() if hasattr(self, "_part") else self._array.file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    real(self, *arguments)
real, kind.append = kind.append, append
from vitrail.training.events import Events
embed.embed(embed.EmbedConfig(sys.argv[1], (sys.argv[2],), sys.argv[3], force=True, batch_size=4), Events())
"""


@pytest.mark.parametrize("suffix", sorted(vectors.KINDS))
def test_a_kill_in_the_middle_leaves_the_older_file_and_the_next_run_is_whole(
    backbone: str, photos: str, tmp_path: Path, suffix: str
) -> None:
    out = tmp_path / f"vectors{suffix}"
    out.write_text("older")
    command = [sys.executable, "-c", KILLED, backbone, photos, str(out), suffix, "5"]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert out.read_text() == "older"
    (left, *_) = tmp_path.glob(".*.partial")
    os.utime(left, (1, 1))
    embed(EmbedConfig(backbone, (photos,), str(out), force=True), Events())
    assert not left.exists()
    assert len(read(out)[0]) == NUM_PICTURES - 1


def test_rows_and_names_of_two_runs_never_stand_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop between the two renames leaves names without an array."""
    for number in range(2):
        writer = vectors.open_vectors(tmp_path / "v.npy", force=True)
        writer.append([f"run {number}"], np.full((1, 2), number, np.float32))
        if number == 0:
            writer.finish({})
            continue
        monkeypatch.setattr(vectors._Part, "rename", lambda self: self.path.suffix == ".csv" or 1 / 0)
        with pytest.raises(ZeroDivisionError):
            writer.finish({})
    assert not (tmp_path / "v.npy").exists()


def test_memory_is_bounded_by_the_batches_ahead(backbone: str, photos: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the model is slow no more pictures are decoded than fit into the queue."""
    source = find_pictures((photos,) * 40)
    loader, _ = find_loader(source, PREPROCESSING, 4)
    opened = 0
    real = loader._maker.source.open

    def count(index: int) -> object:
        nonlocal opened
        opened += 1
        return real(index)

    monkeypatch.setattr(type(source), "open", lambda self, index: count(index))
    batches = loader.once(threads=3)
    next(batches)
    time.sleep(0.5)
    assert opened <= 4 * (3 * 2 + 1 + 1)
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decoding")]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_change_no_bit_of_the_batches(photos: str, threads: int) -> None:
    loader, _ = find_loader(find_pictures((photos, photos)), PREPROCESSING, 4)
    for plain, threaded in zip(loader.once(), loader.once(threads), strict=True):
        assert torch.equal(plain.images, threaded.images)
        assert torch.equal(plain.indices, threaded.indices)
        assert plain.broken == threaded.broken


def test_predictions_of_many_pictures_are_those_of_each_alone(backbone: str, photos: str) -> None:
    many = predict(PredictConfig(backbone, (photos,), batch_size=4), Events())
    alone = [predict(PredictConfig(backbone, (str(path),)), Events())[0] for path in sorted(Path(photos).iterdir())]
    assert [one.file for one in many] == [one.file for one in alone]
    for one, other in zip(many, alone, strict=True):
        assert (one.label, one.error) == (other.label, other.error)
        if one.error is None:
            assert one.probability == pytest.approx(other.probability, abs=1e-5)


def test_another_engine_takes_the_pictures_as_they_are(backbone: str, photos: str) -> None:
    bundle = load(backbone)
    loader, threads = find_loader(find_pictures((photos,)), PREPROCESSING, 4)
    seen: list[tuple[torch.dtype, int]] = []

    def answer(pictures: Tensor) -> Tensor:
        seen.append((pictures.dtype, pictures.shape[1]))
        return bundle.model(normalize(pictures, PREPROCESSING))

    prepared = Prepared(answer, Description("torch", "float32", False, "plain"), PREPROCESSING)
    plain = ask(bundle.model, loader, PREPROCESSING)
    other = ask(bundle.model, loader, PREPROCESSING, prepared=prepared, threads=threads)
    np.testing.assert_array_equal(plain.values, other.values)
    assert set(seen) == {(torch.uint8, 3)}


# ---- what the first batches decide


class Clock:
    """Time that goes on only where a test says so."""

    now = 1.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pace, "time", clock)
    return clock


def make_pace(clock: Clock, slow: int, num_batches: int = 100) -> pace.Pace:
    """Answers that take a second with `slow` threads and half of it with others."""

    def answer(images: Tensor) -> np.ndarray:
        clock.now += 1.0 if torch.get_num_threads() == slow else 0.5
        return np.ones((len(images), 4), np.float32)

    return pace.Pace(answer, torch.device("cpu"), num_batches)


@pytest.fixture
def three_threads() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


PICTURES = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)


@pytest.mark.parametrize(("slow", "fast"), [(1, 3), (3, 1)])
def test_the_faster_number_of_threads_is_kept_and_given_back(
    three_threads: None, clock: Clock, slow: int, fast: int
) -> None:
    with make_pace(clock, slow) as chosen:
        for _ in range(2 * pace.TURNS + 2):
            chosen.answer(PICTURES)
        assert torch.get_num_threads() == fast
    assert torch.get_num_threads() == 3


def test_few_batches_are_not_worth_a_trial(three_threads: None, clock: Clock) -> None:
    with make_pace(clock, 3, num_batches=pace.WORTH_A_TRIAL - 1) as chosen:
        for _ in range(8):
            chosen.answer(PICTURES)
            assert torch.get_num_threads() == 3


@pytest.mark.parametrize("is_compiled", [False, True])
def test_what_was_compiled_for_a_number_of_threads_keeps_it(
    backbone: str, photos: str, three_threads: None, is_compiled: bool
) -> None:
    bundle = load(backbone)
    loader, threads = find_loader(find_pictures((photos,)), PREPROCESSING, 2)
    seen: list[int] = []

    def answer(pictures: Tensor) -> Tensor:
        seen.append(torch.get_num_threads())
        return torch.ones(len(pictures), 3)

    prepared = Prepared(answer, Description("torch", "float32", is_compiled, "plain"), PREPROCESSING)
    ask(bundle.model, loader, PREPROCESSING, prepared=prepared, threads=max(1, threads))
    assert set(seen) == ({3} if is_compiled else {1, 3})


# ---- the command


def test_the_command_lists_broken_pictures_and_exits_with_1(
    backbone: str, photos: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "v.csv")
    assert main(["embed", backbone, photos, "--out", out]) == 1
    said = capsys.readouterr()
    assert f"{BROKEN:02d}.jpg: truncated file" in said.err
    assert f"{NUM_PICTURES - 1} pictures, 16 features each" in said.out
    assert main(["embed", backbone, photos, "--out", out]) == 2
    assert "--force" in capsys.readouterr().err
    whole = str(Path(photos) / "00.jpg")
    assert main(["embed", backbone, whole, "--out", out, "--force", "--json", "--precision", "auto"]) == 0
    assert json.loads(capsys.readouterr().out) == {"files": [out], "rows": 1, "features": 16, "broken": []}
    assert main(["embed", backbone, whole, "--out", out, "--force", "--layer", "9"]) == 2
    assert "the model has 2 blocks" in capsys.readouterr().err


def test_progress_counts_every_picture(backbone: str, photos: str, tmp_path: Path) -> None:
    class Heard(SilentSink):
        def __init__(self) -> None:
            self.done: list[tuple[int, int]] = []

        def progress(self, progress: object) -> None:
            self.done.append((progress.done, progress.total))  # type: ignore[attr-defined]

    heard = Heard()
    embed(EmbedConfig(backbone, (photos,), str(tmp_path / "v.npy"), batch_size=8), Events(heard))
    assert heard.done[-1] == (NUM_PICTURES, NUM_PICTURES)
