"""main_train_loop: learning, its report, backups, several devices."""

import contextlib
import functools
import io
import re
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import expit

# What Keras complains about in a training would stand in every student's output.
pytestmark = pytest.mark.filterwarnings("error::UserWarning")
EPOCH_LINE = re.compile(
    r"Epoch +(\d+)/30 \| time (\d+\.\d) s \| test (ELBO|loss) (-?\d+\.\d\d)"
)


@pytest.fixture(scope="module")
def train(nb, make_blobs):
    """Function that trains a small model on the blobs: the model and its history."""

    def run(*arguments, model=None, shuffled=False, **options):
        model = model or nb.CVAE(8, 1, latent_dim=2, filters=8)
        batches = nb.make_dataset(make_blobs(256)[0], 32, training=shuffled)
        test_batches = nb.make_dataset(make_blobs(90, seed=1)[0], 40)
        history = nb.main_train_loop(
            model, batches, test_batches, *arguments, **options
        )
        return model, history.history

    return run


def mean_code_loss(model, x):
    """A loss without noise: squared error of the reconstruction from the mean code."""
    return tf.reduce_mean((model.sample(model.encode(x)[0]) - x) ** 2)


@pytest.fixture(scope="module", params=["elbo", "calibrated", "mmd"])
def trained(request, nb, train, make_blobs):
    """A training of 30 epochs: its model, history, lines and word for the loss."""
    calibrated = {"log_likelihood": nb.log_calibrated_pdf}
    loss_fn = {
        "elbo": nb.compute_loss,
        "calibrated": functools.partial(nb.compute_loss, **calibrated),
        # The images are small and hold few nats.
        "mmd": functools.partial(nb.compute_mmd_loss, **calibrated, weight=100.0),
    }[request.param]
    test = make_blobs(90, seed=1)[0]
    given = {} if request.param == "elbo" else {"test_sample": test[5:8]}
    show = mock.Mock(side_effect=lambda *grid, **labels: print("PICTURE", grid[1]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nb, "show_image_grid", show)
        patch.setattr(nb, "Pretty", str)  # what is displayed here is printed
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            model, history = train(30, loss_fn, 1e-2, shuffled=True, **given)
    for call in show.call_args_list:
        shown, _ = call.args[0]
        np.testing.assert_array_equal(shown, given.get("test_sample", test[:10]))
    word = "loss" if request.param == "mmd" else "ELBO"
    return model, history, printed.getvalue().splitlines(), word


def test_main_train_loop_learns_far_from_the_bounds(nb, trained, make_blobs):
    model, history, *_ = trained
    for curve in (history["loss"], history["val_loss"]):
        assert len(curve) == 30 and curve[-1] < curve[0] - 5  # nats
    images, labels = make_blobs(100, seed=2)
    mean, logvar = np.split(model.encoder(images), 2, axis=1)
    distance = mean[labels == 0].mean(axis=0) - mean[labels == 1].mean(axis=0)
    assert np.linalg.norm(distance) > 2 * np.exp(logvar / 2).mean()
    low, high = nb.LOGVAR_BOUNDS
    assert low + 5 < logvar.min() and logvar.max() < high - 2


def test_main_train_loop_reports_each_epoch(trained):
    _, history, lines, expected_word = trained
    reports = [i for i, line in enumerate(lines) if line.startswith("Epoch")]
    assert len(reports) == 30
    for epoch, index in enumerate(reports):
        number, seconds, word, value = EPOCH_LINE.fullmatch(lines[index]).groups()
        assert (int(number), word) == (epoch + 1, expected_word)
        assert float(seconds) == pytest.approx(history["seconds"][epoch], abs=0.06)
        loss = float(value) * (-1 if word == "ELBO" else 1)
        assert loss == pytest.approx(history["val_loss"][epoch], abs=0.006)
        assert re.match(rf"PICTURE .*epoch {number}$", lines[index + 1])
        live = rf"epoch {number} of 30, step 8 of 8, about \d+\.\d minutes left"
        assert re.fullmatch(live, lines[index - 2]) and lines[index - 1] == ""


def test_main_train_loop_stops_at_the_first_loss_that_is_not_finite(nb, train):
    def spoilt(model, x):  # from the twelfth step on, which is in the second epoch
        return tf.where(
            model.optimizer.iterations < 12, mean_code_loss(model, x), np.nan
        )

    with pytest.raises(FloatingPointError, match="nan in epoch 2.*learning_rate"):
        train(3, spoilt)


def test_main_train_loop_on_two_devices_equals_one(nb, train, make_model, monkeypatch):
    # Plain gradient descent, unlike Adam, shows a gradient of the wrong scale.
    monkeypatch.setattr(nb.tf.keras.optimizers, "Adam", nb.tf.keras.optimizers.SGD)
    single = make_model()
    before = single.get_weights()
    with nb.tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        double = make_model()  # with the same weights
    _, expected = train(2, mean_code_loss, 1.0, model=single)
    _, computed = train(2, mean_code_loss, 1.0, model=double)
    np.testing.assert_allclose(computed["loss"], expected["loss"], rtol=1e-4)
    weights = zip(before, single.get_weights(), double.get_weights(), strict=True)
    for old, one, two in weights:
        np.testing.assert_allclose(two - old, one - old, rtol=1e-2, atol=1e-5)
        assert np.abs(one - old).max() > 1e-3


@pytest.mark.parametrize("gpus", [0, 1, 2])
def test_devices_choose_strategy_and_compilation(nb, train, monkeypatch, gpus):
    def list_logical_devices(kind=None):
        return ["device"] * {"GPU": gpus, "TPU": 0, None: gpus + 1}[kind]

    model, default = nb.CVAE(8, 1, 2), nb.tf.distribute.get_strategy()
    monkeypatch.setattr(nb.tf.config, "list_logical_devices", list_logical_devices)
    monkeypatch.setattr(nb.tf.distribute, "MirroredStrategy", lambda: "mirrored")
    assert nb.get_strategy() is ("mirrored" if gpus == 2 else default)
    monkeypatch.setattr(nb.CVAE, "fit", mock.Mock())  # the settings say enough
    train(1, model=model)
    assert model.jit_compile is (gpus == 1)


def test_get_strategy_prefers_a_tpu(nb, monkeypatch):
    monkeypatch.setattr(nb, "tf", mock.MagicMock())  # finds devices of every kind
    connect = nb.tf.distribute.cluster_resolver.TPUClusterResolver.connect
    strategy = nb.tf.distribute.TPUStrategy
    assert nb.get_strategy() is strategy.return_value
    connect.assert_called_once_with("local")
    strategy.assert_called_once_with(connect.return_value)


def test_interrupted_training_goes_on_where_it_was(
    nb, train, make_blobs, monkeypatch, tmp_path, capsys
):
    shown, backup = [], nb.tf.keras.callbacks.BackupAndRestore
    save = backup.on_epoch_end

    def start(folder, killed_in_picture=0, killed_in_backup=0):
        def show(model, epoch, test_sample):
            shown.append(epoch)
            assert epoch != killed_in_picture

        def on_epoch_end(self, epoch, logs=None):
            assert epoch + 1 != killed_in_backup
            save(self, epoch, logs)

        monkeypatch.setattr(nb, "BACKUP_DIR", folder)
        monkeypatch.setattr(nb, "generate_and_display_images", show)
        monkeypatch.setattr(backup, "on_epoch_end", on_epoch_end)
        return train(4, mean_code_loss, 1e-2, backup_name="blobs")

    monkeypatch.chdir(tmp_path)
    whole, curves = start(nb.BACKUP_DIR)
    assert nb.BACKUP_DIR is None and list(tmp_path.iterdir()) == []
    images = make_blobs(90, seed=1)[0]  # batches of 40, 40 and 10 weigh by their size
    expected = np.mean((whole.sample(whole.encode(images)[0]) - images) ** 2)
    assert curves["val_loss"][-1] == pytest.approx(expected, rel=1e-4)
    for death in ({"killed_in_backup": 2}, {"killed_in_picture": 3}):
        with pytest.raises(AssertionError):
            start(tmp_path, **death)
    # If the last backup was cut off while it was written, the one before it serves.
    weights = tmp_path / "blobs/latest.weights.h5"
    weights.write_bytes(weights.read_bytes()[:1000])
    resumed, history = start(tmp_path)
    again, same_history = start(tmp_path)  # finished, so nothing is left to do
    assert shown == [1, 2, 3, 4] + [1, 2] + [2, 3] + [2, 3, 4]
    assert capsys.readouterr().out.count("blobs: goes on from its backup") == 3
    assert same_history == history and set(history) == {"loss", "val_loss", "seconds"}
    for name in ("loss", "val_loss"):
        np.testing.assert_allclose(history[name], curves[name], rtol=1e-5)
    for model in (resumed, again):
        for one, other in zip(model.weights, whole.weights, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


def test_generate_and_display_images_returns_one_draw_decoded(
    nb, make_model, make_blobs, figures
):
    model, (images, _) = make_model(), make_blobs(5)
    code = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    model.reparameterize = lambda mean, logvar: code
    reconstructions = nb.generate_and_display_images(model, 7, images)
    np.testing.assert_allclose(reconstructions, expit(model.decode(code)), rtol=1e-4)
    [axes] = figures[0].axes
    mosaic = np.vstack([np.hstack(images), np.hstack(reconstructions)])
    np.testing.assert_allclose(axes.images[0].get_array(), mosaic[..., 0])
    assert "7" in axes.get_title()
