"""load_dataset, its sources and damaged files; preprocess_images; make_dataset."""

import subprocess
import sys
from unittest import mock

import numpy as np
import pytest
from conftest import ROOT

SHAPES = {"mnist": (28, 28, 1), "cifar10": (32, 32, 3)}


def stored(name, n=None):
    """The first images of the bundled sample, as Keras stores them."""
    with np.load(ROOT / f"tests/data/{name}.npz") as file:
        return {key: array[:n] for key, array in file.items()}


@pytest.fixture
def keras_load(nb, monkeypatch):
    """What stands for Keras's `load_data` of both data sets."""
    load_data = mock.Mock(side_effect=OSError("no route to host"))
    for name in SHAPES:
        monkeypatch.setattr(getattr(nb.tf.keras.datasets, name), "load_data", load_data)
    return load_data


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("source", ["folder", "download", "sample"])
def test_load_dataset(nb, keras_load, monkeypatch, capsys, name, source):
    expected = stored(name, 7 if source == "download" else None)
    if source == "folder":
        monkeypatch.setenv("HW3_DATA_DIR", str(ROOT / "tests/data"))
    if source != "sample":
        few = stored(name, 7)
        pairs = [(few[f"x_{part}"], few[f"y_{part}"]) for part in ("train", "test")]
        keras_load.configure_mock(side_effect=None, return_value=pairs)
    monkeypatch.chdir(ROOT)
    splits = nb.load_dataset(name)
    for part, (images, labels) in zip(("train", "test"), splits, strict=True):
        assert images.dtype == np.uint8 and images.shape[1:] == SHAPES[name]
        assert labels.dtype.kind in "iu" and labels.shape == (len(images),)
        np.testing.assert_array_equal(images.ravel(), expected[f"x_{part}"].ravel())
        np.testing.assert_array_equal(labels, expected[f"y_{part}"].ravel())
    printed = capsys.readouterr().out
    for word in ("SAMPLE", name, "no route to host", "\n!!"):
        assert (word in printed) == (source == "sample")


def test_load_dataset_says_what_is_missing(nb, keras_load, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="name must be one of.*cifar10.*mnist"):
        nb.load_dataset("fashion_mnist")
    with pytest.raises(FileNotFoundError, match="mnist.*no route.*HW3_DATA_DIR"):
        nb.load_dataset("mnist")
    # A folder that was asked for and is wrong must not be passed over in silence.
    keras_load.side_effect = None
    monkeypatch.setenv("HW3_DATA_DIR", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"mnist\.npz.*HW3_DATA_DIR"):
        nb.load_dataset("mnist")


def changed(key, change):
    """Function that writes a file of good arrays but one."""
    few = stored("mnist", 7)
    return lambda path: np.savez(path, **few | {key: change(few[key])})


class Bomb:
    """Goes off when it is unpickled, which loading data must never do."""

    def __reduce__(self):
        return exec, ("raise SystemExit",)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:2000]),
        lambda path: np.savez(path, images=np.zeros(3), labels=np.zeros(3)),
        changed("x_train", lambda x: np.array([Bomb()])),
        changed("x_train", lambda x: x / 255.0),
        changed("x_test", lambda x: x[..., None].repeat(3, axis=3)),
        changed("y_train", lambda y: y[:-1]),
        changed("y_train", lambda y: y + 10),
        changed("y_test", lambda y: y - 1.5),
    ],
)
def test_load_dataset_rejects_a_damaged_file(nb, damage, tmp_path, monkeypatch):
    np.savez(tmp_path / "mnist.npz", **stored("mnist", 7))
    damage(tmp_path / "mnist.npz")
    monkeypatch.setenv("HW3_DATA_DIR", str(tmp_path))
    with pytest.raises(ValueError, match="mnist"):
        nb.load_dataset("mnist")


def test_preprocess_images_scales_and_binarizes_at_one_half(nb):
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    level = np.linspace(0, 1, 256).reshape(images.shape)
    for options, expected in [({}, level), ({"binarize": True}, level > 0.5)]:
        computed = nb.preprocess_images(images, **options)
        assert computed.dtype == np.float32
        np.testing.assert_allclose(computed, expected, rtol=1e-6)


# Images that carry their index, so that they can be followed.
NUMBERED = np.arange(60, dtype=np.float32).reshape(60, 1, 1, 1)


def test_make_dataset_for_testing_keeps_all_images_in_order(nb, monkeypatch):
    monkeypatch.setattr(nb, "MAX_STEPS", 2)  # is for training only
    batches = list(nb.make_dataset(NUMBERED, 16))
    assert [len(batch) for batch in batches] == [16, 16, 16, 12]
    np.testing.assert_array_equal(np.concatenate(batches), NUMBERED)


def test_make_dataset_for_training_shuffles_and_drops_a_ragged_batch(nb, monkeypatch):
    dataset = nb.make_dataset(NUMBERED, 10, training=True)
    one, two = (list(np.concatenate(list(dataset)).ravel()) for _ in range(2))
    assert sorted(one) == sorted(two) == list(range(60))
    assert one != two and one != sorted(one)
    ragged = nb.make_dataset(NUMBERED, 16, training=True, flip=True)
    assert ragged.cardinality() == 3 and ragged.element_spec.shape == (16, 1, 1, 1)
    monkeypatch.setattr(nb, "MAX_STEPS", 2)
    assert len(list(nb.make_dataset(NUMBERED, 10, training=True))) == 2


def test_make_dataset_flips_half_of_the_images(nb, rng):
    images = rng.uniform(size=(400, 2, 3, 1)).astype(np.float32)
    [batch] = nb.make_dataset(images, 400, flip=True)
    flipped = np.all(batch == images[:, :, ::-1], axis=(1, 2, 3))
    assert np.all(flipped | np.all(batch == images, axis=(1, 2, 3)))
    assert 150 < flipped.sum() < 250


def test_make_dataset_holds_one_copy_of_the_images_and_none_once_it_is_gone():
    # In a process of its own, because the memory of all tests would be noise.
    code = """if True:
        import conftest, gc, numpy, psutil
        nb = conftest.load_notebook()
        images = numpy.ones((10_000, 32, 32, 4), numpy.float32)  # 164 MB
        next(iter(nb.make_dataset(images[:500], 500)))
        for _ in range(4):
            print(psutil.Process().memory_info().rss)
            batches = iter(nb.make_dataset(images, 500))
            next(batches)
            print(psutil.Process().memory_info().rss)
            del batches
            gc.collect()
    """
    command = [sys.executable, "-c", code]
    text = subprocess.check_output(command, cwd=ROOT / "tests", text=True)
    first, one, *_, last = map(int, text.split())
    assert one - first < 1.5 * 164e6 and last - first < 2.5 * 164e6
