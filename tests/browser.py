"""A real browser for the tests of pages, where there is one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")


def barriers(page: Any) -> list[str]:
    """What keeps people who do not see or point from using a page, as far as axe-core finds it, in light and dark."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    found = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for rule in axe.Axe().run(page).response["violations"]:
            found += [f"{scheme}: {rule['help']}: {node['html'][:200]}" for node in rule["nodes"]]
    return found


@contextmanager
def browser() -> Iterator[Any]:
    """Playwright's `Browser`; the test is skipped where Playwright or Chromium is not installed."""
    api = pytest.importorskip("playwright.sync_api", reason="Playwright, which drives a browser, is not installed")
    path = next((found for name in _NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no browser to look at pages with: none of {', '.join(_NAMES)} is on the PATH")
    with api.sync_playwright() as driver:
        # No sandbox: tests may run as root in a container, and look at nothing but pages of their own.
        found = driver.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        try:
            yield found
        finally:
            found.close()
