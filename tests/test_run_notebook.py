"""How run_notebook.py executes a notebook, and what it saves of it."""

import asyncio
import base64
import contextlib
import io
import os

import nbformat
import numpy as np
import pytest
import run_notebook
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image


def encode_png(pixels):
    """A PNG of an array `[H, W, 3 or 4]`, base64."""
    buffer = io.BytesIO()
    Image.fromarray(np.uint8(pixels)).save(buffer, "png")
    return base64.b64encode(buffer.getvalue()).decode()


BUNDLE = {"text/plain": "a title", "image/png": encode_png(np.zeros((2, 2, 3)))}
PICTURE = f"from IPython.display import display\ndisplay({BUNDLE}, raw=True)\n"
NOTE = "import sys\nprint('note', file=sys.stderr, flush=True)\n"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Function that executes cells in a kernel and returns what is saved of them.

    Each source is a cell tagged `fig` with outputs of an older run. `ending`: the
    error expected to end the run, whose result must have no hash.
    """
    monkeypatch.setattr(run_notebook, "NOTEBOOK", tmp_path / "source.ipynb")

    def execute(*sources, ending=None):
        stale = dict(outputs=[new_output("stream", text="Full run.")])
        stale |= dict(execution_count=9, metadata={"tags": ["fig"]})
        cells = [new_code_cell(source, **stale) for source in sources]
        notebook = new_notebook(cells=cells, metadata={"executed_code_sha256": "old"})
        nbformat.write(notebook, run_notebook.NOTEBOOK)
        with ending or contextlib.nullcontext():
            run_notebook.main(tmp_path / "out.ipynb")
        result = nbformat.read(tmp_path / "out.ipynb", as_version=4)
        expected = None if ending else run_notebook.code_hash(notebook)
        assert result.metadata.get("executed_code_sha256") == expected
        return result.cells

    return execute


def test_a_complete_run_is_stamped_printed_and_cleaned(run, capsys):
    source = f"print(1, flush=True)\n{NOTE}print(2)\n{PICTURE}print(3)"
    [cell, _] = run(source, "print('No flow chart: no dot')")
    outputs = [output.get("text") or output.data for output in cell.outputs]
    assert outputs == ["1\n2\n", BUNDLE, "3\n"]
    assert cell.execution_count == 1 and "1\n2\n" in capsys.readouterr().out


@pytest.mark.parametrize("alpha", [255, 100])
def test_drop_opacity_changes_no_pixel(rng, alpha):
    pixels = rng.integers(0, 256, size=(20, 30, 4))
    pixels[..., 3] = alpha
    before = encode_png(pixels)
    after = run_notebook.drop_opacity(before)
    picture = Image.open(io.BytesIO(base64.b64decode(after)))
    np.testing.assert_array_equal(picture.convert("RGBA"), pixels)
    assert (len(after) < len(before)) == (alpha == 255)


def test_a_failed_run_keeps_neither_older_outputs_nor_their_hash(run):
    cells = run("print(1)", "1 / 0", "3", ending=pytest.raises(CellExecutionError))
    assert cells[0].outputs[0].text == "1\n"
    assert cells[2].outputs == [] and cells[2].execution_count is None


def test_a_run_that_lost_a_picture_is_not_stamped(run):
    ending = pytest.raises(SystemExit, match=r"no picture in .*\[2\]")
    cells = run(PICTURE, "print(2)", ending=ending)
    assert cells[1].outputs[0].text == "2\n"


def test_runs_where_signals_cannot_be_handled_as_on_windows(run, monkeypatch):
    missing = asyncio.AbstractEventLoop.add_signal_handler  # raises NotImplementedError
    monkeypatch.setattr(asyncio.SelectorEventLoop, "add_signal_handler", missing)
    run(PICTURE)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_ctrl_c_ends_the_cell_and_keeps_what_was_run(run):
    press = "os.kill(os.getppid(), signal.SIGINT)"
    wait = f"import os, signal, time\nprint(1)\n{press}\ntime.sleep(60)"
    cells = run(wait, "print(2)", ending=pytest.raises(SystemExit, match="Ctrl-C"))
    assert cells[0].outputs[0].text == "1\n" and cells[1].outputs == []
