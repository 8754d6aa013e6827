"""Where a person shows the token of a server that has one: a page without anything from elsewhere."""

from __future__ import annotations

import base64
import hashlib

COOKIE = "vitrail"
SIGN_IN_PATH = "/sign-in"

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.6 system-ui, sans-serif; max-width: 26rem; margin: 18vh auto 0; padding: 0 1.5rem; }
input, button { font: inherit; padding: .5rem .7rem; width: 100%; box-sizing: border-box; margin-top: .5rem; }
""".strip()


def sign_in_page(said: str = "") -> tuple[bytes, str]:
    """The page, and its content security policy. What is said stands above the form; it is not escaped."""
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )
    page = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sign in \u2013 Vitrail</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>Vitrail</h1>
<p>This server needs its token. Whoever started it was told it.</p>
{f'<p role="alert"><b>{said}</b></p>' if said else ""}
<form method="post" action="{SIGN_IN_PATH}">
<label>Token <input type="password" name="token" required autofocus autocomplete="current-password"></label>
<button>Sign in</button>
</form>
</main>
</body>
</html>
"""
    return page.encode(), policy
