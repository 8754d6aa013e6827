"""The frame that every page has: one self-contained HTML file that opens offline, in light and dark, on a wall or on a
phone."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

from vitrail.errors import RunError
from vitrail.report.markup import escape

# Nothing is fetched and nothing runs: a page holds names of classes and files, which others may have chosen. Where a
# page has a script, its hash is added, and still nothing else runs.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

PALETTE = Path(__file__).with_name("palette.css")
STYLE = Path(__file__).with_name("style.css")

_GLASS = (
    '<svg viewBox="0 0 26 26" aria-hidden="true">'
    '<rect x="1" y="1" width="11" height="15" rx="2" fill="var(--glass-1)"/>'
    '<rect x="14" y="1" width="11" height="8" rx="2" fill="var(--glass-3)"/>'
    '<rect x="14" y="11" width="11" height="14" rx="2" fill="var(--glass-4)"/>'
    '<rect x="1" y="18" width="5" height="7" rx="2" fill="var(--glass-2)"/>'
    '<rect x="8" y="18" width="4" height="7" rx="2" fill="var(--glass-5)"/></svg>'
)


def document(title: str, kind: str, header: str, main: str, script: str = "") -> str:
    """A whole page; the same parts give the same page.

    Args:
        title: of the window, as text; "Vitrail" and the kind follow.
        kind: of the page, in a word: "report".
        header, main: HTML. The header has the heading, and what stands below it.
        script: what makes the page easier to use; it has to say everything without.
    """
    policy, running = POLICY, "no script runs"
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
        policy = f"{POLICY}; script-src 'sha256-{digest}'"
        running = "and the one script that may run only draws what is in it"
    style = PALETTE.read_text(encoding="utf-8") + STYLE.read_text(encoding="utf-8")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>{escape(title)} \u2013 Vitrail {kind}</title>
<style>
{style}</style>
</head>
<body>
<header>
<div class="brand">{_GLASS}<span><b>Vitrail</b> {kind}</span></div>
{header}
</header>
<main>
{main}
</main>
<footer><p>Made by Vitrail. This page is one file: nothing is loaded, nothing is sent, {running}.</p></footer>
{f"<script>{script}</script>" if script else ""}</body>
</html>
"""


def in_sections(parts: Sequence[tuple[str, str, str]]) -> tuple[str, str]:
    """(anchor, title, HTML) of each section -> the links to those that have something in them, and their HTML."""
    shown = [(anchor, title, body) for anchor, title, body in parts if body]
    links = "".join(f'<a href="#{anchor}">{title}</a>' for anchor, title, _ in shown)
    bodies = "\n".join(
        f'<section id="{anchor}" aria-labelledby="{anchor}-title">'
        f'<h2 id="{anchor}-title">{title}</h2>\n{body}\n</section>'
        for anchor, title, body in shown
    )
    return f'<nav aria-label="Sections">{links}</nav>', bodies


def write_document(page: str, path: Path) -> None:
    """Write a page to `path`; raises RunError where that cannot be done."""
    try:
        path.write_text(page, encoding="utf-8", newline="\n")
    except OSError as error:
        raise RunError(f"{path}: the page cannot be written ({error.strerror}); make room and try again") from error
