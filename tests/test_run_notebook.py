"""What run_notebook.py does to the outputs before it saves them."""

import base64
import io

import nbformat
import numpy as np
import pytest
import run_notebook
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_notebook, new_output
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


def test_a_failed_run_keeps_neither_older_outputs_nor_their_hash(tmp_path, monkeypatch):
    stale = dict(outputs=[new_output("stream", text="Full run.")], execution_count=9)
    cells = [new_code_cell("print(1)", **stale), new_code_cell("1 / 0", **stale)]
    cells.append(new_code_cell("print(3)", **stale))
    notebook = new_notebook(cells=cells, metadata={"executed_code_sha256": "old"})
    monkeypatch.setattr(run_notebook, "NOTEBOOK", tmp_path / "source.ipynb")
    nbformat.write(notebook, run_notebook.NOTEBOOK)
    with pytest.raises(CellExecutionError):
        run_notebook.main(tmp_path / "out.ipynb")
    result = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    assert result.cells[0].outputs[0].text == "1\n"
    assert result.cells[2].outputs == [] and result.cells[2].execution_count is None
    assert "executed_code_sha256" not in result.metadata

    notebook.cells.pop(1)
    nbformat.write(notebook, run_notebook.NOTEBOOK)
    run_notebook.main(tmp_path / "out.ipynb")
    result = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    assert result.metadata["executed_code_sha256"] == run_notebook.code_hash(notebook)
