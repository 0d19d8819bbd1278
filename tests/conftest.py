"""What all tests share: the notebook, and its own functions to call.

The functions are not imported from a copy: the cells tagged `def` of the notebook
itself are executed in a fresh module. The environment variable HW3_NOTEBOOK names
another notebook file to test instead of the committed one.
"""

import linecache
import os
import pathlib
import types
from unittest import mock

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest

plt.switch_backend("Agg")
ROOT = pathlib.Path(__file__).resolve().parent.parent
NOTEBOOK = pathlib.Path(os.environ.get("HW3_NOTEBOOK", ROOT / "HW3_VAE.ipynb"))
SAVED = nbformat.read(NOTEBOOK, as_version=4)
CODE_CELLS = [cell for cell in SAVED.cells if cell.cell_type == "code"]
close = np.testing.assert_allclose


def pytest_configure():
    """Keep TensorFlow, and NumPy in the kernels, to one thread for each worker."""
    os.environ.update(OPENBLAS_NUM_THREADS="1", TF_NUM_INTRAOP_THREADS="1")


def load_notebook():
    """A module that holds what the notebook's `def` cells define."""
    cells = [cell for cell in CODE_CELLS if "def" in cell.metadata.get("tags", [])]
    source = "\n".join(cell.source for cell in cells)
    # AutoGraph and tracebacks look the source up by this name.
    linecache.cache["<notebook>"] = len(source), None, source.splitlines(True), ""
    module = types.ModuleType("notebook")
    with mock.patch.dict(os.environ, HW3_QUICK=""):  # 1 would cut data sets short
        exec(compile(source, "<notebook>", "exec"), vars(module))
    return module


def find_cell(text):
    """The one code cell that contains a text."""
    [cell] = [cell for cell in CODE_CELLS if text in cell.source]
    return cell


def printed(cell):
    """The text that a code cell printed."""
    return "".join(output.get("text", "") for output in cell.outputs)


def make_blobs(n, seed=0):
    """Images `[n, 8, 8, 1]` of two classes, left or right half bright; labels `[n]`."""
    labels = np.arange(n) % 2
    bright = np.arange(8)[:, None] // 4 == labels[:, None, None, None]
    images = 0.8 * bright + np.random.default_rng(seed).uniform(0, 0.2, (n, 8, 8, 1))
    return images.astype(np.float32), labels


def make_model(nb, kind="CVAE"):
    """A small model whose outputs are far from constant.

    At Keras's initialisation every mean, log variance and logit is close to 0, where
    many errors are invisible, so all weights are drawn anew.
    """
    model = getattr(nb, kind)(8, 1, latent_dim=3, filters=4)
    for variable in model.trainable_variables:
        scale = 1.5 / np.sqrt(np.prod(variable.shape[:-1]))
        variable.assign(scale * np.random.default_rng(1).normal(size=variable.shape))
    return model


@pytest.fixture(scope="session")
def nb():
    """The notebook's own functions, where TensorFlow sees two devices."""
    import tensorflow as tf

    two = [tf.config.LogicalDeviceConfiguration()] * 2
    [cpu] = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, two)
    return load_notebook()


@pytest.fixture
def figures(nb, monkeypatch):
    """What the notebook's functions show: pairs of Matplotlib figure and title."""
    shown = []
    monkeypatch.setattr(nb, "show_figure", lambda *pair: shown.append(pair))
    yield shown
    plt.close("all")


@pytest.fixture
def rng():
    return np.random.default_rng(0)
