"""main_train_loop: learning, seeds, its report, bad arguments, several devices."""

import functools
import re

import numpy as np
import pytest

EPOCH_LINE = re.compile(
    r"^Epoch +(\d+)/(\d+) \| time (\d+\.\d) s \| test (ELBO|loss) (-?\d+\.\d\d)$"
)


@pytest.fixture
def tiny(nb, make_blobs):
    """Function that builds a model from a seed, ready to train on the two blobs."""

    def build(seed=0):
        nb.tf.keras.utils.set_random_seed(seed)
        return nb.CVAE(img_size=8, num_channels=1, latent_dim=2, filters=4, seed=seed)

    return build


@pytest.fixture
def datasets(nb, make_blobs):
    """Training and test batches of the two blobs; the last test batch is ragged."""
    train, test = make_blobs(256)[0], make_blobs(90, seed=1)[0]
    return nb.make_dataset(train, 32, training=True), nb.make_dataset(test, 40)


@pytest.fixture(scope="module")
def two_devices(nb):
    """A strategy over two devices; TensorFlow confuses the sums of several of them."""
    return nb.tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


@pytest.fixture
def mean_code_loss(nb):
    """A loss without noise: squared error of the reconstruction from the mean code."""

    def loss(model, x):
        logits = model.decode(model.encode(x)[0])
        return nb.tf.reduce_mean((nb.tf.sigmoid(logits) - x) ** 2)

    return loss


def separation(model, images, labels):
    """Distance of the two classes' mean codes in posterior standard deviations."""
    mean, logvar = (a.numpy() for a in model.encode(images))
    distance = mean[labels == 0].mean(axis=0) - mean[labels == 1].mean(axis=0)
    return np.linalg.norm(distance) / np.exp(logvar / 2).mean()


@pytest.mark.parametrize(
    ("loss_name", "options"),
    [
        ("compute_loss", {}),
        ("compute_calibrated_loss", {}),
        ("compute_mmd_loss", dict(weight=10.0)),  # the tiny images hold few nats
    ],
)
def test_main_train_loop_lowers_the_loss_and_separates_classes(
    nb, tiny, datasets, make_blobs, loss_name, options
):
    model, (images, labels) = tiny(), make_blobs(100, seed=2)
    before = separation(model, images, labels)
    history = nb.main_train_loop(
        model,
        *datasets,
        epochs=10,
        loss_fn=functools.partial(getattr(nb, loss_name), **options),
        learning_rate=2e-2,
    ).history
    for curve in (history["loss"], history["val_loss"]):
        assert len(curve) == 10
        assert curve[-1] < curve[0] - 5  # nats
    assert before < 0.5 and separation(model, images, labels) > 2


def test_main_train_loop_repeats_with_the_seed(nb, tiny, make_blobs):
    def train(seed):
        model = tiny(seed)
        train_dataset = nb.make_dataset(make_blobs(64)[0], 32, training=True)
        test_dataset = nb.make_dataset(make_blobs(40, seed=1)[0], 40)
        return nb.main_train_loop(model, train_dataset, test_dataset, epochs=2).history

    first, same, other = train(3), train(3), train(4)
    for curve in ("loss", "val_loss"):
        assert first[curve] == same[curve]
        assert first[curve] != other[curve]


@pytest.mark.parametrize("word", ["ELBO", "loss"])
def test_main_train_loop_reports_each_epoch(nb, tiny, datasets, word, capsys):
    loss_fn = nb.compute_loss if word == "ELBO" else nb.compute_mmd_loss
    history = nb.main_train_loop(tiny(), *datasets, epochs=2, loss_fn=loss_fn).history
    lines = capsys.readouterr().out.splitlines()
    reports = [i for i, line in enumerate(lines) if line.startswith("Epoch")]
    assert len(reports) == 2
    for epoch, index in enumerate(reports):
        number, total, seconds, name, value = EPOCH_LINE.match(lines[index]).groups()
        assert (int(number), int(total), name) == (epoch + 1, 2, word)
        assert float(seconds) == pytest.approx(history["seconds"][epoch], abs=0.06)
        sign = -1 if word == "ELBO" else 1
        loss = history["val_loss"][epoch]
        assert float(value) == pytest.approx(sign * loss, abs=0.006)
        assert "Image object" in lines[index + 1]  # the picture follows its line


def test_main_train_loop_shows_test_images_each_epoch(
    nb, tiny, datasets, make_blobs, monkeypatch
):
    shown = []
    monkeypatch.setattr(
        nb, "generate_and_display_images", lambda *arguments: shown.append(arguments)
    )
    model = tiny()
    nb.main_train_loop(model, *datasets, epochs=2)
    assert [epoch for _, epoch, _ in shown] == [1, 2]
    for shown_model, _, images in shown:
        assert shown_model is model
        np.testing.assert_array_equal(images, make_blobs(90, seed=1)[0][: len(images)])


def test_main_train_loop_weighs_all_test_images_alike(
    nb, tiny, datasets, make_blobs, mean_code_loss
):
    model = tiny()
    history = nb.main_train_loop(model, *datasets, epochs=1, loss_fn=mean_code_loss)
    images = make_blobs(90, seed=1)[0]  # batches of 40, 40 and 10
    reconstructions = model.sample(model.encode(images)[0])
    expected = np.mean((reconstructions - images) ** 2)
    assert history.history["val_loss"][-1] == pytest.approx(expected, rel=1e-4)


def test_main_train_loop_traces_no_more_for_more_epochs(nb, tiny, datasets):
    traces = []
    for epochs in (1, 4):
        calls = []

        def loss(model, x, calls=calls):
            calls.append(x.shape)  # Python runs this only while TensorFlow traces
            return nb.compute_loss(model, x)

        nb.main_train_loop(tiny(), *datasets, epochs=epochs, loss_fn=loss)
        traces.append(calls)
    assert traces[0] == traces[1] and 2 <= len(traces[0]) <= 4


def test_main_train_loop_stops_at_the_first_loss_that_is_not_finite(nb, tiny, datasets):
    tf = nb.tf

    def spoilt(model, x):  # from the twelfth step on, which is in the second epoch
        late = tf.cast(model.optimizer.iterations >= 12, tf.float32)
        return tf.reduce_mean(model.decode(model.encode(x)[0]) ** 2) + tf.math.log(
            1.0 - 2.0 * late
        )

    with pytest.raises(FloatingPointError, match="epoch 2.*learning_rate"):
        nb.main_train_loop(tiny(), *datasets, epochs=3, loss_fn=spoilt)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("epochs", -1),
        ("epochs", 1.5),
        ("epochs", True),
        ("learning_rate", 0),
        ("learning_rate", -1e-3),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
        ("train_dataset", np.zeros((4, 8, 8, 1), np.float32)),
        ("test_dataset", None),
    ],
)
def test_main_train_loop_rejects_bad_arguments(nb, tiny, datasets, name, value):
    arguments = dict(train_dataset=datasets[0], test_dataset=datasets[1], epochs=1)
    with pytest.raises(ValueError, match=name):
        nb.main_train_loop(tiny(), **(arguments | {name: value}))


def test_main_train_loop_rejects_a_training_set_below_one_batch(
    nb, tiny, datasets, make_blobs
):
    empty = nb.make_dataset(make_blobs(10)[0], 32, training=True)
    with pytest.raises(ValueError, match="train_dataset"):
        nb.main_train_loop(tiny(), empty, datasets[1], epochs=1)


def test_main_train_loop_on_two_devices_equals_one(
    nb, tiny, make_blobs, mean_code_loss, two_devices
):
    images, test_images = make_blobs(128)[0], make_blobs(64, seed=1)[0]

    def train(model):
        # Not shuffled, so that both runs see the same batches.
        batches = nb.make_dataset(images, 32), nb.make_dataset(test_images, 32)
        return nb.main_train_loop(
            model, *batches, epochs=3, loss_fn=mean_code_loss, learning_rate=1e-2
        ).history

    single = tiny()
    with two_devices.scope():
        double = tiny()
    double.set_weights(single.get_weights())
    expected, computed = train(single), train(double)
    for curve in ("loss", "val_loss"):
        np.testing.assert_allclose(computed[curve], expected[curve], rtol=1e-4)
    for i, variable in enumerate(single.trainable_variables):
        np.testing.assert_allclose(
            double.trainable_variables[i], variable, rtol=1e-2, atol=1e-4
        )


def test_train_step_gives_each_replica_its_share(
    nb, make_model, mean_code_loss, make_blobs, two_devices
):
    """Plain gradient descent, unlike Adam, shows a gradient of the wrong scale."""
    tf, images = nb.tf, make_blobs(32)[0]

    def step(model):
        with model.distribute_strategy.scope():
            model.compile(tf.keras.optimizers.SGD(1.0), mean_code_loss)
        model.fit(tf.data.Dataset.from_tensors(images), shuffle=False, verbose=0)
        return [v.numpy() for v in model.trainable_variables]

    single = make_model()
    before = [v.numpy() for v in single.trainable_variables]
    with two_devices.scope():
        double = make_model()  # with the same weights
    for old, one, two in zip(before, step(single), step(double), strict=True):
        assert np.abs(one - old).max() > 1e-4
        np.testing.assert_allclose(two - old, one - old, rtol=1e-2, atol=1e-6)


def test_main_train_loop_with_noise_on_two_devices(nb, tiny, datasets, two_devices):
    with two_devices.scope():
        model = tiny()
    history = nb.main_train_loop(model, *datasets, epochs=2, learning_rate=1e-2)
    assert history.history["val_loss"][1] < history.history["val_loss"][0]


def test_get_strategy_and_use_xla_follow_the_devices(nb, monkeypatch):
    def devices_are(**counts):
        monkeypatch.setattr(
            nb.tf.config,
            "list_logical_devices",
            lambda kind=None: ["device"] * counts.get(kind, 0),
        )

    monkeypatch.setattr(nb.tf.distribute, "MirroredStrategy", lambda: "mirrored")
    default = nb.tf.distribute.get_strategy()
    devices_are(CPU=1)
    assert nb.get_strategy() is default and not nb.use_xla()
    devices_are(CPU=1, GPU=1)
    assert nb.get_strategy() is default and nb.use_xla()
    devices_are(CPU=1, GPU=2)
    assert nb.get_strategy() == "mirrored" and not nb.use_xla()


def test_generate_and_display_images_returns_the_reconstructions(
    nb, make_model, make_blobs, monkeypatch
):
    grids = []
    monkeypatch.setattr(
        nb, "show_image_grid", lambda rows, *rest, **named: grids.append((rows, rest))
    )
    model, (images, _) = make_model(), make_blobs(5)
    code = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    model.reparameterize = lambda mean, logvar: code
    reconstructions = nb.generate_and_display_images(model, 7, images)
    assert reconstructions.shape == images.shape
    assert reconstructions.min() >= 0 and reconstructions.max() <= 1
    expected = 1 / (1 + np.exp(-model.decode(code).numpy()))
    np.testing.assert_allclose(reconstructions, expected, rtol=1e-4)
    [((originals, below), (title, *_))] = grids
    np.testing.assert_array_equal(originals, images)
    np.testing.assert_array_equal(below, reconstructions)
    assert "7" in title
