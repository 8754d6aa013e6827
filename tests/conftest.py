"""Keeps what the tests leave behind out of the home of whoever runs them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def _cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before = os.environ.get("VITRAIL_CACHE")
    os.environ["VITRAIL_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    os.environ.pop("VITRAIL_CACHE")
    if before is not None:
        os.environ["VITRAIL_CACHE"] = before
