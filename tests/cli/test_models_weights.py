from __future__ import annotations

import json
import subprocess
import sys

import pytest

from vitrail.cli.main import main
from vitrail.weights.catalog import CATALOG


@pytest.mark.parametrize("columns", [40, 80, 120, 200])
def test_the_list_fits_the_terminal_and_ends_with_how_to_use_it(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["models", "--weights"]) == 0
    lines = capsys.readouterr().out.splitlines()
    longest_name = max(map(len, CATALOG))
    assert max(map(len, lines)) <= max(columns, longest_name)
    text = " ".join(" ".join(lines).split())
    assert "vitrail fit PHOTOS --weights NAME" in text
    for entry in CATALOG.values():
        assert entry.name in text
        assert entry.trained_on in text


def test_a_program_reads_one_line_for_each(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert main(["models", "--weights", "dinov2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    wanted = [name for name in CATALOG if "dinov2" in name]
    assert [line.split()[0] for line in lines[1 : lines.index("")]] == wanted
    assert all("apache-2.0" in line and "518" in line for line in lines[1 : lines.index("")])


def test_json_has_everything_that_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--weights", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list(CATALOG)
    row = next(row for row in rows if row["name"] == "vit_b_16.torchvision")
    assert (row["sha256"], row["licence"], row["accuracy"]) == ("c867db91", None, 81.072)


@pytest.mark.parametrize("part", ["DINO", "google", "S/16", "instagram"])
def test_weights_are_found_by_what_they_are_and_where_they_come_from(
    part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "--weights", part, "--json"]) == 0
    assert 0 < len(json.loads(capsys.readouterr().out)) < len(CATALOG)


def test_a_name_that_is_not_there_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--weights", "vit_smal_patch16_224.augreg_in21k"]) != 0
    assert "Did you mean 'vit_small_patch16_224.augreg_in21k'" in capsys.readouterr().err


def test_listing_weights_imports_no_torch() -> None:
    code = (
        "import sys; from vitrail.cli.main import main; main(['models', '--weights']); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False).returncode == 0
