"""Measure the notebook's speed beside published code, and its CIFAR-10 samples.

    python tests/benchmark.py --backup FOLDER [--tables 1 2] [--epochs 10]
                              [--keras-epochs 3] [--images N]

The functions under test are the notebook's own: its cells tagged `def` are executed,
HW3_NOTEBOOK and HW3_DATA_DIR act as in the tests and the notebook. Markdown goes to
standard output, the progress of the trainings to standard error. The tables:

1. Seconds until a test ELBO on MNIST that TensorFlow's CVAE tutorial needs `--epochs`
   epochs for: that tutorial, keras.io's VAE (at most `--keras-epochs`), the notebook.
2. Frechet distance to the test images of CIFAR-10, in features of a classifier trained
   here: of each model's reconstructions and samples, and of a Gaussian in PCA space.

`--backup`, which table 2 needs, is the folder that HW3_BACKUP_DIR named in a full run
of the notebook: the weights in it are measured. `--images` cuts every data set to N
images, to try it out.
"""

import argparse
import contextlib
import os
import pathlib
import sys
import time
from unittest import mock

import conftest  # first: it silences TensorFlow's log and Matplotlib's windows
import numpy as np
import tensorflow as tf
from scipy.linalg import sqrtm

TUTORIAL, KERAS_IO = "TensorFlow's tutorial", "keras.io"
LATENT_DIM, TUTORIAL_BATCH, KERAS_IO_BATCH = 2, 32, 128  # as published
CLASSIFIER_EPOCHS = 8
CIFAR10_NAMES = ("elbo", "mmd", "improved", "improved_mmd", "large")


def load_images(nb, name, n, binarize=False):
    """Preprocessed training and test images, at most `n` of each, and their labels."""
    splits = nb.load_dataset(name)
    images = [nb.preprocess_images(x[:n], binarize) for x, _ in splits]
    return *images, *(y[:n] for _, y in splits)


def describe_machine():
    """Processor, cores and versions in one line."""
    info = pathlib.Path("/proc/cpuinfo").read_text()
    processor = info.partition("model name\t: ")[2].partition("\n")[0]
    versions = f"TensorFlow {tf.__version__}, Keras {tf.keras.__version__}"
    return f"{processor}, {len(os.sched_getaffinity(0))} cores, {versions}"


def print_table(title, header, rows):
    """Print a Markdown table of strings; the first column is text, others numbers."""
    print(f"\n**{title}**\n\n| {header} |\n|:--{'|--:' * header.count('|')}|")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


def draw_elbo(encode, decode, x):
    """Single-sample ELBO of each image of a batch, Bernoulli pixels, in nats."""
    mean, logvar = encode(x)
    eps = tf.random.normal(tf.shape(mean))
    z = mean + tf.exp(0.5 * logvar) * eps
    cross_entropy = tf.nn.sigmoid_cross_entropy_with_logits(x, decode(z))
    # log p(z) - log q(z|x): the constants cancel, and (z - mean) / sigma is eps.
    log_ratio = 0.5 * tf.reduce_sum(eps**2 + logvar - z**2, axis=1)
    return log_ratio - tf.reduce_sum(cross_entropy, axis=[1, 2, 3])


def make_tutorial(images):
    """TensorFlow's CVAE tutorial: functions to encode, decode and train one epoch."""
    layers = tf.keras.layers
    conv = dict(kernel_size=3, strides=2, activation="relu")
    down = [layers.Conv2D(n, **conv) for n in (32, 64)]
    codes = [layers.Flatten(), layers.Dense(2 * LATENT_DIM)]
    encoder = tf.keras.Sequential([layers.Input((28, 28, 1)), *down, *codes])
    first = [layers.Dense(7 * 7 * 32, activation="relu"), layers.Reshape((7, 7, 32))]
    up = [layers.Conv2DTranspose(n, padding="same", **conv) for n in (64, 32)]
    last = layers.Conv2DTranspose(1, 3, padding="same")
    decoder = tf.keras.Sequential([layers.Input((LATENT_DIM,)), *first, *up, last])
    variables = encoder.trainable_variables + decoder.trainable_variables
    optimizer = tf.keras.optimizers.Adam(1e-4)
    batches = tf.data.Dataset.from_tensor_slices(images)
    batches = batches.shuffle(len(images)).batch(TUTORIAL_BATCH)

    def encode(x):
        return tf.split(encoder(x), 2, axis=1)

    @tf.function
    def train_step(x):
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(draw_elbo(encode, decoder, x))
        optimizer.apply(tape.gradient(loss, variables), variables)

    def train_epoch():
        for x in batches:  # a step per Python call, as the tutorial does
            train_step(x)

    return encode, decoder, train_epoch


class KerasVAE(tf.keras.Model):
    """keras.io's VAE."""

    def __init__(self):
        super().__init__()
        layers = tf.keras.layers
        conv = dict(kernel_size=3, strides=2, padding="same", activation="relu")
        x = inputs = layers.Input((28, 28, 1))
        for filters in (32, 64):
            x = layers.Conv2D(filters, **conv)(x)
        x = layers.Dense(16, activation="relu")(layers.Flatten()(x))
        heads = [layers.Dense(LATENT_DIM)(x), layers.Dense(LATENT_DIM)(x)]
        self.encoder = tf.keras.Model(inputs, heads)
        x = codes = layers.Input((LATENT_DIM,))
        x = layers.Dense(7 * 7 * 64, activation="relu")(x)
        x = layers.Reshape((7, 7, 64))(x)
        for filters in (64, 32):
            x = layers.Conv2DTranspose(filters, **conv)(x)
        last = layers.Conv2DTranspose(1, 3, padding="same", activation="sigmoid")
        self.decoder = tf.keras.Model(codes, last(x))
        self.noise = tf.keras.random.SeedGenerator(1337)

    def train_step(self, x):
        with tf.GradientTape() as tape:
            mean, logvar = self.encoder(x)
            eps = tf.keras.random.normal(tf.shape(mean), seed=self.noise)
            probabilities = self.decoder(mean + tf.exp(0.5 * logvar) * eps)
            cross_entropy = tf.keras.losses.binary_crossentropy(x, probabilities)
            reconstruction = tf.reduce_mean(tf.reduce_sum(cross_entropy, axis=[1, 2]))
            kl = 0.5 * (mean**2 + tf.exp(logvar) - 1 - logvar)
            loss = reconstruction + tf.reduce_mean(tf.reduce_sum(kl, axis=1))
        variables = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        return {"loss": loss}

    def decode(self, z):
        """Logits, which the other contenders' decoders give."""
        p = tf.clip_by_value(self.decoder(z), 1e-7, 1 - 1e-7)
        return tf.math.log(p) - tf.math.log1p(-p)


def train_contenders(nb, args, x_train, x_test):
    """Seconds and test ELBO of each epoch of the published, and of the notebook's runs.

    Returns a dict of name -> list of (seconds, ELBO), and a list of such lists, which
    have an entry for every execution of the first epoch, then one for each epoch. The
    contenders train in turn and back again, so that drift is shared.
    """
    tf.keras.utils.set_random_seed(nb.SEED)
    contenders = {TUTORIAL: make_tutorial(x_train)}
    keras_io = KerasVAE()
    keras_io.compile(tf.keras.optimizers.Adam())  # jit_compile stays "auto"

    def train_keras_io():
        keras_io.fit(x_train, batch_size=KERAS_IO_BATCH, verbose=0)

    contenders[KERAS_IO] = keras_io.encoder, keras_io.decode, train_keras_io
    published, ours = {name: [] for name in contenders}, []
    test_batches = nb.make_dataset(x_test, nb.EVAL_BATCH_SIZE)

    def test_elbo(encode, decode):
        return np.mean([draw_elbo(encode, decode, x) for x in test_batches])

    def train_published(name, epochs):
        encode, decode, train_epoch = contenders[name]
        for _ in range(epochs):
            start = time.perf_counter()
            train_epoch()
            seconds = time.perf_counter() - start
            published[name].append((seconds, test_elbo(encode, decode)))
            print(name, *published[name][-1], file=sys.stderr)

    class Report(nb.EpochReport):
        """Takes the test ELBO during the first epoch, too, its clock stopped."""

        def on_train_batch_end(self, batch, logs=None):
            super().on_train_batch_end(batch, logs)
            if self.epoch == 1:
                seconds = time.perf_counter() - self.start
                elbo = test_elbo(self.model.encode, self.model.decode)
                ours[-1].append((seconds, elbo))
                self.start = time.perf_counter()

    def train_ours(seed):
        model = nb.CVAE(**nb.MNIST_MODEL, seed=seed)
        batches = nb.make_dataset(x_train, nb.BATCH_SIZE, training=True)
        options = dict(epochs=nb.EPOCHS, learning_rate=nb.MNIST_LEARNING_RATE)
        options["clipnorm"] = nb.MNIST_CLIPNORM
        ours.append([])
        with contextlib.redirect_stdout(sys.stderr):
            with mock.patch.object(nb, "EpochReport", Report):
                history = nb.main_train_loop(model, batches, test_batches, **options)
        seconds, losses = history.history["seconds"], history.history["val_loss"]
        ours[-1] += zip(seconds[1:], -np.array(losses[1:]), strict=True)

    train_published(TUTORIAL, args.epochs - args.epochs // 2)
    train_ours(nb.SEED)
    train_published(KERAS_IO, args.keras_epochs)
    train_ours(nb.SEED + 1)
    train_published(TUTORIAL, args.epochs // 2)
    return published, ours


def time_to_quality(nb, args):
    """Table 1."""
    x_train, x_test, *_ = load_images(nb, "mnist", args.images, binarize=True)
    published, ours = train_contenders(nb, args, x_train, x_test)
    target, rows = published[TUTORIAL][-1][1], []
    for name, records in (published | {"this notebook": np.mean(ours, axis=0)}).items():
        seconds, elbos = np.transpose(records)
        # Until the first ELBO not below the target; the tutorial comes first.
        needed = np.sum(seconds[: 1 + np.argmax(elbos >= target)])
        reached = f"{needed:.1f}" if elbos.max() >= target else "not reached"
        epochs = seconds[-nb.EPOCHS + 1 :]  # ours has more in the first epoch
        rows.append([name, f"{np.median(epochs):.2f}", f"{elbos[-1]:.2f}", reached])
    print_table(
        f"1. MNIST, {len(x_train):,} images: time to a test ELBO of {target:.2f} nats",
        "contender | s per epoch, median | ELBO after the last | s to the target",
        rows,
    )
    print(
        f"\nThe notebook: mean of two runs, tested every {nb.STEPS_PER_EXECUTION} "
        "steps of the first epoch; as for the others, the time of that is not counted. "
        "Its later epochs include the test."
    )


def train_classifier(nb, images, labels):
    """A small classifier of CIFAR-10; its last layer but one gives 128 features."""
    layers = tf.keras.layers
    tf.keras.utils.set_random_seed(nb.SEED)
    model = tf.keras.Sequential([layers.Input(images.shape[1:])])
    model.add(layers.RandomFlip("horizontal", seed=nb.SEED))
    for filters in (16, 48, 96):  # small enough for minutes on two cores
        model.add(layers.Conv2D(filters, 3, padding="same", activation="relu"))
        model.add(layers.MaxPooling2D())  # before the normalization: a quarter of it
        model.add(layers.BatchNormalization())
    model.add(layers.Flatten())
    model.add(layers.Dense(128, activation="relu"))
    model.add(layers.Dense(10))
    steps = CLASSIFIER_EPOCHS * -(-len(images) // nb.BATCH_SIZE)
    schedule = tf.keras.optimizers.schedules.CosineDecay(1e-3, steps)
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    adam = tf.keras.optimizers.Adam(schedule)
    model.compile(adam, loss, metrics=["accuracy"], jit_compile=False)
    model.fit(images, labels, nb.BATCH_SIZE, CLASSIFIER_EPOCHS, verbose=0)
    return model


def frechet_distance(a, b):
    """Squared Frechet distance of the Gaussians fitted to features `[n, d]`."""
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    means = np.sum((a.mean(axis=0) - b.mean(axis=0)) ** 2)
    return means + np.trace(cov_a + cov_b - 2 * sqrtm(cov_a @ cov_b).real)


def sample_pca_gaussian(nb, images, n_components, n, generator):
    """Images drawn from a Gaussian that is fitted in the space of their PCA."""
    flat = images.reshape(len(images), -1)
    mean, variances, directions = nb.principal_components(flat)
    scale = np.sqrt(variances[:n_components])
    codes = scale * generator.normal(size=(n, n_components))
    drawn = mean + codes @ directions[:, :n_components].T
    return np.clip(drawn, 0, 1).reshape(n, *images.shape[1:]).astype(np.float32)


def load_model(nb, folder):
    """The CIFAR-10 model whose finished training is backed up in `folder`."""
    size = {"latent_dim": nb.LARGE_LATENT_DIM} if folder.name == "large" else {}
    model = nb.CVAE(**nb.CIFAR10_MODEL | size)
    # Of the variables in the file, a model not compiled leaves the optimizer's alone.
    model.load_weights(folder / "latest.weights.h5")
    return model


def measure_samples(nb, args):
    """Table 2."""
    models = {name: load_model(nb, args.backup / name) for name in CIFAR10_NAMES}
    x_train, x_test, y_train, y_test = load_images(nb, "cifar10", args.images)
    classifier = train_classifier(nb, x_train, y_train)
    accuracy = classifier.evaluate(x_test, y_test, nb.EVAL_BATCH_SIZE, verbose=0)[1]
    features = tf.keras.Model(classifier.inputs, classifier.layers[-2].output)
    reference = features.predict(x_test, nb.EVAL_BATCH_SIZE, verbose=0)
    distances = {}

    def measure(name, images):
        found = features.predict(images, nb.EVAL_BATCH_SIZE, verbose=0)
        distances[name] = frechet_distance(found, reference)
        print(name, distances[name], file=sys.stderr)
        return distances[name]

    n, n_components = len(x_test), nb.CIFAR10_MODEL["latent_dim"]
    generator = np.random.default_rng(nb.SEED)
    measure("training images", x_train[:n])
    drawn = sample_pca_gaussian(nb, x_train, n_components, n, generator)
    base = measure(f"Gaussian in PCA space, {n_components} components", drawn)
    # Each model takes as many numbers of these as its code has.
    codes = generator.normal(size=(n, nb.LARGE_LATENT_DIM)).astype(np.float32)
    for name, model in models.items():
        means, _ = nb.encode_images(model, x_test)
        measure(f"{name}, reconstructions (mean code)", nb.decode_codes(model, means))
        prior = codes[:, : model.latent_dim]
        measure(f"{name}, samples from the prior", nb.decode_codes(model, prior))
        classes = np.concatenate(nb.sample_classes(model, x_train, y_train, n // 10))
        measure(f"{name}, samples from one Gaussian per class", classes)
    print_table(
        f"2. Frechet distance of CIFAR-10 samples to the {n:,} test images",
        "images | distance | share of the PCA Gaussian's",
        [[name, f"{x:.2f}", f"{x / base:.1%}"] for name, x in distances.items()],
    )
    print(
        f"\nFeatures: {reference.shape[1]}, of a classifier trained here for "
        f"{CLASSIFIER_EPOCHS} epochs, test accuracy {accuracy:.1%}."
    )


TABLES = {1: time_to_quality, 2: measure_samples}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", type=int, nargs="+", choices=TABLES, default=TABLES)
    parser.add_argument("--epochs", type=int, default=10, help="the tutorial's")
    parser.add_argument("--keras-epochs", type=int, default=3, help="keras.io's")
    parser.add_argument("--backup", type=pathlib.Path, help="folder of trained models")
    parser.add_argument("--images", type=int, help="cut data sets to this many images")
    args = parser.parse_args()
    if 2 in args.tables and not args.backup:
        parser.error("table 2 needs --backup")
    nb = conftest.load_notebook()
    nb.plt.show = lambda: nb.plt.close("all")
    nb.DisplayHandle = mock.Mock  # no live progress
    print(describe_machine(), flush=True)
    for number in args.tables:
        TABLES[number](nb, args)


if __name__ == "__main__":
    main()
