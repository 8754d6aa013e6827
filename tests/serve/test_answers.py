"""The server says what the commands say, and ends without losing an answer."""

from __future__ import annotations

import base64
import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from vitrail.data.batches import normalize
from vitrail.data.images import open_picture
from vitrail.data.transforms import EvaluationTransform
from vitrail.inspection.rollout import attention_rollout
from vitrail.serve.config import ServeConfig
from vitrail.serve.run import bind
from vitrail.serve.served_model import Reply, load_served_model
from vitrail.tasks.predictor import NOT_FINITE, Prediction
from vitrail.training.events import Events
from vitrail.weights.bundle import load_bundle

from .conftest import LABELS, Answer, Server, form_of


def told(bundle: str, files: list[Path]) -> list[dict[str, object]]:
    """What `vitrail predict --json` says, files by their names alone."""
    command = [sys.executable, "-m", "vitrail", "predict", bundle, *map(str, files), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return [{**one, "file": Path(one["file"]).name} for one in json.loads(done.stdout)]


def test_it_answers_as_predict_does_bit_for_bit_alone_and_in_a_crowd(
    server: Server, bundle: str, pictures: list[Path]
) -> None:
    expected = told(bundle, pictures)
    body, kind = form_of([(file.name, file.read_bytes()) for file in pictures])
    answer = server.post("/v1/predict", body, kind)
    assert answer.status == 200
    assert answer.json()["predictions"] == expected

    def alone(number: int) -> object:
        place = number % len(pictures)
        one = server.post("/v1/predict", pictures[place].read_bytes(), "application/octet-stream")
        return {**one.json()["predictions"][0], "file": expected[place]["file"]} == expected[place]

    with ThreadPoolExecutor(16) as clients:
        assert all(clients.map(alone, range(80)))


def test_a_broken_picture_says_so_and_leaves_the_others_their_answers(server: Server, pictures: list[Path]) -> None:
    body, kind = form_of([("good.jpg", pictures[0].read_bytes()), ("bad.jpg", pictures[0].read_bytes()[:200])])
    answer = server.post("/v1/predict", body, kind)
    good, bad = answer.json()["predictions"]
    assert answer.status == 200
    assert good["error"] is None
    assert good["label"] in LABELS
    why = "bad.jpg: truncated before its first scan"
    assert bad == {"file": "bad.jpg", "label": None, "probability": None, "top": [], "error": why}
    assert server.post("/v1/predict", b"no picture at all").status == 422


def test_features_are_those_of_embed(server: Server, bundle: str, pictures: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "features.npy"
    subprocess.run(
        [sys.executable, "-m", "vitrail", "embed", bundle, *map(str, pictures), "--out", str(out)],
        check=True,
        capture_output=True,
    )
    body, kind = form_of([(file.name, file.read_bytes()) for file in pictures])
    rows = [row["features"] for row in server.post("/v1/embed", body, kind).json()["embeddings"]]
    np.testing.assert_allclose(np.array(rows), np.load(out), rtol=1e-4, atol=1e-5)


def test_the_overlay_is_the_rollout_of_the_picture(server: Server, bundle: str, pictures: list[Path]) -> None:
    answer = server.post("/v1/predict?attention=true&top_k=9", pictures[1].read_bytes()).json()["predictions"][0]
    loaded = load_bundle(bundle)
    image = EvaluationTransform(loaded.config.preprocessing)(open_picture(pictures[1]))
    maps = attention_rollout(
        loaded.model,  # type: ignore[arg-type]
        normalize(torch.from_numpy(image)[None], loaded.config.preprocessing),
    ).maps[:, 0]
    shown = np.frombuffer(base64.b64decode(answer["attention"]["rollout"]), dtype=np.uint8).reshape(maps.shape)
    scaled = (255 * maps / maps.amax((1, 2), keepdim=True)).numpy()
    assert np.abs(shown - scaled).max() <= 0.51
    assert len(base64.b64decode(answer["attention"]["maps"])) == 3 * 3 * 16
    assert open_picture(base64.b64decode(answer["attention"]["picture"]), "seen").size == (32, 32)
    assert [one["label"] for one in answer["top"]] == sorted(
        LABELS, key=lambda label: -next(one["probability"] for one in answer["top"] if one["label"] == label)
    )


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/v1/predict?topk=2", "Did you mean 'top_k'?"),
        ("/v1/predict?top_k=0", "top_k: '0' is no whole number from 1 to 999999999"),
        ("/v1/predict?top_k=1&top_k=2", "top_k: is there twice"),
        ("/v1/predict?attention=yes", "neither true nor false"),
        ("/v1/predict?nearest=21", "nearest: '21' is no whole number from 0 to 20"),
        ("/v1/predict?nearest=3", "knows no training pictures"),
        ("/v1/embed?top_k=3", "there is no such option"),
    ],
)
def test_an_option_that_is_wrong_is_named(server: Server, pictures: list[Path], path: str, said: str) -> None:
    answer = server.post(path, pictures[0].read_bytes())
    assert answer.status == 400
    assert said in answer.json()["error"]["message"]


def test_what_is_no_number_is_told_so(bundle: str) -> None:
    with Events() as events:
        model = load_served_model(ServeConfig(model=bundle), events)
    good, bad = (Reply(np.full(4, value, np.float32), np.full(48, value, np.float32), None) for value in (0.0, np.nan))
    answered, refused = model.predictions(["a.png", "b.png"], [good, bad], 1, 0)
    assert (answered["label"], answered["error"]) == (LABELS[0], None)
    assert refused == Prediction("b.png", error=f"b.png: {NOT_FINITE}").to_json()


def test_more_than_may_wait_is_told_to_come_again(start_server: Callable[..., Server], pictures: list[Path]) -> None:
    server = start_server(queue_size=2, max_pictures=2)
    server.wait_until_ready()
    data = pictures[0].read_bytes()

    def ask(_: int) -> Answer:
        return server.post("/v1/predict?attention=true", data)

    with ThreadPoolExecutor(24) as clients:
        answers = list(clients.map(ask, range(96)))
    assert {answer.status for answer in answers} == {200, 429}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers if answer.status == 429)
    assert server.post("/v1/predict", data).status == 200


def test_it_says_that_it_loads_and_then_that_it_is_ready(start_server: Callable[..., Server]) -> None:
    server = start_server()
    early = server.get("/readyz")
    assert early.status in (200, 503)
    assert server.get("/livez").status == 200
    if early.status == 503:
        assert early.json()["error"]["code"] == "loading"
    server.wait_until_ready()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_was_asked_is_answered_before_it_ends(
    start_server: Callable[..., Server], pictures: list[Path], number: signal.Signals
) -> None:
    server = start_server(batch_size=1)
    server.wait_until_ready()
    body, kind = form_of([(f"{n}.jpg", pictures[0].read_bytes()) for n in range(64)])
    answers: list[Answer] = []
    asking = threading.Thread(target=lambda: answers.append(server.post("/v1/predict", body, kind)))
    asking.start()
    while b"vitrail_waiting_pictures 64.0" not in server.get("/metrics").body and not answers:
        pass
    server.process.send_signal(number)
    asking.join()
    assert answers[0].status == 200
    assert len(answers[0].json()["predictions"]) == 64
    assert server.process.wait(timeout=60) == 0


def test_a_model_that_is_none_ends_the_server_with_a_sentence(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vitrail", "serve", str(tmp_path / "nothing"), "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    assert "no such file or folder" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_named(server: Server, bundle: str) -> None:
    command = [sys.executable, "-m", "vitrail", "serve", bundle, "--port", str(server.port)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
    assert f"--port {server.port}: cannot listen there" in done.stderr


def test_counts_are_kept(server: Server, pictures: list[Path]) -> None:
    server.post("/v1/predict", pictures[0].read_bytes())
    text = server.get("/metrics").body.decode()
    assert 'vitrail_requests_total{route="/v1/predict",status="200"}' in text
    assert "vitrail_batch_pictures_bucket" in text
    assert "vitrail_body_bytes 0.0" in text


def test_small_answers_are_sent_at_once(bundle: str) -> None:
    with contextlib.closing(bind(ServeConfig(model=bundle, port=0))) as bound:
        # What asyncio looks at before it turns off Nagle's algorithm.
        assert bound.proto == socket.IPPROTO_TCP
