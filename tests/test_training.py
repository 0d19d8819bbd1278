"""main_train_loop: learning, its report, its history, what it refuses."""

import re

import numpy as np
import pytest
import tensorflow as tf
from conftest import close, make_blobs, make_model
from scipy.special import expit

# What Keras complains about in a training would stand in every student's output.
pytestmark = pytest.mark.filterwarnings("error::UserWarning")


@pytest.fixture
def train(nb, figures):
    """Function that trains a model on the blobs, 8 steps an epoch: its history."""
    batches = nb.make_dataset(make_blobs(256)[0], 32, training=True)
    test = nb.make_dataset(make_blobs(90, seed=1)[0], 40)
    return lambda model, *rest: nb.main_train_loop(model, batches, test, *rest)


def mean_code_loss(model, x):
    """A loss without noise: squared error of the reconstruction from the mean code."""
    return tf.reduce_mean((model.sample(model.encode(x)[0]) - x) ** 2)


@pytest.mark.parametrize("name", ["compute_loss", "compute_mmd_loss"])
def test_main_train_loop_learns_and_reports(nb, train, monkeypatch, capsys, name):
    monkeypatch.setattr(nb, "LEARNING_RATE", 1e-2)
    monkeypatch.setattr(nb, "MMD_WEIGHT", 100.0)  # the images hold few nats
    monkeypatch.setattr(nb, "show_image_grid", lambda rows, title: print(len(rows)))
    model = nb.CVAE(8, 1, latent_dim=2, filters=8)
    is_elbo = name == "compute_loss"
    # Shows all epochs, or the last only.
    history = train(model, 10, getattr(nb, name), is_elbo)
    text = capsys.readouterr().out
    line = r"Epoch +(\d+)/10 \| time (\d+\.\d) s \| test (ELBO -|loss )(\d+\.\d\d)\n"
    # The first and the last epoch have two rows: originals and reconstructions.
    middle = "".join(f"{i} 1\n" for i in range(2, 10))
    shown = f"1 2\n{middle}10 2\n" if is_elbo else "1 2 3 4 5 6 7 8 9 10 2\n"
    assert re.sub(line, r"\1 ", text) == shown
    _, seconds, words, losses = zip(*re.findall(line, text), strict=True)
    assert set(words) == {"ELBO -" if is_elbo else "loss "}
    close(np.float64(losses), history["val_loss"], atol=0.006)
    close(np.float64(seconds), history["seconds"], atol=0.06)
    for curve in (history["loss"], history["val_loss"]):
        assert curve[-1] < curve[0] - 5  # nats
    for step, share in [(0, 1), (20, 0.75), (40, 0.5), (80, 0)]:
        model.optimizer.iterations.assign(step)  # of 80, in which the rate falls to 0
        close(model.optimizer.learning_rate, 1e-2 * share, atol=1e-6)


def test_history_holds_the_mean_loss_of_each_epoch(nb, train, figures, monkeypatch):
    def loss_fn(model, x):  # grows by 1 after each epoch
        epoch = tf.cast(model.optimizer.iterations // 8, tf.float32)
        return mean_code_loss(model, x) + epoch

    monkeypatch.setattr(nb, "LEARNING_RATE", 0.0)
    model = make_model(nb)
    history = train(model, 2, loss_fn)
    mean = mean_code_loss(model, make_blobs(256)[0])
    close(history["loss"], [mean, mean + 1], rtol=1e-4)
    # The test's batches of 40, 40 and 10 weigh by their size.
    mean = mean_code_loss(model, make_blobs(90, seed=1)[0])
    close(history["val_loss"], [mean + 1, mean + 2], rtol=1e-4)
    assert figures[0][0].axes[0].images[0].get_array().shape == (16, 40)  # 2 x 5 images


def test_main_train_loop_stops_at_a_loss_that_is_not_finite(nb, train, capsys):
    def spoilt(model, x):  # from the twelfth step on, which is in the second epoch
        good = tf.cast(model.optimizer.iterations < 12, tf.float32)
        return mean_code_loss(model, x) / good

    with pytest.raises(FloatingPointError, match="not finite.*LEARNING_RATE"):
        train(make_model(nb), 3, spoilt)
    assert capsys.readouterr().out.count("Epoch") == 1


def test_main_train_loop_refuses_before_any_work(nb, monkeypatch):
    monkeypatch.setattr(nb.CVAE, "fit", None)
    images, _ = make_blobs(20)
    good = nb.make_dataset(images, 4)
    for bad in [
        nb.make_dataset(images, 32, training=True),  # a batch larger than the data
        nb.make_dataset(images, 1, training=True),
        tf.data.Dataset.zip(good, good),  # pairs
        good.map(lambda x: tf.cast(x, tf.float64)),
        good.filter(lambda x: True),  # of unknown length
    ]:
        for datasets in [(bad, good), (good, bad)]:
            with pytest.raises(ValueError, match="batches.*float32.*Dataset"):
                nb.main_train_loop(None, *datasets, 2)
    with pytest.raises(ValueError, match="epochs.*0"):
        nb.main_train_loop(None, good, good, 0)


def test_generate_and_display_images(nb, figures, rng):
    model = make_model(nb)
    code = rng.normal(size=(5, 3)).astype(np.float32)
    model.reparameterize = lambda mean, logvar: code
    images, _ = make_blobs(5)
    decoded = nb.generate_and_display_images(model, 7, images)
    close(decoded, expit(model.decode(code)), rtol=1e-4)
    mosaic = np.vstack([np.hstack(images), np.hstack(decoded)])
    close(figures[0][0].axes[0].images[0].get_array(), mosaic[..., 0])
    assert figures[0][1] == f"{model.name}, epoch 7"
