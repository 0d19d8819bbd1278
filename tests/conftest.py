"""What all tests share: the notebook, and its own functions to call.

The functions are not imported from a copy: the cells tagged `def` of the notebook
itself are executed in a fresh module. The environment variable HW3_NOTEBOOK names
another notebook file to test instead of the committed one.
"""

import linecache
import os
import pathlib
import types

import matplotlib
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
matplotlib.use("Agg")

ROOT = pathlib.Path(__file__).resolve().parent.parent
NOTEBOOK = pathlib.Path(os.environ.get("HW3_NOTEBOOK", ROOT / "HW3_VAE.ipynb"))


def load_notebook():
    """A module that holds what the notebook's `def` cells define."""
    module = types.ModuleType("notebook")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("HW3_QUICK", raising=False)  # it would cut the data sets short
        for i, cell in enumerate(nbformat.read(NOTEBOOK, as_version=4).cells):
            if "def" in cell.metadata.get("tags", []):
                # AutoGraph and tracebacks look the source up by this name.
                name = f"<notebook cell {i}>"
                lines = cell.source.splitlines(keepends=True)
                linecache.cache[name] = (len(cell.source), None, lines, name)
                exec(compile(cell.source, name, "exec"), module.__dict__)
    return module


@pytest.fixture(scope="session")
def nb():
    """The notebook's own functions, with eight devices to distribute over."""
    import tensorflow as tf

    # Must come before TensorFlow's first operation.
    [cpu] = tf.config.list_physical_devices("CPU")
    eight = [tf.config.LogicalDeviceConfiguration()] * 8
    tf.config.set_logical_device_configuration(cpu, eight)
    return load_notebook()


@pytest.fixture(scope="session")
def mirrored(nb):
    """Function that makes a strategy over `n` of the devices."""
    # TensorFlow's default, collective operations, needs a thread for each device: on
    # two cores it is cancelled now and then.
    reduction = nb.tf.distribute.ReductionToOneDevice()
    strategy = nb.tf.distribute.MirroredStrategy
    return lambda n: strategy([f"CPU:{i}" for i in range(n)], reduction)


@pytest.fixture(autouse=True)
def no_data_folder(monkeypatch):
    """Tests must not depend on the data folder of whoever runs them."""
    monkeypatch.delenv("HW3_DATA_DIR", raising=False)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def make_model(nb):
    """Function that builds a small CVAE whose outputs are far from constant.

    At Keras's initialisation every mean, log variance and logit is close to 0, where
    many errors are invisible, so all weights are drawn anew.
    """

    def build(**arguments):
        settings = dict(img_size=8, num_channels=1, latent_dim=3, filters=4)
        model = nb.CVAE(**(settings | arguments))
        weights = np.random.default_rng(1)
        for variable in model.trainable_variables:
            scale = 1.5 / np.sqrt(max(1, np.prod(variable.shape[:-1])))
            variable.assign(scale * weights.normal(size=variable.shape))
        return model

    return build


@pytest.fixture(autouse=True)
def figures(request, monkeypatch):
    """What the notebook's functions show: pairs of Matplotlib figure and title."""
    shown = []
    if "nb" in request.fixturenames:
        nb = request.getfixturevalue("nb")
        monkeypatch.setattr(nb, "show_figure", lambda *pair: shown.append(pair))
    yield shown
    plt.close("all")


@pytest.fixture(scope="session")
def make_blobs():
    """Function that makes images of two classes: left or right half bright."""

    def make(n, seed=0, size=8):
        generator = np.random.default_rng(seed)
        images = generator.uniform(0.0, 0.2, (n, size, size, 1)).astype(np.float32)
        images[::2, :, : size // 2] += 0.8
        images[1::2, :, size // 2 :] += 0.8
        return images, np.arange(n) % 2

    return make
