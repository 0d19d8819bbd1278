"""What run_notebook.py does to the outputs before it saves them."""

import base64
import io

import numpy as np
import pytest
from nbformat.v4 import new_output
from PIL import Image
from run_notebook import clean_outputs, compress_picture


@pytest.mark.parametrize("alpha", [255, 100])
def test_compress_picture_keeps_every_pixel_within_two_levels(rng, alpha):
    pixels = rng.integers(0, 256, size=(20, 30, 4)).astype(np.uint8)
    pixels[..., 3] = alpha
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png", compress_level=1)
    before = base64.b64encode(buffer.getvalue()).decode()
    after = compress_picture(before)
    kept = Image.open(io.BytesIO(base64.b64decode(after))).convert("RGBA")
    assert np.abs(np.subtract(kept, pixels, dtype=float)).max() <= 2
    assert len(after) < 0.9 * len(before)


def test_clean_outputs_keeps_what_a_reader_needs():
    outputs = [
        new_output("stream", name="stderr", text="oneDNN"),
        new_output("stream", name="stdout", text="Epoch 1"),
        new_output("display_data", data={"text/plain": ""}),
        new_output("stream", name="stdout", text="/2\n"),
        new_output("display_data", data={"text/plain": "<Figure>"}),
        new_output("stream", name="stdout", text="Epoch 2/2\n"),
    ]
    kept = [o.get("text") or o.data["text/plain"] for o in clean_outputs(outputs)]
    assert kept == ["Epoch 1/2\n", "<Figure>", "Epoch 2/2\n"]
