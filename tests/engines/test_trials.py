from __future__ import annotations

from typing import Any

import pytest

from vitrail.engines import trials
from vitrail.storage import cache_folder


def asked(counts: list[int]) -> dict[str, Any]:
    def measure() -> dict[str, Any]:
        counts.append(1)
        return {"choice": "a", "seconds": {"a": 1.0}}

    return trials.remembered("attention", {"shape": [1, 2]}, measure)


def test_a_trial_is_made_once_and_again_on_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    assert asked(counts) == asked(counts) == {"choice": "a", "seconds": {"a": 1.0}}
    assert len(counts) == 1
    for part, value in {"cpu": "another", "torch": "9.9", "threads": 77}.items():
        other = {**trials.machine(), part: value}
        with monkeypatch.context() as patch:
            patch.setattr(trials, "machine", lambda other=other: other)
            asked(counts)
            asked(counts)
    assert len(counts) == 4
    asked(counts)
    assert len(counts) == 4


def test_a_damaged_memory_is_made_again() -> None:
    counts: list[int] = []
    asked(counts)
    (cache_folder("engines") / trials.FILE).write_text("{")
    asked(counts)
    asked(counts)
    assert len(counts) == 2


def test_where_nothing_can_be_kept_the_answer_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    cache_folder("engines").parent.mkdir(exist_ok=True)
    cache_folder("engines").write_text("a file where the folder should be")
    counts: list[int] = []
    asked(counts)
    asked(counts)
    assert len(counts) == 2
