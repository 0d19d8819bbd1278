"""load_dataset, its sources and damaged files; preprocess_images; make_dataset."""

from unittest import mock

import numpy as np
import pytest
from conftest import ROOT, close, find_cell

NUMBERED = np.arange(60).reshape(60, 1, 1, 1)  # images that can be followed


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Function that writes mnist.npz, some arrays replaced, to the folder of data."""
    monkeypatch.setenv("HW3_DATA_DIR", str(tmp_path))
    x, y = np.zeros((10, 28, 28), np.uint8), np.arange(10)
    good = dict(x_train=x, y_train=y, x_test=x, y_test=y)
    return lambda **arrays: np.savez(tmp_path / "mnist.npz", **good | arrays)


@pytest.mark.parametrize(("name", "channels"), [("mnist", 1), ("cifar10", 3)])
def test_load_dataset_from_folder_and_download(nb, monkeypatch, name, channels):
    with np.load(ROOT / f"tests/data/{name}.npz") as file:
        x, y, *test = (file[key] for key in ("x_train", "y_train", "x_test", "y_test"))
    pairs = (x, y), test
    load_data = mock.Mock(return_value=pairs)
    monkeypatch.setattr(getattr(nb.tf.keras.datasets, name), "load_data", load_data)
    for folder in ("", str(ROOT / "tests/data")):
        monkeypatch.setenv("HW3_DATA_DIR", folder)
        for (images, labels), (x, y) in zip(nb.load_dataset(name), pairs, strict=True):
            assert images.dtype == np.uint8 and labels.dtype.kind in "iu"
            close(images, x.reshape(*x.shape[:3], channels))
            close(labels, y.ravel())


def test_load_dataset_says_what_is_missing(nb, tmp_path, monkeypatch):
    no_network = mock.Mock(side_effect=OSError("no route to host"))
    monkeypatch.setattr(nb.tf.keras.datasets.mnist, "load_data", no_network)
    for name, folder, text in [
        ("svhn", "", "mnist.*cifar10.*svhn"),
        ("mnist", "", "mnist.*no route to host.*HW3_DATA_DIR"),
        ("mnist", str(tmp_path), r"No such file.*mnist\.npz.*HW3_DATA_DIR"),
    ]:
        monkeypatch.setenv("HW3_DATA_DIR", folder)
        with pytest.raises(ValueError, match=text):
            nb.load_dataset(name)


def test_load_dataset_rejects_damaged_data(nb, write, tmp_path):
    for length, arrays, named in [
        (None, dict(x_train=np.array([print])), "allow_pickle=False"),  # could run code
        (None, dict(x_train=np.zeros((10, 28, 28))), "float64"),
        (None, dict(x_test=np.zeros((10, 28, 28, 3), np.uint8)), "28, 28, 3"),
        (None, dict(y_train=np.zeros(6, int)), "6 labels"),
        (None, dict(y_test=np.eye(10, dtype=int)), "labels"),
        (None, dict(y_train=np.arange(10, 20)), "19"),
        (2000, {}, "mnist.*HW3_DATA_DIR"),
    ]:
        write(**arrays)
        whole = (tmp_path / "mnist.npz").read_bytes()
        (tmp_path / "mnist.npz").write_bytes(whole[:length])
        with pytest.raises(ValueError, match=named):
            nb.load_dataset("mnist")


def test_the_names_under_the_digits_are_those_of_the_classes_there(nb, write, figures):
    x = 255 * np.eye(10, 784, dtype=np.uint8).reshape(10, 28, 28)
    write(x_train=x, y_train=np.array([7, 3] * 5))
    exec(find_cell('load_dataset("mnist")').source, vars(nb).copy())
    axes = figures[0][0].axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["3", "7"]
    close(np.squeeze(axes.images[0].get_array()), np.hstack([x[1], x[0]]) / 255)


def test_preprocess_images_scales_and_binarizes_at_one_half(nb):
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    level = np.linspace(0, 1, 256).reshape(images.shape)
    for binarize, expected in [(False, level), (True, level > 0.5)]:
        close(nb.preprocess_images(images, binarize), expected, rtol=1e-6)
        assert nb.preprocess_images(images, binarize).dtype == np.float32
    for other in ("int64", "float64", "float32"):  # scaled twice, all were black
        with pytest.raises(ValueError, match=f"uint8.*{other}"):
            nb.preprocess_images(images.astype(other), binarize=True)


def test_make_dataset_for_testing_keeps_all_images_in_order(nb, monkeypatch):
    monkeypatch.setattr(nb, "MAX_STEPS", 2)  # is for training only
    for dtype in ("float64", "int64", "uint8"):
        batches = list(nb.make_dataset(NUMBERED.astype(dtype), 16))
        assert [len(batch) for batch in batches] == [16, 16, 16, 12]
        assert batches[0].dtype == np.float32
        close(np.concatenate(batches), NUMBERED)


def test_make_dataset_for_training_shuffles_and_drops_a_ragged_batch(nb, monkeypatch):
    dataset = nb.make_dataset(NUMBERED, 10, training=True)
    one, two = (np.concatenate(list(dataset)).ravel().tolist() for _ in range(2))
    assert one != two and one != sorted(one) == sorted(two) == list(range(60))
    ragged = nb.make_dataset(NUMBERED, 16, training=True, flip=True)
    assert len(ragged) == 3 and ragged.element_spec.shape == (16, 1, 1, 1)
    monkeypatch.setattr(nb, "MAX_STEPS", 2)
    assert len(list(nb.make_dataset(NUMBERED, 10, training=True))) == 2


def test_make_dataset_flips_half_of_the_images(nb):
    images = np.concatenate([NUMBERED, -1 - NUMBERED], axis=2)
    [batch] = nb.make_dataset(images, 60, flip=True)
    flipped = batch[:, :, :1] < 0
    close(batch, np.where(flipped, images[:, :, ::-1], images))
    assert 15 < np.sum(flipped) < 45
