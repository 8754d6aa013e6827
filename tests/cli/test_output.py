from __future__ import annotations

import io
import json
import sys

import pytest

from vitrail.cli.output import percent, write_columns, write_json, write_line


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_json_is_readable_by_a_program_whatever_the_names_and_the_encoding(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    names = {"plain": "été 日本 😀 \n\"'<>", "undecodable": "a\udcff.jpg", "control": "\x1b[0m"}
    write_json(names)
    sys.stdout.flush()
    assert json.loads(raw.getvalue().decode(encoding)) == names


def test_json_refuses_what_json_has_no_word_for() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json({"accuracy": float("nan")})


def test_columns_are_aligned_with_wide_letters_too(capsys: pytest.CaptureFixture[str]) -> None:
    write_columns([["class", "n"], ["日本", "1"], ["a\nb", "100"]], right=(1,))
    assert capsys.readouterr().out == "class    n\n日本     1\na\\nb   100\n"
    write_columns([])


def test_lines_for_people_do_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    write_line("\x1b[31mred")
    assert capsys.readouterr().out == "\\x1b[31mred\n"


def test_what_cannot_be_said_is_a_dash() -> None:
    assert (percent(0.8314), percent(None), percent(float("nan"))) == ("83.1 %", "-", "-")
