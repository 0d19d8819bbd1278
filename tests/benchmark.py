"""Measure the notebook's speed on MNIST beside two published trainings.

    python tests/benchmark.py

The question: after how many seconds of training is the test ELBO at least the one that
TensorFlow's CVAE tutorial has after ten epochs? The contenders are that tutorial,
keras.io's VAE (three epochs at most) and the notebook, each tested after every epoch;
only the notebook's time includes the test. Half of the tutorial's epochs run first and
half last, so that a machine that becomes slower or faster does not favour either.
HW3_NOTEBOOK names another notebook, HW3_DATA_DIR the data (tests/data, to try it out).
A Markdown table goes to standard output, the progress to standard error.
"""

import functools
import sys
import time

import conftest  # first: it silences TensorFlow's log and Matplotlib's windows
import numpy as np
import tensorflow as tf

layers = tf.keras.layers
TUTORIAL_EPOCHS, KERAS_IO_EPOCHS = 10, 3
LATENT_DIM, TUTORIAL_BATCH, KERAS_IO_BATCH = 2, 32, 128  # as published


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
    down = [layers.Conv2D(n, 3, 2, padding, activation="relu") for n in (32, 64)]
    network = [layers.Input((28, 28, 1)), *down, layers.Flatten(), *head]
    return tf.keras.Sequential(network)


def make_decoder(channels):
    """Both published decoders: they begin with 7 x 7 places of `channels` numbers."""
    network = [layers.Input((LATENT_DIM,))]
    network += [layers.Dense(7 * 7 * channels, activation="relu")]
    network += [layers.Reshape((7, 7, channels))]
    for n in (64, 32):
        network += [layers.Conv2DTranspose(n, 3, 2, "same", activation="relu")]
    network += [layers.Conv2DTranspose(1, 3, padding="same")]  # logits
    return tf.keras.Sequential(network)


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
        z_mean = layers.Dense(LATENT_DIM)(trunk.outputs[0])
        z_log_var = layers.Dense(LATENT_DIM)(trunk.outputs[0])
        self.encoder = tf.keras.Model(trunk.inputs[0], [z_mean, z_log_var])
        self.decoder = make_decoder(64)

    def train_step(self, x):
        with tf.GradientTape() as tape:
            mean, logvar = self.encoder(x)
            eps = tf.random.normal(tf.shape(mean))
            logits = self.decoder(mean + tf.exp(0.5 * logvar) * eps)
            cross_entropy = tf.nn.sigmoid_cross_entropy_with_logits(x, logits)
            error = tf.reduce_sum(cross_entropy, axis=[1, 2, 3])
            kl = 0.5 * tf.reduce_sum(mean**2 + tf.exp(logvar) - 1 - logvar, axis=1)
            loss = tf.reduce_mean(error + kl)
        variables = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        return {"loss": loss}


def make_keras_io(images):
    """keras.io's VAE: functions to encode, decode and train one epoch."""
    model = KerasVAE()
    model.compile(tf.keras.optimizers.Adam())  # jit_compile stays "auto"
    fit = functools.partial(model.fit, images, batch_size=KERAS_IO_BATCH, verbose=0)
    return model.encoder, model.decoder, fit


def train_published(contender, epochs, test_batches):
    """Train a published model; returns pairs of seconds and test ELBO, by epoch."""
    encode, decode, train_epoch = contender
    pairs = []
    for _ in range(epochs):
        start = time.perf_counter()
        train_epoch()
        seconds = time.perf_counter() - start
        elbos = [draw_elbo(encode, decode, x) for x in test_batches]
        pairs.append((seconds, np.mean(np.concatenate(elbos))))
        print(f"{seconds:.1f} s, test ELBO {pairs[-1][1]:.2f}", file=sys.stderr)
    return pairs


def seconds_until(pairs, target):
    """Seconds until the first test ELBO that is not below the target, or nan."""
    total_seconds = np.cumsum([seconds for seconds, _ in pairs])
    reached = total_seconds[[elbo >= target for _, elbo in pairs]]
    return min(reached, default=np.nan)


def main():
    nb = conftest.load_notebook()
    nb.generate_and_display_images = lambda *args, **kwargs: None
    nb.print = functools.partial(print, file=sys.stderr)
    splits = nb.load_dataset("mnist")
    x_train, x_test = (nb.preprocess_images(x, binarize=True) for x, _ in splits)
    test_batches = nb.make_dataset(x_test, nb.EVAL_BATCH_SIZE)
    tf.keras.utils.set_random_seed(nb.SEED)
    tutorial, keras_io = make_tutorial(x_train), make_keras_io(x_train)

    half = TUTORIAL_EPOCHS // 2
    tutorial_pairs = train_published(tutorial, half, test_batches)
    keras_io_pairs = train_published(keras_io, KERAS_IO_EPOCHS, test_batches)
    model = nb.CVAE(**nb.MNIST_MODEL)
    batches = nb.make_dataset(x_train, nb.MNIST_BATCH_SIZE, training=True)
    history = nb.main_train_loop(model, batches, test_batches, nb.MNIST_EPOCHS)
    elbos = -np.array(history["val_loss"])
    tutorial_pairs += train_published(tutorial, TUTORIAL_EPOCHS - half, test_batches)
    records = {
        "TensorFlow's tutorial": tutorial_pairs,
        "keras.io": keras_io_pairs,
        "this notebook": list(zip(history["seconds"], elbos, strict=True)),
    }

    target = tutorial_pairs[-1][1]
    own = seconds_until(tutorial_pairs, target)
    print(f"{len(x_train):,} images; target: a test ELBO of {target:.2f}\n")
    print("| contender | s per epoch, median | last ELBO | s to the target | share |")
    print("|:--|--:|--:|--:|--:|")
    for name, pairs in records.items():
        needed = seconds_until(pairs, target)
        median = np.median([seconds for seconds, _ in pairs])
        end = f"{needed:.1f} | 1/{own / needed:.1f}" if np.isfinite(needed) else "- | -"
        print(f"| {name} | {median:.2f} | {pairs[-1][1]:.2f} | {end} |")


if __name__ == "__main__":
    main()
