"""load_dataset, its sources and damaged files; preprocess_images; make_dataset."""

import errno
import http.server
import pickle
import sys
import threading
import zipfile

import numpy as np
import pytest

SHAPES = {"mnist": (28, 28, 1), "cifar10": (32, 32, 3)}


@pytest.fixture
def keras_load(nb, monkeypatch):
    """Function that lets Keras's `load_data` of a data set return or raise `result`."""

    def replace(name, result):
        def load_data():
            if isinstance(result, Exception):
                raise result
            return result

        monkeypatch.setattr(getattr(nb.tf.keras.datasets, name), "load_data", load_data)

    return replace


def small_arrays(name="mnist", n_train=7, n_test=3):
    """Arrays as Keras stores them: MNIST has no channel axis, CIFAR labels [N, 1]."""
    generator = np.random.default_rng(0)
    shape = SHAPES[name] if name == "cifar10" else SHAPES[name][:2]
    arrays = {}
    for part, n in [("train", n_train), ("test", n_test)]:
        arrays[f"x_{part}"] = generator.integers(0, 256, (n, *shape), np.uint8)
        labels = generator.integers(0, 10, n)
        arrays[f"y_{part}"] = labels[:, None] if name == "cifar10" else labels
    return arrays


def as_keras(arrays):
    return tuple(
        (arrays[f"x_{part}"], arrays[f"y_{part}"]) for part in ("train", "test")
    )


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_load_dataset_from_the_data_folder(nb, root, name, monkeypatch):
    monkeypatch.setenv("HW3_DATA_DIR", str(root / "tests" / "data"))
    stored = np.load(root / "tests" / "data" / f"{name}.npz")
    parts = dict(zip(("train", "test"), nb.load_dataset(name), strict=True))
    for part, (images, labels) in parts.items():
        assert images.dtype == np.uint8 and images.shape[1:] == SHAPES[name]
        assert labels.dtype.kind in "iu" and labels.shape == (len(images),)
        np.testing.assert_array_equal(images.ravel(), stored[f"x_{part}"].ravel())
        np.testing.assert_array_equal(labels, stored[f"y_{part}"].ravel())
        # The bundled sample: all ten classes in equal numbers.
        assert len(set(np.bincount(labels, minlength=10))) == 1


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_load_dataset_uses_keras_without_a_folder(nb, name, root, keras_load, capsys):
    arrays = small_arrays(name)
    keras_load(name, as_keras(arrays))
    (train_images, train_labels), (test_images, _) = nb.load_dataset(name)
    assert train_images.shape == (7, *SHAPES[name])
    assert test_images.shape == (3, *SHAPES[name])
    np.testing.assert_array_equal(train_labels, arrays["y_train"].ravel())
    assert "sample" not in capsys.readouterr().out.lower()


def test_load_dataset_prefers_the_data_folder(nb, keras_load, tmp_path, monkeypatch):
    in_folder, downloaded = small_arrays(n_train=5), small_arrays(n_train=6)
    np.savez(tmp_path / "mnist.npz", **in_folder)
    keras_load("mnist", as_keras(downloaded))
    monkeypatch.setenv("HW3_DATA_DIR", str(tmp_path))
    (images, _), _ = nb.load_dataset("mnist")
    assert len(images) == 5


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_load_dataset_offline_uses_the_sample_loudly(
    nb, name, root, keras_load, monkeypatch, capsys
):
    keras_load(name, Exception("URL fetch failure"))
    monkeypatch.chdir(root)
    (images, _), _ = nb.load_dataset(name)
    stored = np.load(root / "tests" / "data" / f"{name}.npz")["x_train"]
    np.testing.assert_array_equal(images.ravel(), stored.ravel())
    banner = capsys.readouterr().out
    assert "SAMPLE" in banner and name in banner and len(banner.splitlines()) >= 3


def test_load_dataset_without_any_source_says_what_to_do(
    nb, keras_load, tmp_path, monkeypatch
):
    keras_load("mnist", Exception("URL fetch failure"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RuntimeError, match="mnist.*network.*HW3_DATA_DIR"):
        nb.load_dataset("mnist")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        FileNotFoundError(errno.ENOENT, "No such file", "data_batch_3"),
        ValueError("Incomplete or corrupted file detected"),
        EOFError("Ran out of input"),
        pickle.UnpicklingError("invalid load key"),
        zipfile.BadZipFile("Bad magic number"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_load_dataset_does_not_take_a_damaged_download_for_offline(
    nb, root, keras_load, monkeypatch, error
):
    keras_load("cifar10", error)
    monkeypatch.chdir(root)  # where the sample lies
    with pytest.raises(RuntimeError, match="cifar10.*damaged.*disk.*delete"):
        nb.load_dataset("cifar10")


def test_load_dataset_checks_what_keras_returns(nb, keras_load):
    arrays = small_arrays()
    keras_load("mnist", as_keras(arrays | {"y_train": arrays["y_train"] + 10}))
    with pytest.raises(RuntimeError, match="y_train must be .*labels 0-9"):
        nb.load_dataset("mnist")


@pytest.fixture
def serve(nb, monkeypatch, tmp_path):
    """Function that makes Keras download MNIST from here; returns the requests so far.

    The server sends `content` and announces `length` bytes; None: there is no server.
    """
    requests, servers = [], []
    module = sys.modules[nb.tf.keras.datasets.mnist.load_data.__module__]
    get_file = module.get_file

    def start(content, length):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                requests.append(self.path)
                self.send_response(200)
                self.send_header("Content-Length", str(length))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *arguments):
                pass

        server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        address = f"http://127.0.0.1:{server.server_port}/mnist.npz"
        if length is None:
            server.server_close()
        else:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            servers.append(server)

        def from_here(fname, origin, **options):
            return get_file(fname, address, **options, cache_dir=str(tmp_path))

        monkeypatch.setattr(module, "get_file", from_here)
        return requests

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_load_dataset_refuses_other_bytes_and_does_not_keep_them(nb, serve):
    requests = serve(b"not the data", 12)
    for attempt in (1, 2):  # what the first one left is not trusted by the second
        with pytest.raises(RuntimeError, match="mnist.*damaged"):
            nb.load_dataset("mnist")
        assert len(requests) == attempt


@pytest.mark.parametrize("length", [10_000, None], ids=["cut off", "no server"])
def test_load_dataset_after_a_failed_download(
    nb, serve, tmp_path, monkeypatch, root, capsys, length
):
    serve(b"only the beginning", length)
    monkeypatch.chdir(root)
    nb.load_dataset("mnist")
    assert "Reason: URL fetch failure" in capsys.readouterr().out
    assert not list(tmp_path.rglob("*.npz"))  # nothing that a later run would trust


@pytest.mark.parametrize("name", ["fashion", "MNIST", "", None])
def test_load_dataset_rejects_an_unknown_name(nb, name):
    with pytest.raises(ValueError, match="name must be one of.*cifar10.*mnist"):
        nb.load_dataset(name)


def test_load_dataset_folder_without_the_file(nb, keras_load, tmp_path, monkeypatch):
    # A folder that was asked for and is wrong must not be passed over in silence.
    keras_load("mnist", as_keras(small_arrays()))
    monkeypatch.setenv("HW3_DATA_DIR", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"mnist\.npz.*HW3_DATA_DIR"):
        nb.load_dataset("mnist")


def truncated(path):
    np.savez(path, **small_arrays())
    path.write_bytes(path.read_bytes()[:2000])


def flipped(path):
    np.savez(path, **small_arrays())
    content = bytearray(path.read_bytes())
    content[1000] ^= 255  # a pixel, which only the checksum can tell
    path.write_bytes(content)


def spoilt_stream(path):
    np.savez_compressed(path, **small_arrays())
    content = bytearray(path.read_bytes())
    content[30 + content[26] + content[28]] = 255  # no deflate block starts like this
    path.write_bytes(content)


def spoilt_header(path):
    np.savez(path, **small_arrays())
    path.write_bytes(path.read_bytes().replace(b"(7, 28, 28)", b"(7, 28, 28("))


def single_array(path):
    with open(path, "wb") as file:
        np.save(file, small_arrays()["x_train"])


def with_objects(path):
    arrays = small_arrays()
    np.savez(path, **(arrays | {"x_train": arrays["x_train"].astype(object)}))


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"<html>404 Not Found</html>" * 50),
        lambda path: path.write_bytes(pickle.dumps(small_arrays())),
        lambda path: np.savez(path, images=np.zeros(3), labels=np.zeros(3)),
        truncated,
        flipped,
        spoilt_stream,
        spoilt_header,
        single_array,
        with_objects,
    ],
    ids=(
        "empty html pickle names truncated flipped spoilt_stream spoilt_header "
        "single_array with_objects"
    ).split(),
)
def test_load_dataset_rejects_a_damaged_file(nb, damage, tmp_path, monkeypatch):
    damage(tmp_path / "mnist.npz")
    monkeypatch.setenv("HW3_DATA_DIR", str(tmp_path))
    with pytest.raises(ValueError, match=r"mnist\.npz.*damaged"):
        nb.load_dataset("mnist")


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("x_train", lambda x: x / 255.0),
        ("x_train", lambda x: x.astype(np.int64)),
        ("x_train", lambda x: x[:, :20]),
        ("x_test", lambda x: x[..., None].repeat(3, axis=3)),
        ("x_test", lambda x: x[:0]),
        ("x_test", lambda x: x[0, 0, 0]),
        ("y_train", lambda y: y[:-1]),
        ("y_train", lambda y: y.astype(np.float32)),
        ("y_train", lambda y: y + 10),
        ("y_test", lambda y: -1 - y),
        ("y_test", lambda y: np.array(["seven"] * len(y))),
    ],
)
def test_load_dataset_rejects_wrong_arrays(nb, key, change, tmp_path, monkeypatch):
    arrays = small_arrays()
    np.savez(tmp_path / "mnist.npz", **(arrays | {key: change(arrays[key])}))
    monkeypatch.setenv("HW3_DATA_DIR", str(tmp_path))
    with pytest.raises(ValueError, match=rf"mnist\.npz.*{key}"):
        nb.load_dataset("mnist")


def test_preprocess_images_scales_to_the_unit_interval(nb):
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    scaled = nb.preprocess_images(images)
    assert scaled.dtype == np.float32 and scaled.shape == images.shape
    np.testing.assert_allclose(scaled.ravel(), np.linspace(0, 1, 256), rtol=1e-6)


def test_preprocess_images_binarizes_at_one_half(nb):
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    binary = nb.preprocess_images(images, binarize=True)
    assert binary.dtype == np.float32 and binary.shape == images.shape
    np.testing.assert_array_equal(binary.ravel(), np.linspace(0, 1, 256) > 0.5)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 4, 4, 1), np.float32),  # perhaps scaled already
        np.zeros((2, 4, 4), np.uint8),
        np.zeros((0, 4, 4, 1), np.uint8),
    ],
)
def test_preprocess_images_rejects_other_arrays(nb, images):
    with pytest.raises(ValueError, match="images must be"):
        nb.preprocess_images(images)


def numbered_images(n):
    """Images that carry their index, so that they can be followed."""
    return np.arange(n, dtype=np.float32).reshape(n, 1, 1, 1)


def test_make_dataset_for_testing_keeps_all_images_in_order(nb):
    batches = [b.numpy() for b in nb.make_dataset(numbered_images(23), 5)]
    assert [len(batch) for batch in batches] == [5, 5, 5, 5, 3]
    np.testing.assert_array_equal(np.concatenate(batches).ravel(), np.arange(23))


def test_make_dataset_for_training_shuffles_and_drops_the_ragged_batch(nb):
    n = 60
    dataset = nb.make_dataset(numbered_images(n), 10, training=True)
    epochs = [np.concatenate([b.numpy() for b in dataset]).ravel() for _ in range(2)]
    for images in epochs:
        assert sorted(images) == list(range(n))  # the same set of images
        assert list(images) != sorted(images)
    assert list(epochs[0]) != list(epochs[1])  # shuffled anew
    ragged = nb.make_dataset(numbered_images(n), 16, training=True)
    assert [len(batch) for batch in ragged] == [16, 16, 16]
    assert ragged.cardinality() == 3 and ragged.element_spec.shape[0] == 16


def test_make_dataset_flips_half_of_the_images(nb, rng):
    images = rng.uniform(size=(400, 2, 3, 1)).astype(np.float32)
    [batch] = nb.make_dataset(images, 400, flip=True)
    flipped = np.all(batch == images[:, :, ::-1], axis=(1, 2, 3))
    assert np.all(flipped | np.all(batch == images, axis=(1, 2, 3)))
    assert 150 < flipped.sum() < 250


def test_make_dataset_holds_no_second_copy_of_the_images(nb):
    images = np.zeros((4, 2, 2, 1), np.float32)
    dataset = nb.make_dataset(images, 4)
    images[:] = 0.5  # seen by the data set, which reads the array itself
    [batch] = dataset
    assert np.all(batch == 0.5)


@pytest.mark.parametrize("options", [{}, dict(training=True, flip=True)])
def test_make_dataset_starts_no_tuning_thread(nb, options):
    dataset = nb.make_dataset(numbered_images(8), 4, **options)
    assert dataset.options().autotune.enabled is False  # None: TensorFlow tunes
