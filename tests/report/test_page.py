from __future__ import annotations

import base64
import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from tests.browser import barriers, browser

from vitrail.errors import RunError
from vitrail.evaluators.comparison import compare
from vitrail.evaluators.evaluation import evaluate
from vitrail.report.data import DataFinding, Floor, HeadDistances, Mistake, ReportData, Thumbnail
from vitrail.report.page import render_report, write_report

HOSTILE = (
    "<script>alert(1)</script>",
    "\"quoted\" & 'single'",
    "new\nline\x1b[31m",
    "\u202ertl override",
    "ملابس عربية",
    "x" * 120,
)
VOID = {"meta", "img", "rect", "line", "circle", "polyline", "br"}


class Page(HTMLParser):
    """What a browser sees: every element with its attributes, the text, and whether the elements are nested well."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [key for key, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> repeats an attribute"
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID and not (self.get_starttag_text() or "").endswith("/>"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def _report(classes: tuple[str, ...] = ("cat", "dog", "fox", "owl", "hen", "bee"), num: int = 120) -> ReportData:
    generator = np.random.default_rng(5)
    labels = generator.integers(0, len(classes) - 1, num)  # the last class has no test pictures
    probabilities = generator.dirichlet(np.ones(len(classes)), num)
    probabilities[np.arange(num), np.where(np.arange(num) % 5, labels, 1)] += 0.8
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    test = evaluate(labels, classes, probabilities=probabilities)
    majority = np.zeros(num, dtype=np.int64)
    floor = Floor(
        f"always '{classes[0]}'",
        evaluate(labels, classes, predicted=majority),
        compare(probabilities.argmax(axis=1) == labels, majority == labels),
    )
    pixels = generator.integers(0, 255, (90, 120, 3), dtype=np.uint8)
    history: list[dict[str, float]] = []
    for step in range(1, 301):
        history.append({"step": step, "epoch": step / 30, "loss": 2 / step**0.5, "learning_rate": 1e-3 * step})
        if step % 30 == 0:
            history.append({"step": step, "validation_accuracy": min(0.9, step / 300)})
    return ReportData(
        title=classes[0],
        classes=classes,
        test=test,
        floors=[floor],
        split_counts={"train": [40] * len(classes), "validation": [9] * len(classes), "test": [20] * len(classes)},
        findings=[
            DataFinding("note", f"odd name: {classes[0]}"),
            DataFinding("warning", "broken", [[Thumbnail(f"{classes[1]}/a.jpg", None, classes[2])]], num_groups=9),
            DataFinding("error", "copies", [[Thumbnail("a.jpg", pixels), Thumbnail("b.jpg", pixels[:8, :8, 0])]]),
        ],
        history=history,
        best_step=270,
        mistakes=[Mistake(f"{name}/1.jpg", name, classes[1], 0.999, pixels, pixels[:60, :60]) for name in classes],
        distances=HeadDistances(generator.uniform(0, 60, (4, 3)), 52.5, "how far.", 128),
        recipe="small_photos",
        recipe_reason=f"of {classes[0]}",
        advice=[f"add pictures of {classes[1]}"],
        config={"data": {"source": classes[0]}},
        command=f"vitrail fit '{classes[0]}'",
        run_folder=f"runs/{classes[0]}",
        environment={"torch": "2.14.1"},
        durations={"training": 61.0},
        model="ViT",
        num_parameters=1_000_000,
    )


def test_the_page_is_one_file_that_loads_and_runs_nothing() -> None:
    page = render_report(_report())
    parsed = Page(page)
    assert "script" not in {tag for tag, _ in parsed.elements}
    assert "link" not in {tag for tag, _ in parsed.elements}
    assert not [key for _, attributes in parsed.elements for key in attributes if key.startswith("on")]
    assert all(image["src"].startswith("data:image/") for image in parsed.all("img"))
    assert all(link["href"].startswith(("#", "data:text/csv;base64,")) for link in parsed.all("a"))
    assert not re.search(r"url\(|@import|https?:", page)
    policies = [meta for meta in parsed.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policies[0]["content"].startswith("default-src 'none'; img-src data:;")


def test_every_link_of_the_page_leads_to_a_section() -> None:
    parsed = Page(render_report(_report()))
    anchors = {attributes.get("id") for _, attributes in parsed.elements}
    links = [link["href"] for link in parsed.all("a") if "download" not in link]
    assert {link[1:] for link in links} <= anchors
    assert len(links) == 8


def test_nothing_keeps_anyone_out(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(render_report(_report()), encoding="utf-8")
    with browser() as chromium:
        page = chromium.new_page()
        page.goto(path.as_uri())
        assert barriers(page) == []


def test_names_are_text_whatever_they_hold() -> None:
    plain, hostile = Page(render_report(_report())), Page(render_report(_report(HOSTILE)))
    assert [tag for tag, _ in hostile.elements] == [tag for tag, _ in plain.elements]
    assert "<script>alert(1)</script>" in hostile.text
    assert "\"quoted\" & 'single'" in hostile.text
    assert "ملابس عربية" in hostile.text
    assert "new\\nline\\x1b[31m" in hostile.text
    for character in ("\u202e", "\x1b"):
        assert character not in hostile.text


def test_the_same_data_gives_the_same_bytes() -> None:
    assert render_report(_report()) == render_report(_report())


def test_every_picture_plot_and_table_can_be_read_aloud() -> None:
    parsed = Page(render_report(_report()))
    assert all(image["alt"] for image in parsed.all("img"))
    assert all(plot.get("aria-label") or plot.get("aria-hidden") for plot in parsed.all("svg"))
    assert all(cell.get("scope") in ("row", "col") for cell in parsed.all("th"))
    assert parsed.all("html")[0]["lang"] == "en"
    assert any(meta.get("name") == "viewport" for meta in parsed.all("meta"))


def test_the_opening_says_how_good_how_sure_and_against_what() -> None:
    report = _report()
    text = Page(render_report(report)).text
    assert f"{100 * report.test.accuracy:.1f}\u00a0%" in text
    assert "with 95\u00a0% confidence" in text
    assert "always 'cat'" in text
    assert "Training beat the floor" in text
    assert "What would help" in text


@pytest.mark.parametrize(
    ("model", "floor", "badge"),
    [(90, 30, "Beats the floor"), (40, 38, "No clear difference from the floor"), (20, 80, "Does not beat the floor")],
)
def test_the_verdict_is_plain(model: int, floor: int, badge: str) -> None:
    labels = np.zeros(120, dtype=np.int64)
    ours, theirs = (np.arange(120) >= right for right in (model, floor))
    report = ReportData(
        "pets",
        ("cat", "dog"),
        test=evaluate(labels, ("cat", "dog"), predicted=ours.astype(np.int64)),
        floors=[
            Floor(
                "ridge on pixels",
                evaluate(labels, ("cat", "dog"), predicted=theirs.astype(np.int64)),
                compare(~ours, ~theirs),
            )
        ],
    )
    assert badge in Page(render_report(report)).text


def test_a_class_without_pictures_is_said_so_and_not_given_a_zero() -> None:
    page = render_report(_report())
    row = page[page.index('<th scope="row"><bdi>bee</bdi></th><td>0</td>') :]
    assert row[: row.index("</tr>")].endswith('class="none">no pictures in the test split</td>')
    assert "nan" not in Page(page).text.lower().split()


def test_a_mistake_stands_beside_what_the_model_saw_of_it_where_that_is_known() -> None:
    report = _report()
    parsed = Page(render_report(report))
    own, seen = ([image for image in parsed.all("img") if text in image["alt"]] for text in (", called", "came from"))
    assert len(own) == len(seen) == len(report.mistakes)
    assert "attention rollout" in parsed.text
    without = [dataclasses.replace(mistake, rollout=None) for mistake in report.mistakes]
    parsed = Page(render_report(dataclasses.replace(report, mistakes=[report.mistakes[0], *without[1:]])))
    assert len([image for image in parsed.all("img") if "came from" in image["alt"]]) == 1
    page = render_report(dataclasses.replace(report, mistakes=without))
    assert "attention rollout" not in page
    assert 'class="frames"' not in page


@pytest.mark.parametrize(("num", "said"), [(128, "and so does this"), (40, "this over 40")])
def test_the_distances_of_heads_are_drawn_with_their_definition_and_can_be_taken_along(num: int, said: str) -> None:
    pixels = np.array([[0.0, 12.5], [60.0, 31.0], [55.0, 2.0]])
    report = dataclasses.replace(_report(), distances=HeadDistances(pixels, 40.0, "how far a head looks.", num))
    page = render_report(report)
    parsed = Page(page)
    assert f"how far a head looks. The paper averages over 128 pictures, {said}." in parsed.text
    [plot] = [plot for plot in parsed.all("svg") if "attention distance" in plot.get("aria-label", "")]
    assert "2 heads in each of 3 layers, 0.0 to 60.0 pixels; the dashed line is 40.0" in plot["aria-label"]
    dots = page[page.index('aria-label="Mean attention') :].split("</svg>")[0]
    at = [(float(x), float(y)) for x, y in re.findall(r'<circle[^>]* cx="([\d.]+)" cy="([\d.]+)"', dots)]
    assert [x for x, _ in at] == sorted(x for x, _ in at)
    assert np.argsort([y for _, y in at], kind="stable").tolist() == np.argsort(-pixels.ravel(), kind="stable").tolist()
    [table] = [link["href"] for link in parsed.all("a") if link.get("download") == "distance.csv"]
    rows = base64.b64decode(table.partition(",")[2]).decode().split()
    assert [float(row.split(",")[2]) for row in rows[1:]] == pixels.ravel().tolist()


def test_what_is_not_known_is_left_out() -> None:
    classes = ("cat", "dog")
    labels = np.array([0, 1, 0], dtype=np.int64)
    bare = ReportData("tiny", classes, evaluate(labels, classes, predicted=labels))
    parsed = Page(render_report(bare))
    assert [link["href"] for link in parsed.all("a")] == ["#classes"]
    assert "only 3 pictures" in parsed.text
    nothing = ReportData("none", classes, evaluate(labels[:0], classes, predicted=labels[:0]))
    assert "no test pictures" in Page(render_report(nothing)).text


def test_a_thousand_classes_make_a_page_of_bearable_size() -> None:
    report = _report(tuple(f"class {index:04d}" for index in range(1000)), num=3000)
    report = dataclasses.replace(report, mistakes=report.mistakes[:24])
    page = render_report(report)
    assert len(page) < 1_500_000
    assert "Most frequent confusions" in page
    assert 'class="matrix"' not in page


def test_gaps_and_non_numbers_in_the_history_are_no_trouble() -> None:
    history = [{"step": 1, "loss": float("nan")}, {"step": 2, "loss": 1.0}, {"step": 3, "validation_accuracy": 0.5}]
    page = render_report(dataclasses.replace(_report(), history=history, best_step=None))
    assert "Training loss" in page
    assert "nan" not in page[page.index("Training loss") :].split("</figure>")[0]


def test_the_page_is_written_and_a_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    write_report(_report(), tmp_path / "report.html")
    assert (tmp_path / "report.html").read_bytes().decode("utf-8") == render_report(_report())
    with pytest.raises(RunError, match=r"gone.*cannot be written"):
        write_report(_report(), tmp_path / "gone" / "report.html")
