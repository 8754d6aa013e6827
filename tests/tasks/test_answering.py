"""Who answers for many pictures: engines only where they pay, only what is near, and int8 only with its accuracy."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor

from vitrail.cli.main import main
from vitrail.data.batches import normalize
from vitrail.data.config import Preprocessing
from vitrail.data.sources.pictures import find_pictures
from vitrail.engines import choice, registry
from vitrail.engines.base import Prepared
from vitrail.engines.config import MAX_OFF, AnsweringConfig, InferenceConfig
from vitrail.engines.prepare import own_answers
from vitrail.engines.quantization import has_int8
from vitrail.engines.torch_engine import TorchEngine
from vitrail.errors import ConfigError
from vitrail.models.config import ViTConfig
from vitrail.models.vit import VisionTransformer
from vitrail.tasks import answering
from vitrail.tasks.answering import CHECKED_ON, Answerer, find_answerer
from vitrail.tasks.embed import EmbedConfig, embed
from vitrail.tasks.inference import Answers, ask, find_loader
from vitrail.tasks.labelled import read_check_pictures
from vitrail.tasks.predict import PredictConfig, predict
from vitrail.tasks.predictor import Prediction
from vitrail.training.events import Events, SilentSink
from vitrail.weights.bundle import Bundle, BundleConfig, save_bundle
from vitrail.weights.load import load

CLASSES = tuple("0123456789")
PREPROCESSING = Preprocessing(image_size=(8, 8), mean=(0.3,), std=(0.38,))
VIT = ViTConfig(
    image_size=(8, 8), patch_size=2, in_channels=1, width=32, depth=2, num_heads=2, mlp_size=64, num_classes=10
)
NUM_TEST = 397
# Of all rows: the first 32, which are checked, are within MAX_OFF; with a network this small some later ones are not.
NEAR = 4 * MAX_OFF
needs_int8 = pytest.mark.skipif(not has_int8(), reason="this processor has no exact 8-bit products")


def pixels_and_labels() -> tuple[np.ndarray, np.ndarray]:
    """In an order in which the last ones are by the same writers as the first."""
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    return np.round(digits.images[order] * (255 / 16)).astype(np.uint8), digits.target[order].astype(np.int64)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Vision Transformer that names nine in ten of the digits that it was not trained on."""
    pixels, labels = (torch.from_numpy(values[:-NUM_TEST]) for values in pixels_and_labels())
    generator = torch.Generator().manual_seed(0)
    network = VisionTransformer(VIT, generator=generator)
    optimizer = torch.optim.Adam(network.parameters(), 4e-3)
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 4e-3 * (1 - step / 300)  # the last updates no longer throw it about
        rows = torch.randint(len(labels), (128,), generator=generator)
        loss = torch.nn.functional.cross_entropy(network(normalize(pixels[rows, None], PREPROCESSING)), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    folder = tmp_path_factory.mktemp("model") / "bundle"
    save_bundle(folder, network.eval(), BundleConfig(VIT, CLASSES, PREPROCESSING))
    return str(folder)


def write_digits(folder: Path, rows: slice) -> None:
    """folder/<class>/<number>.png"""
    pixels, labels = pixels_and_labels()
    for number in range(len(labels))[rows]:
        path = folder / CLASSES[labels[number]] / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[number]).save(path)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> str:
    """train/ and test/, as `vitrail evaluate` takes them."""
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder / "train", slice(0, 200))
    write_digits(folder / "test", slice(-NUM_TEST, None))
    return str(folder)


@pytest.fixture
def pictures(digits: str) -> str:
    return f"{digits}/test"


@pytest.fixture(autouse=True)
def _torch_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A cache of its own, and the other engines, which take seconds to come up, where a test asks for them."""
    monkeypatch.setenv("VITRAIL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(choice, "installed_engines", lambda: ("torch",))


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial pays whatever it takes, as it does for models that are less quick than these."""
    monkeypatch.setattr(answering, "TRIAL_SECONDS", 0.0)
    monkeypatch.setattr(answering, "PREPARE_SECONDS", 0.0)


class Heard(SilentSink):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warning(self, text: str) -> None:
        self.warnings.append(text)


def answers_of(
    model: str, pictures: tuple[str, ...], batch_size: int = 32, **options: Any
) -> tuple[Answers, Answerer, Heard]:
    """Rows of logits with an `AnsweringConfig` of these options."""
    heard, bundle = Heard(), load(model)
    loader, threads = find_loader(find_pictures(pictures), PREPROCESSING, batch_size)
    answerer = find_answerer(bundle, loader, "logits", AnsweringConfig(**options), Events(heard))
    given = {"prepared": answerer.prepared, "precision": answerer.precision, "threads": threads}
    return ask(bundle.model, loader, PREPROCESSING, **given), answerer, heard  # type: ignore[arg-type]


def own(model: str, pictures: tuple[str, ...], batch_size: int = 32) -> Answers:
    """What the model itself gives in float32."""
    bundle = load(model)
    loader, threads = find_loader(find_pictures(pictures), PREPROCESSING, batch_size)
    return ask(bundle.model, loader, PREPROCESSING, threads=threads)


def off(expected: np.ndarray, found: np.ndarray) -> float:
    """The greatest distance of a row, by its length."""
    return float((np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)).max())


# ---- auto


def test_few_pictures_are_answered_by_the_model_itself_bit_for_bit(model: str, digits: str, patient: None) -> None:
    few = (f"{digits}/train",)  # 200
    found, answerer, heard = answers_of(model, few)
    np.testing.assert_array_equal(found.values, own(model, few).values)
    assert answerer.to_json() == {"engine": "the model itself", "precision": "float32"}
    assert heard.notes == []


def test_what_is_answered_sooner_than_tried_is_answered_by_the_model_itself(model: str, pictures: str) -> None:
    found, answerer, heard = answers_of(model, (pictures,))
    np.testing.assert_array_equal(found.values, own(model, (pictures,)).values)
    assert (answerer.prepared, heard.notes) == (None, [])


def test_many_pictures_are_answered_by_an_engine_that_is_near(
    model: str, pictures: str, patient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "installed_engines", registry.installed_engines)
    found, answerer, heard = answers_of(model, (pictures,))
    expected = own(model, (pictures,))
    assert answerer.prepared is not None
    assert off(expected.values[:CHECKED_ON], found.values[:CHECKED_ON]) <= MAX_OFF
    assert off(expected.values, found.values) <= NEAR
    labels = pixels_and_labels()[1][[int(Path(key).stem) for key in keys(pictures)]]
    assert np.mean(expected.values.argmax(1) == labels) > 0.9, "the model is not trained"
    assert np.mean(expected.values.argmax(1) == found.values.argmax(1)) > 0.99
    (note,) = heard.notes
    chosen = answerer.to_json()
    assert re.match(
        rf"engine: {chosen['engine']} {chosen['precision']} \(\d+\.\d ms a picture, off by \d\.\d\d % at", note
    )
    for name in registry.installed_engines():
        assert f"{name} float32" in note


def keys(*pictures: str) -> list[str]:
    source = find_pictures(pictures)
    return [source.key(index) for index in range(len(source))]


def test_predictions_and_their_note_are_those_of_the_engine(model: str, pictures: str, patient: None) -> None:
    heard = Heard()
    found = predict(PredictConfig(model, (pictures,)), Events(heard))
    plain = predict(PredictConfig(model, (pictures,), answering=AnsweringConfig(precision="float32")), Events())
    assert [one.file for one in found] == keys(pictures)
    assert heard.notes[-1].startswith("engine: torch ")
    assert sum(one.label == other.label for one, other in zip(found, plain, strict=True)) >= 0.99 * len(plain)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_precision_alone_is_that_of_the_model_itself(
    model: str, pictures: str, patient: None, precision: str
) -> None:
    found, answerer, heard = answers_of(model, (pictures,), precision=precision)
    bundle = load(model)
    loader, _ = find_loader(find_pictures((pictures,)), PREPROCESSING, 32)
    plain = ask(bundle.model, loader, PREPROCESSING, precision=precision)  # type: ignore[arg-type]
    np.testing.assert_array_equal(found.values, plain.values)
    assert answerer.to_json() == {"engine": "the model itself", "precision": precision}
    assert heard.notes == []


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_named_engine_answers_few_pictures_too(model: str, digits: str, precision: str) -> None:
    few = (f"{digits}/train/3",)
    found, answerer, heard = answers_of(model, few, engine="torch", precision=precision)
    expected = own(model, few).values
    assert off(expected, found.values) <= (1e-5 if precision == "float32" else NEAR)
    assert answerer.to_json() == {"engine": "torch", "precision": precision}
    assert heard.notes[0].startswith(f"engine: torch {precision} (off by ")


def test_a_named_engine_alone_means_float32_for_few_pictures(model: str, digits: str) -> None:
    _, answerer, _ = answers_of(model, (f"{digits}/train/3",), engine="torch")
    assert answerer.to_json() == {"engine": "torch", "precision": "float32"}


# ---- engines that are off


class OtherWeights(TorchEngine):
    """An engine that is quick and wrong: what it prepares is another model."""

    def prepare(self, bundle: Bundle, config: InferenceConfig, calibration: Tensor | None) -> Prepared:
        other = VisionTransformer(VIT, generator=torch.Generator().manual_seed(7)).eval()
        torch.nn.init.normal_(other.head.weight, generator=torch.Generator().manual_seed(8))  # type: ignore[arg-type,union-attr]
        return super().prepare(Bundle(other, bundle.config, bundle.path), config, calibration)


@pytest.fixture
def wrong_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.ENGINES, "openvino", OtherWeights())
    monkeypatch.setattr(choice, "installed_engines", lambda: ("torch", "openvino"))


def test_an_engine_whose_answers_are_off_is_refused(
    model: str, pictures: str, patient: None, wrong_engine: None
) -> None:
    found, answerer, heard = answers_of(model, (pictures,))
    assert answerer.to_json()["engine"] == "torch"
    assert off(own(model, (pictures,)).values, found.values) <= NEAR
    assert "refused: openvino float32, openvino bfloat16" in heard.notes[0]
    with pytest.raises(ConfigError, match=r"openvino in float32 is off by .* and 2 % are allowed"):
        answers_of(model, (pictures,), engine="openvino", precision="float32")


class Failing(TorchEngine):
    """An engine of other people's, which does not know the model."""

    def prepare(self, bundle: Bundle, config: InferenceConfig, calibration: Tensor | None) -> Prepared:
        raise RuntimeError("no such operation\nand a long report")


def test_an_engine_that_fails_is_refused_and_the_others_are_tried(
    model: str, pictures: str, patient: None, wrong_engine: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry.ENGINES, "openvino", Failing())
    _, answerer, heard = answers_of(model, (pictures,))
    assert answerer.to_json()["engine"] == "torch"
    assert "refused: openvino float32, openvino bfloat16" in heard.notes[0]
    with pytest.raises(ConfigError, match=r"openvino float32: RuntimeError: no such operation$"):
        answers_of(model, (pictures,), engine="openvino", precision="float32")


def test_what_was_chosen_before_is_taken_again_and_told(model: str, pictures: str, patient: None) -> None:
    _, first, _ = answers_of(model, (pictures,))
    _, again, heard = answers_of(model, (pictures,))
    assert again.to_json() == first.to_json()
    assert "ms a picture when tried before, off by" in heard.notes[0]


def test_where_every_engine_is_off_the_model_itself_answers_and_that_is_said(
    model: str, pictures: str, patient: None, wrong_engine: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "installed_engines", lambda: ("openvino",))
    found, answerer, heard = answers_of(model, (pictures,))
    np.testing.assert_array_equal(found.values, own(model, (pictures,)).values)
    assert answerer.prepared is None
    assert "no engine passes" in heard.warnings[0]
    assert heard.warnings[0].endswith("The model itself answers, in float32")


# ---- rows


def with_broken(folder: Path, pictures: str) -> tuple[str, ...]:
    """300 pictures; the first ten, one in the middle and the last are broken."""
    folder.mkdir()
    for number, key in enumerate(keys(pictures)[:300]):
        content = Path(key).read_bytes()
        (folder / f"{number:03d}.png").write_bytes(content[:-30] if number in BROKEN else content)
    return (str(folder),)


BROKEN = (*range(10), 150, 299)


def test_broken_pictures_are_named_and_shift_no_row_whatever_the_batch(
    model: str, pictures: str, patient: None, tmp_path: Path
) -> None:
    given = with_broken(tmp_path / "given", pictures)
    whole = [number for number in range(300) if number not in BROKEN]
    expected = own(model, given).values
    rows: dict[int, list[Prediction]] = {}
    for size in (7, 64):
        rows[size] = list(predict(PredictConfig(model, given, batch_size=size), Events()))
        assert [number for number, one in enumerate(rows[size]) if one.error is not None] == list(BROKEN)
        top = [CLASSES[label] for label in expected.argmax(1)]
        assert sum(rows[size][number].label == name for number, name in zip(whole, top, strict=True)) >= 285
        out = tmp_path / f"{size}.npy"
        result = embed(EmbedConfig(model, given, str(out), batch_size=size), Events())
        assert [Path(file).stem for file, _ in result.broken] == [f"{number:03d}" for number in BROKEN]
    assert [one.file for one in rows[7]] == [one.file for one in rows[64]]
    # One may be bfloat16's, in which a network this small is at times off by more; rows in another order always are.
    both = np.array([[rows[size][number].probability for number in whole] for size in (7, 64)], dtype=float)
    assert np.quantile(np.abs(both[0] - both[1]), 0.9) <= 0.03
    assert off(np.load(tmp_path / "7.npy"), np.load(tmp_path / "64.npy")) <= NEAR


def test_where_no_picture_can_be_read_all_are_named(model: str, patient: None, tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    for number in range(260):
        (tmp_path / "given" / f"{number}.png").write_bytes(b"no picture")
    found = predict(PredictConfig(model, (str(tmp_path / "given"),)), Events())
    assert sum(one.error is not None for one in found) == 260
    named = PredictConfig(model, (str(tmp_path / "given"),), answering=AnsweringConfig(engine="torch"))
    assert sum(one.error is not None for one in predict(named, Events())) == 260


# ---- embed


def made_from(path: Path) -> dict[str, Any]:
    parquet = pytest.importorskip("pyarrow.parquet")
    found: dict[str, Any] = json.loads(parquet.read_metadata(path).metadata[b"vitrail"])
    return found


def test_vectors_are_the_engines_and_their_file_says_so(
    model: str, pictures: str, patient: None, tmp_path: Path
) -> None:
    for name, options in {"auto": {}, "own": {"precision": "float32"}}.items():
        out, heard = tmp_path / f"{name}.parquet", Heard()
        config = EmbedConfig(model, (pictures,), str(out), answering=AnsweringConfig(**options))  # type: ignore[arg-type]
        embed(config, Events(heard))
        found = made_from(out)
        if name == "own":
            assert (found["engine"], found["precision"], heard.notes) == ("the model itself", "float32", [])
        else:
            assert heard.notes[0].startswith(f"engine: {found['engine']} {found['precision']} (")
            assert found["engine"] == "torch"
    parquet = pytest.importorskip("pyarrow.parquet")
    auto, plain = (
        np.array(parquet.read_table(tmp_path / f"{name}.parquet")["features"].to_pylist(), np.float32)
        for name in ("auto", "own")
    )
    assert 0 < off(plain, auto) <= NEAR


def test_other_features_are_the_models_own(model: str, pictures: str, patient: None, tmp_path: Path) -> None:
    for name, options in {"auto": {}, "own": {"precision": "float32"}}.items():
        config = EmbedConfig(
            model, (pictures,), str(tmp_path / f"{name}.npy"), "patch_mean", answering=AnsweringConfig(**options)  # type: ignore[arg-type]
        )  # fmt: skip
        embed(config, Events())
    np.testing.assert_array_equal(np.load(tmp_path / "auto.npy"), np.load(tmp_path / "own.npy"))
    named = AnsweringConfig(engine="torch")
    with pytest.raises(ConfigError, match=r"engines give only what the head sees: leave out --engine"):
        embed(EmbedConfig(model, (pictures,), str(tmp_path / "x.npy"), layer=0, answering=named), Events())
    assert not (tmp_path / "x.npy").exists()


def test_a_model_elsewhere_than_on_the_cpu_answers_itself(model: str, pictures: str, patient: None) -> None:
    bundle = load(model)
    elsewhere = Bundle(bundle.model.to("meta"), bundle.config, bundle.path)
    loader, _ = find_loader(find_pictures((pictures,)), PREPROCESSING, 32)
    assert find_answerer(elsewhere, loader, "logits", AnsweringConfig(), Events()) == Answerer()
    with pytest.raises(ConfigError, match="engines are for the CPU, not meta"):
        find_answerer(elsewhere, loader, "logits", AnsweringConfig(engine="torch"), Events())


# ---- int8


def accuracy_of(predictions: tuple[Prediction, ...]) -> float:
    """By the folder that each file lies in."""
    return float(np.mean([Path(one.file).parent.name == one.label for one in predictions]))


@needs_int8
def test_int8_is_told_with_its_accuracy_and_its_loss(model: str, digits: str, pictures: str) -> None:
    heard = Heard()
    int8 = AnsweringConfig(precision="int8", labelled=digits, max_loss=0.02)
    found = accuracy_of(predict(PredictConfig(model, (pictures,), answering=int8), Events(heard)))
    plain = accuracy_of(predict(PredictConfig(model, (pictures,)), Events()))
    assert plain > 0.9
    assert heard.notes[-2] == "engine: torch int8"
    assert heard.notes[-1] == (
        f"int8: {100 * found:.2f} % of {NUM_TEST} pictures, float32 {100 * plain:.2f} %:"
        f" {100 * (plain - found):.2f} points lost, 2.00 allowed"
    )


@pytest.fixture
def calibrated_on_black(tmp_path: Path) -> str:
    """Pictures to train on that are all black: far from those of test/."""
    folder = tmp_path / "black"
    for name in CLASSES:
        (folder / "train" / name).mkdir(parents=True)
        for number in range(3):
            Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "train" / name / f"{number}.png")
    write_digits(folder / "test", slice(-NUM_TEST, None))
    return str(folder)


@needs_int8
def test_int8_that_loses_more_than_allowed_is_refused(
    model: str, pictures: str, calibrated_on_black: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--precision", "int8", "--labelled", calibrated_on_black]
    assert main(["predict", model, pictures, "--csv", *options]) == 2
    said = capsys.readouterr()
    assert re.search(r"torch int8: torch in int8 loses \d+\.\d\d points of accuracy on 397 labelled pictures", said.err)
    assert said.out == ""
    out = tmp_path / "v.npy"
    assert main(["embed", model, pictures, "--out", str(out), *options]) == 2
    assert not out.exists()
    assert main(["predict", model, pictures, "--csv", *options, "--max-loss", "100"]) == 0
    assert "points lost, 100.00 allowed" in capsys.readouterr().err


@needs_int8
def test_int8_vectors_are_near_and_their_cosine_is_told(model: str, digits: str, pictures: str, tmp_path: Path) -> None:
    heard = Heard()
    int8 = AnsweringConfig(engine="torch", precision="int8", labelled=digits, max_loss=0.02)
    embed(EmbedConfig(model, (pictures,), str(tmp_path / "int8.parquet"), answering=int8), Events(heard))
    embed(EmbedConfig(model, (pictures,), str(tmp_path / "own.npy")), Events())
    assert {**made_from(tmp_path / "int8.parquet"), "engine": "torch", "precision": "int8"} == made_from(
        tmp_path / "int8.parquet"
    )
    told = re.fullmatch(
        r"int8: the vectors' mean cosine with those of float32 is (\d\.\d{4}) on 128 pictures", heard.notes[-1]
    )
    assert told is not None
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = np.array(parquet.read_table(tmp_path / "int8.parquet")["features"].to_pylist(), np.float32)
    cosine = torch.cosine_similarity(torch.from_numpy(rows), torch.from_numpy(np.load(tmp_path / "own.npy"))).mean()
    assert 0.99 < float(cosine) < 1
    assert float(told[1]) == pytest.approx(float(cosine), abs=2e-3)


def test_int8_needs_labelled_pictures_and_says_what_to_give(
    model: str, pictures: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", model, pictures, "--precision", "int8"]) == 2
    assert "--labelled DATA, a folder or a table" in capsys.readouterr().err
    assert main(["predict", model, pictures, "--labelled", "somewhere"]) == 2
    assert "add --precision int8" in capsys.readouterr().err
    assert main(["predict", model, pictures, "--precision", "int8", "--labelled", "x", "--max-loss", "-1"]) == 2
    assert "-1 points of accuracy are not between 0 and 100" in capsys.readouterr().err


def test_a_model_without_a_head_has_no_accuracy_to_judge_int8_by(digits: str, tmp_path: Path) -> None:
    headless = ViTConfig(image_size=(8, 8), patch_size=4, in_channels=1, width=16, depth=1, num_heads=2, num_classes=0)
    save_bundle(tmp_path / "headless", VisionTransformer(headless), BundleConfig(headless, (), PREPROCESSING))
    int8 = AnsweringConfig(precision="int8", labelled=digits)
    config = EmbedConfig(str(tmp_path / "headless"), (digits,), str(tmp_path / "v.npy"), answering=int8)
    with pytest.raises(ConfigError, match="this model has no head"):
        embed(config, Events())


def test_an_engine_without_the_precision_is_refused(model: str, pictures: str) -> None:
    if registry.ENGINES["onnx"].missing() is not None:
        pytest.skip("ONNX Runtime is not installed")
    with pytest.raises(ConfigError, match="engine 'onnx' has no precision 'bfloat16', only float32"):
        answers_of(model, (pictures,), engine="onnx", precision="bfloat16")
    with pytest.raises(ConfigError, match=r"engine 'tpu' is none of auto, torch, openvino, onnx"):
        AnsweringConfig(engine="tpu")  # type: ignore[arg-type]


# ---- what int8 is judged with


def rows_of(images: Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


def test_it_is_calibrated_on_training_pictures_and_judged_on_all_others(model: str, digits: str) -> None:
    bundle = load(model)
    found = read_check_pictures(digits, bundle, Events())
    pixels, labels = pixels_and_labels()
    assert len(found.calibration) == 128
    assert rows_of(found.calibration) <= {row.tobytes() for row in pixels[:200]}
    assert len(found.labelled.images) == NUM_TEST
    by_pixels = {row.tobytes(): label for row, label in zip(pixels[-NUM_TEST:], labels[-NUM_TEST:], strict=True)}
    for image, label in zip(found.labelled.images, found.labelled.labels.tolist(), strict=True):
        assert by_pixels[image.numpy().tobytes()] == label
    assert (own_answers(bundle, found.labelled.images).argmax(1) == found.labelled.labels).double().mean() > 0.9
    again = read_check_pictures(digits, bundle, Events())
    assert torch.equal(found.calibration, again.calibration)
    assert torch.equal(found.labelled.images, again.labelled.images)


@pytest.mark.parametrize("part", ["train", "test"])
def test_pictures_that_are_not_divided_are_in_one_of_both(model: str, digits: str, part: str) -> None:
    found = read_check_pictures(f"{digits}/{part}", load(model), Events())
    count = {"train": 200, "test": NUM_TEST}[part]
    assert len(found.labelled.images) == round(0.8 * count)
    assert len(found.calibration) == count - round(0.8 * count)
    assert not rows_of(found.calibration) & rows_of(found.labelled.images)
