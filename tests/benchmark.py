"""Measure the notebook's speed beside published code, and its CIFAR-10 samples.

    python tests/benchmark.py [--tables 1 2] [--backup FOLDER]

The functions under test are the notebook's own: its cells tagged `def` are executed,
HW3_NOTEBOOK and HW3_DATA_DIR (tests/data, to try it out) act as in the tests and the
notebook. Markdown goes to standard output, the progress to standard error. The tables:

1. Seconds until a test ELBO on MNIST that TensorFlow's CVAE tutorial needs ten epochs
   for: that tutorial, keras.io's VAE (at most three epochs), and the notebook, each
   tested after every epoch. Only the notebook's time includes the test.
2. Frechet distance to the test images of CIFAR-10, in features of a classifier trained
   here: of each model's reconstructions and samples, and of two Gaussians in PCA
   space, with a quarter as many components as the code has numbers and with as many.
   For images with a class, also the share that the classifier gives this class.

`--backup` is for table 2: the folder, by default backup, that HW3_BACKUP_DIR named in a
full run of the notebook. The weights in it are measured.
"""

import argparse
import functools
import pathlib
import sys
import time
from unittest import mock

import conftest  # first: it silences TensorFlow's log and Matplotlib's windows
import numpy as np
import tensorflow as tf
from scipy.linalg import sqrtm
from stability import MODELS

layers = tf.keras.layers
TUTORIAL, KERAS_IO = "TensorFlow's tutorial", "keras.io"
EPOCHS = {TUTORIAL: 10, KERAS_IO: 3}
LATENT_DIM, TUTORIAL_BATCH, KERAS_IO_BATCH = 2, 32, 128  # as published
CONV = dict(kernel_size=3, strides=2, activation="relu")  # of both
CLASSIFIER_EPOCHS = 8
CIFAR10_MODELS = MODELS[1:]


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


def make_encoder(padding, *head):
    """The convolutions of both published encoders, and the layers behind them."""
    down = [layers.Conv2D(n, padding=padding, **CONV) for n in (32, 64)]
    down += [layers.Flatten()]
    return tf.keras.Sequential([layers.Input((28, 28, 1)), *down, *head])


def make_decoder(channels):
    """Both published decoders: they begin with 7 x 7 places of `channels` numbers."""
    up = [layers.Dense(7 * 7 * channels, activation="relu")]
    up += [layers.Reshape((7, 7, channels))]
    up += [layers.Conv2DTranspose(n, padding="same", **CONV) for n in (64, 32)]
    up += [layers.Conv2DTranspose(1, 3, padding="same")]  # logits
    return tf.keras.Sequential([layers.Input((LATENT_DIM,)), *up])


def make_tutorial(images):
    """TensorFlow's CVAE tutorial: functions to encode, decode and train one epoch."""
    encoder = make_encoder("valid", layers.Dense(2 * LATENT_DIM))
    decoder = make_decoder(32)
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
    """keras.io's VAE, but for its decoder's sigmoid, which its loss contains here."""

    def __init__(self):
        super().__init__()
        trunk = make_encoder("same", layers.Dense(16, activation="relu"))
        [hidden] = trunk.outputs
        z_mean = layers.Dense(LATENT_DIM)(hidden)
        z_log_var = layers.Dense(LATENT_DIM)(hidden)
        self.encoder = tf.keras.Model(trunk.inputs[0], [z_mean, z_log_var])
        self.decoder = make_decoder(64)

    def train_step(self, x):
        with tf.GradientTape() as tape:
            mean, logvar = self.encoder(x)
            eps = tf.random.normal(tf.shape(mean))
            logits = self.decoder(mean + tf.exp(0.5 * logvar) * eps)
            cross_entropy = tf.nn.sigmoid_cross_entropy_with_logits(x, logits)
            kl = 0.5 * (mean**2 + tf.exp(logvar) - 1 - logvar)
            negative_elbo = tf.reduce_sum(cross_entropy, [1, 2, 3]) + tf.reduce_sum(
                kl, 1
            )
            loss = tf.reduce_mean(negative_elbo)
        variables = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        return {"loss": loss}


def make_keras_io(images):
    """keras.io's VAE: functions to encode, decode and train one epoch."""
    model = KerasVAE()
    model.compile(tf.keras.optimizers.Adam())  # jit_compile stays "auto"
    fit = functools.partial(model.fit, images, batch_size=KERAS_IO_BATCH, verbose=0)
    return model.encoder, model.decoder, fit


def time_to_quality(nb):
    """Table 1. Half of the tutorial's training comes last, so that drift is shared."""
    splits = nb.load_dataset("mnist")
    x_train, x_test = (nb.preprocess_images(x, binarize=True) for x, _ in splits)
    test_batches = nb.make_dataset(x_test, nb.EVAL_BATCH_SIZE)
    tf.keras.utils.set_random_seed(nb.SEED)
    published = {TUTORIAL: make_tutorial(x_train), KERAS_IO: make_keras_io(x_train)}
    records = {name: [] for name in published}  # a pair for each epoch: seconds, ELBO

    def test_elbo(encode, decode):
        return np.mean([draw_elbo(encode, decode, x) for x in test_batches])

    def train_published(name, epochs):
        encode, decode, train_epoch = published[name]
        for _ in range(epochs):
            start = time.perf_counter()
            train_epoch()
            seconds = time.perf_counter() - start
            records[name].append((seconds, test_elbo(encode, decode)))

    train_published(TUTORIAL, EPOCHS[TUTORIAL] // 2)
    train_published(KERAS_IO, EPOCHS[KERAS_IO])
    model = nb.CVAE(**nb.MNIST_MODEL)
    model.clipnorm = nb.MNIST_CLIPNORM
    batches = nb.make_dataset(x_train, nb.BATCH_SIZE, training=True)
    history = nb.main_train_loop(model, batches, test_batches, nb.EPOCHS).history
    elbos = -np.array(history["val_loss"])
    records["this notebook"] = list(zip(history["seconds"], elbos, strict=True))
    train_published(TUTORIAL, EPOCHS[TUTORIAL] // 2)
    _, target = records[TUTORIAL][-1]
    rows = []
    for name, pairs in records.items():
        seconds, elbos = np.transpose(pairs)
        # Until the first ELBO not below the target; the tutorial comes first.
        needed = np.sum(seconds[: 1 + np.argmax(elbos >= target)])
        reached = f"{needed:.1f}" if elbos.max() >= target else "not reached"
        rows.append([name, f"{np.median(seconds):.2f}", f"{elbos[-1]:.2f}", reached])
    title = f"1. MNIST, {len(x_train):,} images: time to a test ELBO of {target:.2f}"
    header = "contender | s per epoch, median | ELBO after the last | s to the target"
    print_table(title, header, rows)


def train_classifier(nb, images, labels):
    """A small classifier of CIFAR-10; its last layer but one gives 128 features."""
    tf.keras.utils.set_random_seed(nb.SEED)
    network = [layers.RandomFlip("horizontal", seed=nb.SEED)]
    for filters in (16, 48, 96):  # small enough for minutes on two cores
        network += [layers.Conv2D(filters, 3, padding="same", activation="relu")]
        # In this order a quarter is left to normalize.
        network += [layers.MaxPooling2D(), layers.BatchNormalization()]
    network += [layers.Flatten(), layers.Dense(128, activation="relu")]
    network += [layers.Dense(10, activation="softmax")]
    model = tf.keras.Sequential([layers.Input(images.shape[1:]), *network])
    steps = CLASSIFIER_EPOCHS * -(-len(images) // nb.BATCH_SIZE)
    schedule = tf.keras.optimizers.schedules.CosineDecay(1e-3, steps)
    adam = tf.keras.optimizers.Adam(schedule)
    model.compile(adam, "sparse_categorical_crossentropy", jit_compile=False)
    model.fit(images, labels, nb.BATCH_SIZE, CLASSIFIER_EPOCHS, verbose=0)
    return model


def frechet_distance(a, b):
    """Squared Frechet distance of the Gaussians fitted to features `[n, d]`."""
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    means = np.sum((a.mean(axis=0) - b.mean(axis=0)) ** 2)
    return means + np.trace(cov_a + cov_b - 2 * sqrtm(cov_a @ cov_b).real)


def sample_pca_gaussian(images, n_components, n, generator):
    """Images drawn from a Gaussian that is fitted in the space of their PCA."""
    flat = images.reshape(len(images), -1)
    variances, directions = np.linalg.eigh(np.cov(flat, rowvar=False, dtype=np.float32))
    scale = np.sqrt(variances[-n_components:])  # the largest come last
    codes = scale * generator.normal(size=(n, n_components))
    drawn = flat.mean(axis=0) + codes @ directions[:, -n_components:].T
    return np.clip(drawn, 0, 1).reshape(n, *images.shape[1:]).astype(np.float32)


def sample_classes(nb, model, images, labels, n, generator):
    """`n` images of each class, decoded from a Gaussian fitted to the class's codes.

    A training image has one code, a draw of q(z|x).
    """
    z = model.reparameterize(*nb.encode_images(model, images)).numpy()
    drawn = []
    for codes in (z[labels == label] for label in range(10)):
        gaussian = codes.mean(axis=0), np.cov(codes, rowvar=False)
        drawn.append(generator.multivariate_normal(*gaussian, n, "ignore"))
    return nb.map_batches(model.sample, np.concatenate(drawn, dtype=np.float32))


def measure_samples(nb, folder):
    """Table 2, of the models whose finished trainings are backed up in a folder."""
    models = {name: nb.CVAE(**nb.CIFAR10_MODEL) for name in CIFAR10_MODELS}
    for name, model in models.items():
        # A model not compiled leaves the optimizer's variables in the file alone.
        model.load_weights(folder / name / "latest.weights.h5")
    train, test = ((nb.preprocess_images(x), y) for x, y in nb.load_dataset("cifar10"))
    x_test, y_test = test
    classifier = train_classifier(nb, *train)
    outputs = [layer.output for layer in classifier.layers[-2:]]
    network = tf.keras.Model(classifier.inputs, outputs)  # features, probabilities
    reference, _ = network.predict(x_test, nb.EVAL_BATCH_SIZE, verbose=0)
    rows = []

    def measure(name, images, labels=None):
        found, classes = network.predict(images, nb.EVAL_BATCH_SIZE, verbose=0)
        share = np.mean(classes.argmax(axis=1) == labels)
        named = "-" if labels is None else f"{share:.1%}"
        rows.append([name, frechet_distance(found, reference), named])

    n = len(x_test)
    latent_dim = nb.CIFAR10_MODEL["latent_dim"]
    generator = np.random.default_rng(nb.SEED)
    for n_components in (latent_dim // 4, latent_dim):
        drawn = sample_pca_gaussian(train[0], n_components, n, generator)
        measure(f"Gaussian in PCA space, {n_components} components", drawn)
    base = rows[0][1]
    measure("test images", *test)
    prior = generator.normal(size=(n, latent_dim)).astype(np.float32)
    classes = np.repeat(range(10), n // 10)
    for name, model in models.items():
        means, _ = nb.encode_images(model, x_test)
        decoded = nb.map_batches(model.sample, means)
        measure(f"{name}, reconstructions (mean code)", decoded, y_test)
        measure(f"{name}, samples from the prior", nb.map_batches(model.sample, prior))
        drawn = sample_classes(nb, model, *train, n // 10, generator)
        measure(f"{name}, samples from one Gaussian per class", drawn, classes)
    title = f"2. Frechet distance of CIFAR-10 samples to the {n:,} test images"
    header = "images | distance | share of the first | named as their class"
    rows = [[name, f"{x:z.2f}", f"{x / base:z.1%}", named] for name, x, named in rows]
    print_table(title, header, rows)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", type=int, nargs="+", choices=(1, 2), default=(1, 2))
    parser.add_argument("--backup", type=pathlib.Path, default="backup")
    args = parser.parse_args(arguments)
    nb = conftest.load_notebook()
    nb.BACKUP_DIR = None  # every training starts anew
    nb.generate_and_display_images = mock.Mock()
    nb.print = functools.partial(print, file=sys.stderr)
    print(f"TensorFlow {tf.__version__}, Keras {tf.keras.__version__}", flush=True)
    if 1 in args.tables:
        time_to_quality(nb)
    if 2 in args.tables:
        measure_samples(nb, args.backup / "full")


if __name__ == "__main__":
    main()
