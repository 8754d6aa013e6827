from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from vitrail.report.markup import escape, name, picture


def _decoded(markup: str) -> Image.Image:
    found = re.search(r"base64,([^\"]+)", markup)
    assert found is not None
    return Image.open(io.BytesIO(base64.b64decode(found[1])))


def test_small_pictures_stay_exact() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    markup = picture(pixels, "a digit", 224)
    assert 'class="pixels"' in markup
    np.testing.assert_array_equal(np.asarray(_decoded(markup)), pixels)


def test_large_pictures_are_shrunk_and_keep_their_shape() -> None:
    markup = picture(np.zeros((600, 900, 3), dtype=np.uint8), "night", 224)
    assert _decoded(markup).size == (224, 149)
    assert 'width="224" height="149"' in markup


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 1), (20, 30, 3)])
def test_grey_and_colour_arrays_are_shown(shape: tuple[int, ...]) -> None:
    assert _decoded(picture(np.full(shape, 90, dtype=np.uint8), "", 64)).size == (30, 20)


def test_bytes_of_a_png_are_shown_and_other_bytes_leave_a_blank() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (5, 4)).save(buffer, "PNG")
    assert _decoded(picture(buffer.getvalue(), "", 64)).size == (5, 4)
    for broken in (b"", b"no picture", buffer.getvalue()[:40], None):
        assert "no picture" in picture(broken, "x", 64)


def test_alternative_texts_cannot_leave_their_attribute() -> None:
    assert 'alt="&quot; onerror=&quot;x"' in picture(np.zeros((4, 4), dtype=np.uint8), '" onerror="x', 64)


def test_text_is_escaped_and_names_keep_their_direction_to_themselves() -> None:
    assert escape("<b>&\"'\t\u202e\u00a0é") == "&lt;b&gt;&amp;&quot;&#x27;\\t\\u202e\u00a0é"
    assert name("a<b") == "<bdi>a&lt;b</bdi>"
