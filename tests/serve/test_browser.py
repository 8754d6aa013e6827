"""The page of `vitrail serve` in a real browser: what people drop into it, and what they read."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.browser import barriers, browser
from tests.tasks.test_nearest import config_of, do_train, write_photos

from vitrail.cli.main import main
from vitrail.tasks.track_record import read_track_record

from .conftest import TOKEN, Server
from .opened_page import (
    NBSP,
    PICTURES,
    Page,
    Served,
    answer_of,
    from_base64,
    in_words,
    is_shaded,
    plain_pixels,
    write_pictures,
)

DEPTH = 3
# The browser's own lines about answers that are errors; no script writes them.
ERRORS = tuple(f"Failed to load resource: the server responded with a status of {status}" for status in (422, 429, 503))


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def served(chromium: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A run of a tiny network, served; made only where there is a browser."""
    pytest.importorskip("uvicorn", reason="the server's packages are not installed: pip install 'vitrail[serve]'")
    folder = tmp_path_factory.mktemp("page")
    write_photos(folder / "training")
    config = config_of(folder / "training")
    run = do_train(replace(config, model=replace(config.model, patch_size=4, depth=DEPTH)), folder / "run").folder
    write_pictures(folder / "photos")
    command = [sys.executable, "-m", "vitrail", "serve", str(run), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().split()[0]
            Server(server, address.removeprefix("http://")).wait_until_ready()
            yield Served(address, run, folder / "photos")
        finally:
            server.terminate()


@pytest.fixture
def page(chromium: Any, served: Served) -> Iterator[Page]:
    """The page, freshly opened. Errors in its console and requests to elsewhere fail the test."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    try:
        opened = Page(context.new_page(), served)
        yield opened
        assert [said for said in opened.complaints if not said.startswith(ERRORS)] == []
        assert [url for url in opened.requests if not url.startswith((f"{served.address}/", "data:", "blob:"))] == []
    finally:
        context.close()


@pytest.mark.parametrize("way", ["drop", "paste", "pick"])
def test_a_picture_gets_the_answer_of_predict(page: Page, way: str) -> None:
    if way == "pick":
        page.pick("two.jpg")
    else:
        page.give(way, "two.jpg")
    page.wait_for_answer("two.jpg")
    answer = answer_of(page.served, "two.jpg")
    assert answer.label is not None
    assert answer.probability is not None
    assert page.text("#announcer") == f"two.jpg: {answer.label}, {in_words(answer.probability)}"
    assert page.text("#answer-title") == "two.jpg"
    assert page.text("#says-label") == answer.label
    assert page.text("#says-probability") == in_words(answer.probability)
    rows = [f"{label} {in_words(probability)}".replace(NBSP, " ") for label, probability in answer.top]
    assert page.texts("#classes tr") == rows
    record = read_track_record(str(page.served.run))
    assert record is not None
    like = record.of(answer.probability)
    assert page.text("#sure-text").startswith(f"Of the {like.pictures} test pictures that it was about as sure of (")
    assert f", {like.right} were right (" in page.text("#sure-text")


def test_the_card_says_what_the_run_measured(page: Page) -> None:
    config = json.loads((page.served.run / "bundle" / "config.json").read_bytes())
    assert page.text("#title") == config["name"]
    assert page.page.title().startswith(config["name"])
    accuracy = config["metrics"]["test_accuracy"]
    assert f"{100 * accuracy:.1f}{NBSP}%" in page.text("#measured")
    facts = dict(zip(page.texts("#facts dt"), page.texts("#facts dd")))
    assert facts["Classes"] == "3"
    assert facts["Data fingerprint"] == config["provenance"]["data_fingerprint"]
    assert facts["Weights"] == f"version {config['files']['model.safetensors'][:12]}"
    assert "Licence" not in facts  # there is none, and nothing is said of it
    assert page.served.address in page.text("#curl")


def test_sliders_show_the_maps_of_the_answer(page: Page) -> None:
    with page.page.expect_response("**/v1/predict*") as waiting:
        page.give("drop", "one.png")
    attention = waiting.value.json()["predictions"][0]["attention"]
    page.wait_for_answer("one.png")
    heads, (rows, columns) = attention["heads"], attention["grid"]
    rollout = from_base64(attention["rollout"]).reshape(DEPTH, rows, columns)
    maps = from_base64(attention["maps"]).reshape(DEPTH, heads, rows, columns)
    plain = plain_pixels(page)
    page.wait(lambda: is_shaded(page.pixels(), plain, rollout[DEPTH - 1]))
    assert page.text("#depth-said") == f"through {DEPTH} of {DEPTH} blocks"

    seen = [page.pixels()]
    page.page.locator("#depth").focus()
    page.page.keyboard.press("ArrowLeft")
    assert page.text("#depth-said") == f"through {DEPTH - 1} of {DEPTH} blocks"
    page.wait(lambda: is_shaded(page.pixels(), plain, rollout[DEPTH - 2]) and is_new(page.pixels(), seen))
    page.page.locator("#head").focus()
    page.page.keyboard.press("End")
    assert page.text("#head-said") == f"head {heads} of {heads}"
    assert page.page.locator("#depth").get_attribute("aria-valuetext") == f"block {DEPTH - 1} of {DEPTH}"
    page.wait(lambda: is_shaded(page.pixels(), plain, maps[DEPTH - 2, heads - 1]) and is_new(page.pixels(), seen))
    # What is chosen stays chosen for the next picture.
    page.give("drop", "five.png")
    page.wait_for_answer("five.png")
    assert page.text("#head-said") == f"head {heads} of {heads}"
    assert page.text("#depth-said") == f"block {DEPTH - 1} of {DEPTH}"


def is_new(pixels: Any, seen: list[Any]) -> bool:
    """Whether they are none of those seen; they are kept there then."""
    if any((pixels == one).all() for one in seen):
        return False
    seen.append(pixels)
    return True


def test_training_pictures_that_are_alike_stand_below(page: Page) -> None:
    with page.page.expect_response("**/v1/predict*") as waiting:
        page.give("drop", "six.jpg")
    nearest = waiting.value.json()["predictions"][0]["nearest"]
    page.wait_for_answer("six.jpg")
    assert len(nearest) == 6
    shown = page.texts("#nearest-list li")
    assert [text.split()[0] for text in shown] == [one["label"] for one in nearest]
    assert [text.split()[1] for text in shown] == [f"{one['similarity']:.2f}" for one in nearest]
    widths = page.page.locator("#nearest-list img").evaluate_all("images => images.map((one) => one.naturalWidth)")
    assert min(widths) > 0


def test_a_broken_picture_says_why(page: Page) -> None:
    page.give("drop", "broken.jpg")
    page.wait_for_answer("broken.jpg")
    error = answer_of(page.served, "broken.jpg").error
    assert error is not None
    reason = error.removeprefix(f"{page.served.photos / 'broken.jpg'}: ")
    assert page.text("#trouble-text") == f"This picture cannot be read: {reason}."
    assert not page.is_shown("#says")
    assert not page.is_shown("#attention")
    assert not page.is_shown("#again")  # it would not help


def test_what_is_no_picture_is_not_sent(page: Page) -> None:
    page.give("drop", "notes.txt")
    page.page.locator("#refused li").wait_for()
    assert page.text("#refused").startswith("notes.txt: not sent, because it is no picture")
    assert not page.is_shown("#answer")
    assert not any("/v1/predict" in url for url in page.requests)


def test_pictures_of_the_tab_can_be_gone_back_to_and_forgotten(page: Page) -> None:
    page.give("drop", "one.png", "two.jpg")
    page.wait_for_answer("two.jpg")
    page.give("drop", "broken.jpg")
    page.wait_for_answer("broken.jpg")
    thumbs = page.page.locator("#past-list button")
    names = [title.partition(": ")[0] for title in thumbs.evaluate_all("all => all.map((one) => one.title)")]
    assert names == ["broken.jpg", "one.png", "two.jpg"]
    thumbs.nth(2).focus()
    page.page.keyboard.press("Enter")
    assert page.text("#answer-title") == "two.jpg"
    assert page.text("#says-label") == answer_of(page.served, "two.jpg").label
    assert [one.get_attribute("aria-current") for one in thumbs.all()] == ["false", "false", "true"]
    page.page.locator("#forget").click()
    assert thumbs.count() == 0
    assert not page.is_shown("#answer")


def test_many_files_give_the_csv_of_the_command_line(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["broken.jpg", *reversed(PICTURES), 'also "broken".jpg']
    assert len(names) > 8  # two requests
    page.pick(*names)
    page.page.locator("#running").wait_for(state="hidden")
    assert page.text("#many-summary") == f"{len(PICTURES)} pictures answered, 2 without an answer."
    with page.page.expect_download() as waiting:
        page.page.locator("#download").click()
    assert waiting.value.suggested_filename == "predictions.csv"
    waiting.value.save_as(tmp_path / "predictions.csv")
    monkeypatch.chdir(page.served.photos)
    assert main(["predict", str(page.served.run), *names, "--csv"]) == 1  # two are broken
    assert (tmp_path / "predictions.csv").read_bytes().decode() == capsys.readouterr().out


def test_a_folder_that_is_dropped_gives_the_pictures_in_it(page: Page) -> None:
    # Scripts cannot make a folder to drop: this is the browser's own drag.
    session = page.page.context.new_cdp_session(page.page)
    data = {"items": [], "files": [str(page.served.photos)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "x": 300, "y": 300, "data": data})
    page.wait(lambda: page.text("#many-summary") == f"{len(PICTURES)} pictures answered, 2 without an answer.")
    assert sorted(page.texts("#rows th")) == sorted([*PICTURES, "broken.jpg", 'also "broken".jpg'])


def test_a_row_of_many_can_be_sorted_and_opened(page: Page) -> None:
    page.give("drop", "two.jpg", "one.png", "five.png", "six.jpg", "notes.txt", "three.webp")
    page.page.locator("#running").wait_for(state="hidden")
    files = "#rows th"
    assert page.texts(files) == ["two.jpg", "one.png", "five.png", "six.jpg", "notes.txt", "three.webp"]
    assert page.texts("#rows td.bad")[0].startswith("not sent")
    page.page.locator("button.sort[data-by=file]").click()
    assert page.texts(files) == ["five.png", "notes.txt", "one.png", "six.jpg", "three.webp", "two.jpg"]
    page.page.locator("button.sort[data-by=probability]").click()
    sure = {name: answer_of(page.served, name).probability or 0.0 for name in page.texts(files) if name != "notes.txt"}
    assert page.texts(files) == [*sorted(sure, key=lambda name: sure[name]), "notes.txt"]
    page.page.get_by_role("button", name="one.png").click()
    page.wait_for_answer("one.png")
    assert page.text("#says-label") == answer_of(page.served, "one.png").label
    assert page.is_shown("#attention")
    assert page.is_shown("#many")


def test_a_busy_server_is_asked_again(page: Page) -> None:
    error = {"error": {"code": "busy", "message": "128 pictures are waiting already", "request_id": "1"}}
    page.page.route(
        "**/v1/predict*",
        lambda route: route.fulfill(status=429, headers={"Retry-After": "1"}, json=error),
        times=1,
    )
    page.give("drop", "one.png")
    page.wait_for_answer("one.png")
    assert page.text("#says-label") == answer_of(page.served, "one.png").label
    assert sum("/v1/predict" in url for url in page.requests) == 2


def test_a_failure_of_the_server_can_be_tried_again(page: Page) -> None:
    page.page.route("**/v1/predict*", lambda route: route.abort(), times=1)
    page.give("drop", "one.png")
    page.page.locator("#again").click()
    page.page.locator("#says").wait_for()
    assert page.text("#says-label") == answer_of(page.served, "one.png").label
    assert page.complaints.pop().startswith("Failed to load resource")


def test_many_files_can_be_cancelled(page: Page) -> None:
    held: list[Any] = []

    def hold(route: Any) -> None:
        held.append(route)  # and never answer it

    page.page.route("**/v1/predict*", hold)
    page.give("drop", *PICTURES)
    page.wait(lambda: bool(held))
    page.page.locator("#cancel").click()
    page.page.locator("#running").wait_for(state="hidden")
    assert page.text("#many-summary") == f"Cancelled: 0 pictures answered, {len(PICTURES)} without an answer."
    assert page.is_shown("#download")
    page.page.unroute("**/v1/predict*")
    page.give("drop", *PICTURES)
    page.wait(lambda: page.text("#many-summary") == f"{len(PICTURES)} pictures answered.")


def test_pictures_wait_for_a_model_that_is_loading(page: Page) -> None:
    error = {"error": {"code": "loading", "message": "the model is being loaded", "request_id": "1"}}
    page.page.route(
        "**/v1/model", lambda route: route.fulfill(status=503, headers={"Retry-After": "2"}, json=error), times=1
    )
    page.page.reload()
    page.page.locator("#state").wait_for()
    assert "loading the model" in page.text("#state")
    page.give("drop", "one.png")
    page.wait_for_answer("one.png")
    assert not page.is_shown("#state")
    assert page.text("#says-label") == answer_of(page.served, "one.png").label


@pytest.mark.parametrize("width", [360, 1400])
def test_nothing_sticks_out_at_the_side(page: Page, width: int) -> None:
    page.page.set_viewport_size({"width": width, "height": 800})
    page.give("drop", *["two.jpg", "one.png", "five.png", "six.jpg", 'also "broken".jpg'])
    page.page.locator("#running").wait_for(state="hidden")
    page.page.get_by_role("button", name="one.png").click()
    page.wait_for_answer("one.png")
    assert page.page.evaluate("document.documentElement.scrollWidth") <= width


def test_nothing_keeps_anyone_out(page: Page) -> None:
    assert barriers(page.page) == []
    page.give("drop", "one.png", "broken.jpg", "notes.txt")
    page.wait_for_answer("broken.jpg")
    assert barriers(page.page) == []
    page.give("drop", *PICTURES)
    page.page.locator("#running").wait_for(state="hidden")
    assert barriers(page.page) == []


def test_the_picker_is_the_second_thing_the_keyboard_finds(page: Page) -> None:
    page.page.keyboard.press("Tab")
    page.page.keyboard.press("Tab")
    assert page.page.evaluate("document.activeElement.id") == "picker"


def test_a_person_signs_in_with_the_token(chromium: Any, guarded: Server) -> None:
    page = chromium.new_page()
    page.goto(f"http://{guarded.address}/")
    assert barriers(page) == []
    for token in ("not the token", TOKEN):
        page.get_by_label("Token").fill(token)
        page.get_by_role("button", name="Sign in").click()
        if token != TOKEN:
            assert page.get_by_role("alert").inner_text() == "That is not its token."
    page.locator("#model").wait_for()
    assert page.url == f"http://{guarded.address}/"
    page.close()
