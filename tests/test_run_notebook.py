"""What run_notebook.py does to the outputs before it saves them."""

import base64
import io

import numpy as np
import pytest
from PIL import Image
from run_notebook import compress_picture


@pytest.mark.parametrize("alpha", [255, 100])
def test_compress_picture_keeps_every_pixel(rng, alpha):
    pixels = rng.integers(0, 256, size=(20, 30, 4)).astype(np.uint8)
    pixels[..., 3] = alpha
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png", compress_level=1)
    before = base64.b64encode(buffer.getvalue()).decode()
    after = compress_picture(before)
    kept = Image.open(io.BytesIO(base64.b64decode(after))).convert("RGBA")
    np.testing.assert_array_equal(kept, pixels)
    assert len(after) <= len(before)
