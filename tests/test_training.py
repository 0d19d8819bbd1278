"""Training: learning, its report, backups, several devices, XLA, experiments."""

import contextlib
import functools
import io
import itertools
import re
import types
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import expit

# What Keras complains about in a training would stand in every student's output.
pytestmark = pytest.mark.filterwarnings("error::UserWarning")
EPOCH_LINE = r"Epoch +(\d+)/30 \| time (\d+\.\d) s \| test (ELBO|loss) (-?\d+\.\d\d)"
LIKELIHOODS = ("log_bernoulli_pdf", "log_calibrated_pdf")
LOSSES = [*itertools.product(("compute_loss", "compute_mmd_loss"), LIKELIHOODS)]


def make_loss(nb, name, likelihood):
    """The loss function of an entry of LOSSES."""
    # The images are small and hold few nats.
    options = {"weight": 100.0} if name == "compute_mmd_loss" else {}
    options["log_likelihood"] = getattr(nb, likelihood)
    return functools.partial(getattr(nb, name), **options)


@pytest.fixture(scope="module")
def train(nb, make_blobs):
    """Function that trains a small model on the blobs: the model and its history.

    sizes: numbers of images and batch sizes of training and test.
    """

    def run(*arguments, rate=1e-2, model=None, sizes=(256, 32, 90, 40), **options):
        model = model or nb.CVAE(8, 1, latent_dim=2, filters=8)
        n, batch_size, n_test, test_batch_size = sizes
        batches = nb.make_dataset(make_blobs(n)[0], batch_size)
        test = nb.make_dataset(make_blobs(n_test, seed=1)[0], test_batch_size)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(nb, "LEARNING_RATE", rate)
            history = nb.main_train_loop(model, batches, test, *arguments, **options)
        return model, history.history

    return run


def mean_code_loss(model, x):
    """A loss without noise: squared error of the reconstruction from the mean code."""
    return tf.reduce_mean((model.sample(model.encode(x)[0]) - x) ** 2)


@pytest.mark.parametrize("names", LOSSES[:3])
def test_main_train_loop_learns_and_reports(nb, train, make_blobs, monkeypatch, names):
    test = make_blobs(90, seed=1)[0]
    given = {} if names == LOSSES[0] else {"test_sample": test[5:8]}
    show = mock.Mock(side_effect=lambda rows, title, **look: print("PICTURE", title))
    monkeypatch.setattr(nb, "show_image_grid", show)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        model, history = train(30, make_loss(nb, *names), **given)
    lines = printed.getvalue().splitlines()
    expected_word = "loss" if "mmd" in names[0] else "ELBO"
    for epoch, (line, picture) in enumerate(zip(lines[::2], lines[1::2], strict=True)):
        number, seconds, word, value = re.fullmatch(EPOCH_LINE, line).groups()
        assert picture.startswith("PICTURE") and picture.endswith(f"epoch {epoch + 1}")
        assert (int(number), word) == (epoch + 1, expected_word)
        assert float(seconds) == pytest.approx(history["seconds"][epoch], abs=0.06)
        loss = float(value) * (-1 if word == "ELBO" else 1)
        assert loss == pytest.approx(history["val_loss"][epoch], abs=0.006)
    (originals, _), *later = (call.args[0] for call in show.call_args_list)
    np.testing.assert_array_equal(originals, given.get("test_sample", test[:10]))
    assert [len(rows) for rows in later] == [1] * 29  # originals come once

    for curve in (history["loss"], history["val_loss"]):
        assert len(curve) == 30 and curve[-1] < curve[0] - 5  # nats


def test_history_holds_the_mean_losses(train, make_model, make_blobs):
    model, history = train(2, mean_code_loss, rate=0.0, model=make_model())
    assert [metric.name for metric in model.metrics] == ["loss"]
    assert set(history) == {"loss", "val_loss", "seconds"}
    # The test's batches of 40, 40 and 10 weigh by their size.
    for name, images in {"loss": (256, 0), "val_loss": (90, 1)}.items():
        expected = mean_code_loss(model, make_blobs(*images)[0])
        np.testing.assert_allclose(history[name], [expected] * 2, rtol=1e-5)


def test_main_train_loop_stops_at_the_first_loss_that_is_not_finite(train):
    def spoilt(model, x):  # from the twelfth step on, which is in the second epoch
        good = tf.cast(model.optimizer.iterations < 12, tf.float32)
        return mean_code_loss(model, x) / good

    with pytest.raises(FloatingPointError, match="Epoch +2/3: .*loss.*LEARNING_RATE"):
        train(3, spoilt)


def test_main_train_loop_rejects_a_training_set_without_steps(nb, make_blobs):
    images, _ = make_blobs(20)
    batches = nb.make_dataset(images, 10)
    unknown = batches.filter(lambda x: True)
    for dataset in (unknown, batches.repeat(), nb.make_dataset(images, 32, True)):
        with pytest.raises(ValueError, match="known number of batches"):
            nb.main_train_loop(nb.CVAE(8, 1, 2), dataset, batches, 2)


def test_main_train_loop_trains_with_one_step(train, make_model):
    model, _ = train(1, mean_code_loss, model=make_model(), sizes=(32, 32, 40, 40))
    assert np.any(model.get_weights()[0] != make_model().get_weights()[0])


def test_a_draw_of_the_prior_against_the_codes_trains(nb, train):
    def loss_fn(model, x):  # as in tutorials on the MMD
        z, _ = model.encode(x)
        mmd = nb.compute_mmd(tf.random.normal(tf.shape(z)), z)
        return mmd + mean_code_loss(model, x)

    _, history = train(3, loss_fn)
    assert 0 < history["loss"][-1] < 0.8 * history["loss"][0]


def first_losses(nb, train, model, names):
    """The mean losses of an epoch of two steps, in training and test."""
    sizes = (2 * nb.BATCH_SIZE, nb.BATCH_SIZE, nb.EVAL_BATCH_SIZE, nb.EVAL_BATCH_SIZE)
    _, history = train(1, make_loss(nb, *names), model=model, sizes=sizes)
    return history["loss"] + history["val_loss"]


DEVICES = [*((2, names) for names in LOSSES), (4, LOSSES[0]), (8, LOSSES[0])]


@pytest.mark.parametrize(("n", "names"), DEVICES)
def test_several_devices_train_like_one(nb, train, make_model, mirrored, n, names):
    single = make_model(num_convolutions=1, filters=2)
    with mirrored(n).scope():
        several = make_model(num_convolutions=1, filters=2)
    # Equal but for the noise, which each replica draws for itself.
    expected = first_losses(nb, train, single, names)
    assert first_losses(nb, train, several, names) == pytest.approx(expected, rel=0.1)


def list_devices(gpus, tpus=0):
    """What TensorFlow's `list_logical_devices` is on a machine of so many devices."""
    names = [f"GPU:{i}" for i in range(gpus)] + [f"TPU:{i}" for i in range(tpus)]
    devices = [types.SimpleNamespace(name=name) for name in ["CPU:0", *names]]
    return lambda kind=None: [a for a in devices if a.name.startswith(kind or "")]


@pytest.mark.parametrize("names", LOSSES)
def test_xla_trains_like_the_graph(nb, train, make_model, monkeypatch, names):
    losses = []
    for gpus in (0, 1):
        monkeypatch.setattr(tf.config, "list_logical_devices", list_devices(gpus))
        model = make_model(num_convolutions=1, latent_dim=16, map_code=True)
        # XLA draws other random numbers from the same seed.
        model.reparameterize = lambda mean, logvar: mean + 0.3 * tf.exp(logvar / 2)
        losses.append(first_losses(nb, train, model, names))
        assert model.jit_compile is (gpus == 1)
    np.testing.assert_allclose(*losses, rtol=1e-4)


def test_two_devices_equal_one(nb, train, make_model, mirrored, monkeypatch):
    # Plain gradient descent, unlike Adam, shows a gradient of the wrong scale.
    monkeypatch.setattr(nb.tf.keras.optimizers, "Adam", nb.tf.keras.optimizers.SGD)
    single = make_model()
    before = single.get_weights()
    with mirrored(2).scope():
        double = make_model()  # with the same weights
    _, expected = train(2, mean_code_loss, rate=1.0, model=single)
    _, computed = train(2, mean_code_loss, rate=1.0, model=double)
    np.testing.assert_allclose(computed["loss"], expected["loss"], rtol=1e-4)
    after = zip(before, single.get_weights(), double.get_weights(), strict=True)
    for old, one, two in after:
        np.testing.assert_allclose(two - old, one - old, rtol=1e-2, atol=1e-5)
        assert np.abs(one - old).max() > 1e-3


STRATEGIES = [((1,), "default"), ((2,), 2), ((3,), 2), ((8,), 8), ((2, 8), "local")]


@pytest.mark.parametrize(("devices", "expected"), STRATEGIES)
def test_get_strategy(nb, monkeypatch, devices, expected):
    monkeypatch.setattr(tf.config, "list_logical_devices", list_devices(*devices))
    resolver = tf.distribute.cluster_resolver.TPUClusterResolver
    monkeypatch.setattr(resolver, "connect", lambda address: address)
    monkeypatch.setattr(tf.distribute, "TPUStrategy", lambda address: address)
    monkeypatch.setattr(tf.distribute, "MirroredStrategy", len)
    monkeypatch.setattr(tf.distribute, "get_strategy", lambda: "default")
    assert nb.get_strategy() == expected


@pytest.fixture
def start(nb, train, monkeypatch):
    """Function that trains with a backup: its model, history and epochs shown."""

    def run(folder, epochs=4, killed_in=0):
        shown = []

        def show(model, epoch, *_):
            shown.append(epoch)
            assert epoch != killed_in

        monkeypatch.setattr(nb, "BACKUP_DIR", folder and str(folder))
        monkeypatch.setattr(nb, "generate_and_display_images", show)
        model = nb.CVAE(8, 1, latent_dim=2, filters=8, name="blobs")
        return *train(epochs, mean_code_loss, model=model), shown

    return run


def test_interrupted_training_goes_on_where_it_was(nb, start, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    whole, curves, _ = start(nb.BACKUP_DIR)
    assert nb.BACKUP_DIR is None and list(tmp_path.iterdir()) == []
    # If the first backup was cut off while it was written, the training starts anew.
    weights = tmp_path / "full/blobs/latest.weights.h5"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"cut off")
    for epoch in (2, 3):
        with pytest.raises(AssertionError):
            start(tmp_path, killed_in=epoch)
    # If the last one was, the one before it serves.
    weights.write_bytes(weights.read_bytes()[:1000])
    runs = [start(tmp_path)]
    (tmp_path / "full/blobs/training_metadata.json").write_text("")
    runs += [start(tmp_path), start(tmp_path)]
    assert [shown for *_, shown in runs] == [[2, 3, 4], [4], []]
    for model, history, _ in runs:
        for name in ("loss", "val_loss"):
            np.testing.assert_allclose(history[name], curves[name], rtol=1e-5)
        for one, other in zip(model.weights, whole.weights, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


def test_damaged_history_stops_before_training(nb, start, tmp_path, monkeypatch):
    start(tmp_path, epochs=1)
    history = tmp_path / "full/blobs/history.json"
    advice = re.escape(f"delete {history.parent}")
    monkeypatch.setattr(nb.CVAE, "fit", mock.Mock())
    for damage in (lambda: history.write_text('[{"loss": 0.'), history.unlink):
        damage()
        with pytest.raises(ValueError, match=advice):
            start(tmp_path)
    assert not nb.CVAE.fit.called


def test_backup_folder(nb, start, tmp_path, monkeypatch):
    for home in ("HOME", "USERPROFILE"):  # the second is Windows'
        monkeypatch.setenv(home, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for quick in (True, False):
        monkeypatch.setattr(nb, "QUICK", quick)
        *_, shown = start("~/kept", epochs=1)
        assert shown == [1]  # a full run does not go on from a quick one
    with pytest.raises(FileNotFoundError, match="no-drive"):
        start(tmp_path / "no-drive/kept")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_generate_and_display_images(nb, make_model, make_blobs, figures):
    model = make_model()
    images, _ = make_blobs(5)
    code = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    model.reparameterize = lambda mean, logvar: code
    reconstructions = nb.generate_and_display_images(model, 7, images)
    np.testing.assert_allclose(reconstructions, expit(model.decode(code)), rtol=1e-4)
    [(figure, title)] = figures
    mosaic = np.vstack([np.hstack(images), np.hstack(reconstructions)])
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), mosaic[..., 0])
    assert title.endswith("epoch 7")


def test_run_experiment_keeps_model_history_and_measures(nb, make_blobs, monkeypatch):
    def loss_fn(model, x, log_likelihood):
        return mean_code_loss(model, x) - tf.reduce_mean(log_likelihood(x, x))

    def likelihood(x, logits):
        return 7 + 0 * tf.reduce_sum(x, axis=[1, 2, 3])

    design = dict(img_size=8, num_channels=1, latent_dim=8, filters=2, map_code=True)
    monkeypatch.setattr(nb, "CIFAR10_MODEL", design)
    monkeypatch.setattr(nb, "EPOCHS", 2)
    models, results = {}, {}
    data = make_blobs(128), make_blobs(90, seed=1)
    batches = [nb.make_dataset(images, 32) for images, _ in data]
    strategy = tf.distribute.get_strategy()
    stores = models, results, data, batches
    nb.run_experiment("new", loss_fn, likelihood, strategy, *stores)
    [(name, model)] = models.items()
    assert name == model.name == "new" and list(results) == ["new"]
    loss = float(mean_code_loss(model, data[1][0])) - 7
    losses = model.history.history["val_loss"]
    assert len(losses) == 2 and losses[-1] == pytest.approx(loss, rel=1e-4)
    assert results["new"]["reconstruction"][0] == -7
