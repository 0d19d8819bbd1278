"""How run_notebook.py executes a notebook, and what it saves of it."""

import base64
import hashlib
import io
import re

import nbformat
import numpy as np
import pytest
import run_notebook
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image

# As TensorFlow 2.21 and, with a date, 2.20 write them.
NOTES = """WARNING: All log messages before absl::InitializeLog() is called are ...
I0000 00:00:1795902999.220476   16973 cpu_feature_guard.cc:227] This binary ...
To enable the following instructions: AVX2 AVX512F FMA, rebuild TensorFlow ...
2026-11-28 21:40:01.788122: E external/xla/cuda/cuda_platform.cc:51] failed call ...
"""


def encode_png(pixels):
    """A PNG of an array `[H, W, 3 or 4]`, base64."""
    buffer = io.BytesIO()
    Image.fromarray(np.uint8(pixels)).save(buffer, "png")
    return base64.b64encode(buffer.getvalue()).decode()


BLACK = run_notebook.shrink_picture(encode_png(np.zeros((2, 2, 3))))
BUNDLE = {"text/plain": "a title", "image/png": BLACK}
PICTURE = f"display({BUNDLE}, raw=True)\n"
NOTE = f"import sys\nprint({NOTES!r}, end='', file=sys.stderr, flush=True)\n"
WARN = "import warnings\nwarnings.warn('odd')\n"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Function that executes cells in a kernel; returns what it saved, and the error.

    Each source is a cell tagged `fig` with outputs of an older run.
    """
    monkeypatch.setattr(run_notebook, "NOTEBOOK", tmp_path / "source.ipynb")

    def execute(*sources):
        parts = dict(metadata={"tags": ["fig"]}, outputs=[new_output("stream")])
        cells = [new_code_cell(source, **parts) for source in sources]
        notebook = new_notebook(cells=cells, metadata={"executed_code_sha256": "old"})
        nbformat.write(notebook, run_notebook.NOTEBOOK)
        try:
            error = run_notebook.main(tmp_path / "out.ipynb")
        except (CellExecutionError, SystemExit) as caught:
            error = caught
        return nbformat.read(tmp_path / "out.ipynb", as_version=4), error

    return execute


def test_a_complete_run_is_stamped_printed_and_cleaned(run, capsys):
    source = f"print(1, flush=True)\n{NOTE}print(2)\n{PICTURE}print(3)"
    saved, error = run(source)
    outputs = [output.get("text") or output.data for output in saved.cells[0].outputs]
    assert outputs == ["1\n2\n", BUNDLE, "3\n"] and "1\n2\n" in capsys.readouterr().out
    stamp = hashlib.sha256(source.encode()).hexdigest()
    assert error is None and saved.metadata.executed_code_sha256 == stamp


def test_runs_that_lost_a_picture_or_warn_are_not_stamped(run):
    lost = f"{PICTURE}print('No flow charts: no dot')"
    logged = f"{PICTURE}print('WARNING:tensorflow:odd')"
    saved, error = run(PICTURE, "print(2)", lost, NOTE + WARN + PICTURE, logged)
    faults = "cell 2 lost .* cell 3 lost .* cell 4 has .* cell 5 has a warning"
    assert re.search(faults, str(error)) and "cell 1" not in str(error)
    assert re.match(r".*UserWarning: odd\n", saved.cells[3].outputs[-1].text)
    assert "executed_code_sha256" not in saved.metadata


def test_a_failed_run_keeps_neither_older_outputs_nor_their_hash(run):
    saved, error = run("print(1)", "1 / 0", "3")
    assert "ZeroDivisionError" in str(error)
    assert saved.cells[0].outputs[0].text == "1\n" and saved.cells[2].outputs == []
    assert "executed_code_sha256" not in saved.metadata


@pytest.mark.parametrize("colours", [2, 256])  # a palette, and none
def test_shrink_picture_changes_no_pixel(rng, colours):
    pixels = rng.integers(0, colours, size=(20, 30, 4))
    pixels[..., 3] = 255  # opaque, as figures are
    before = encode_png(pixels)
    after = run_notebook.shrink_picture(before)
    picture = Image.open(io.BytesIO(base64.b64decode(after)))
    np.testing.assert_array_equal(picture.convert("RGBA"), pixels)
    assert len(after) < len(before)
