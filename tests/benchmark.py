"""Measure the notebook's speed and samples, beside published code and hard limits.

    python tests/benchmark.py [--tables 1 2 3 4 5] [--epochs 10] [--keras-epochs 3]
                              [--backup FOLDER] [--images N]

The functions under test are the notebook's own: its cells tagged `def` are executed,
HW3_NOTEBOOK and HW3_DATA_DIR act as in the tests and the notebook. Markdown goes to
standard output, the progress of the trainings to standard error. The tables:

1. Seconds until a test ELBO on MNIST that TensorFlow's CVAE tutorial needs `--epochs`
   epochs for: that tutorial, keras.io's VAE (at most `--keras-epochs`), the notebook.
2. Images per second of the tutorial's network in its own loop and in the notebook's,
   and with no loop to speak of: the bare step again and again on one batch.
3. Arithmetic while training against that of a plain matrix multiplication.
4. Time and peak memory for more images and for other batch sizes.
5. Frechet distance of CIFAR-10 samples and reconstructions to the test images.

`--backup` names the folder that the notebook's BACKUP_DIR named in a full run; without
it, table 5 first trains its three models itself, CIFAR10_EPOCHS epochs each, which
takes most of an hour on two cores. `--images` cuts every data set to N images, to
try it out.
"""

import argparse
import contextlib
import json
import linecache
import os
import pathlib
import statistics
import subprocess
import sys
import time
import types

import conftest  # first: it silences TensorFlow's log and Matplotlib's windows
import nbformat
import numpy as np
import tensorflow as tf

LATENT_DIM = 2
TUTORIAL_BATCH = 32
LOOP_TURNS, WARMUP_STEPS = 3, 100
MATMUL_SIZE, MATMUL_REPEATS = 2048, 20
RATE_IMAGES, TIMED_EPOCHS = 20_000, 3
GROWTH = [(n, 128) for n in (10_000, 20_000, 40_000, 60_000)]
GROWTH += [(20_000, batch) for batch in (32, 64, 256, 512)]
CLASSIFIER_EPOCHS = 8
CIFAR10_LOSSES = {
    "cifar10_elbo": "compute_loss",
    "cifar10_improved": "compute_calibrated_loss",
    "cifar10_mmd": "compute_mmd_loss",
}


def load_notebook():
    """A module that holds what the notebook's `def` cells define, showing nothing."""
    os.environ.pop("HW3_QUICK", None)  # it would cut the data sets short
    module = types.ModuleType("notebook")
    for i, cell in enumerate(nbformat.read(conftest.NOTEBOOK, as_version=4).cells):
        if "def" in cell.metadata.get("tags", []):
            # AutoGraph looks the source up by this name.
            name = f"<notebook cell {i}>"
            lines = cell.source.splitlines(keepends=True)
            linecache.cache[name] = (len(cell.source), None, lines, name)
            exec(compile(cell.source, name, "exec"), module.__dict__)
    module.show_figure = lambda figure, alt: module.plt.close(figure)
    module.display = lambda *objects, **options: None
    return module


def load_images(nb, name, n, binarize=False):
    """Preprocessed training and test images, at most `n` of each, and their labels."""
    splits = nb.load_dataset(name)
    images = [nb.preprocess_images(x[:n], binarize) for x, _ in splits]
    return *images, *(y[:n] for _, y in splits)


def describe_machine():
    """Processor, cores and versions in one line."""
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    names = [x.split(":")[1].strip() for x in lines if x.startswith("model name")]
    return (
        f"{names[0] if names else 'unknown processor'}, "
        f"{len(os.sched_getaffinity(0))} cores usable, TensorFlow {tf.__version__}, "
        f"Keras {tf.keras.__version__}"
    )


def print_table(title, header, row_format, rows):
    """Print a Markdown table; the first column is text, the others are numbers."""
    columns = header.count("|")
    print(f"\n**{title}**\n\n| {header} |\n|:--{'|--:' * columns}|")
    for row in rows:
        print(f"| {row_format.format(*row)} |")
    sys.stdout.flush()


def seconds_of(function, *arguments):
    """Wall-clock seconds that one call takes."""
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def run_main_train_loop(nb, *arguments, **options):
    """`main_train_loop`'s history as a dict; what it prints is progress."""
    with contextlib.redirect_stdout(sys.stderr):
        return nb.main_train_loop(*arguments, **options).history


def draw_elbo(encode, decode, x):
    """Single-sample ELBO of each image of a batch, Bernoulli pixels, in nats."""
    mean, logvar = encode(x)
    eps = tf.random.normal(tf.shape(mean))
    z = mean + tf.exp(0.5 * logvar) * eps
    cross_entropy = tf.nn.sigmoid_cross_entropy_with_logits(x, decode(z))
    # log p(z) - log q(z|x): the constants cancel, and (z - mean) / sigma is eps.
    log_ratio = 0.5 * tf.reduce_sum(eps**2 + logvar - z**2, axis=1)
    return log_ratio - tf.reduce_sum(cross_entropy, axis=[1, 2, 3])


def test_elbo(nb, encode, decode, images):
    """Mean of `draw_elbo` over all `images`."""
    batches = nb.make_dataset(images, nb.EVAL_BATCH_SIZE)
    return np.concatenate([draw_elbo(encode, decode, x) for x in batches]).mean()


def make_tutorial():
    """Encode and decode functions and weights of TensorFlow's CVAE tutorial."""
    layers = tf.keras.layers
    down = dict(kernel_size=3, strides=2, activation="relu")
    up = down | dict(padding="same")
    encoder = tf.keras.Sequential([layers.Input((28, 28, 1))])
    for filters in (32, 64):
        encoder.add(layers.Conv2D(filters, **down))
    encoder.add(layers.Flatten())
    encoder.add(layers.Dense(2 * LATENT_DIM))
    decoder = tf.keras.Sequential([layers.Input((LATENT_DIM,))])
    decoder.add(layers.Dense(7 * 7 * 32, activation="relu"))
    decoder.add(layers.Reshape((7, 7, 32)))
    for filters in (64, 32):
        decoder.add(layers.Conv2DTranspose(filters, **up))
    decoder.add(layers.Conv2DTranspose(1, 3, padding="same"))
    return lambda x: tf.split(encoder(x), 2, axis=1), decoder, [encoder, decoder]


def make_tutorial_loop(encode, decode, networks):
    """Function that trains one epoch as the tutorial does: a step per Python call."""
    variables = [v for network in networks for v in network.trainable_variables]
    optimizer = tf.keras.optimizers.Adam(1e-4)

    @tf.function
    def train_step(x):
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(draw_elbo(encode, decode, x))
        gradients = tape.gradient(loss, variables)
        optimizer.apply_gradients(zip(gradients, variables, strict=True))

    def train_epoch(dataset):
        for x in dataset:
            train_step(x)

    return train_epoch


def shuffled_batches(images):
    """The tutorial's training set."""
    dataset = tf.data.Dataset.from_tensor_slices(images)
    return dataset.shuffle(len(images)).batch(TUTORIAL_BATCH)


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
        names = ("loss", "reconstruction_loss", "kl_loss")
        self.trackers = [tf.keras.metrics.Mean(name=name) for name in names]

    @property
    def metrics(self):
        return self.trackers

    def train_step(self, x):
        with tf.GradientTape() as tape:
            mean, logvar = self.encoder(x)
            eps = tf.keras.random.normal(tf.shape(mean), seed=self.noise)
            probabilities = self.decoder(mean + tf.exp(0.5 * logvar) * eps)
            cross_entropy = tf.keras.losses.binary_crossentropy(x, probabilities)
            reconstruction = tf.reduce_mean(tf.reduce_sum(cross_entropy, axis=[1, 2]))
            kl = 0.5 * (mean**2 + tf.exp(logvar) - 1 - logvar)
            kl = tf.reduce_mean(tf.reduce_sum(kl, axis=1))
            loss = reconstruction + kl
        variables = self.trainable_weights
        gradients = tape.gradient(loss, variables)
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        values = (loss, reconstruction, kl)
        for tracker, value in zip(self.trackers, values, strict=True):
            tracker.update_state(value)
        return {tracker.name: tracker.result() for tracker in self.trackers}

    def decode_logits(self, z):
        p = tf.clip_by_value(self.decoder(z), 1e-7, 1 - 1e-7)
        return tf.math.log(p) - tf.math.log1p(-p)


def time_to_quality(nb, args):
    """Table 1. The contenders train in turn and back again, so that drift is shared."""
    x_train, x_test, *_ = load_images(nb, "mnist", args.images, binarize=True)
    tf.keras.utils.set_random_seed(nb.SEED)
    encode, decode, networks = make_tutorial()
    train_epoch = make_tutorial_loop(encode, decode, networks)
    batches = shuffled_batches(x_train)
    model = KerasVAE()
    model.compile(tf.keras.optimizers.Adam())  # jit_compile stays "auto"
    tutorial, keras_io, ours = [], [], []  # (seconds, test ELBO) of each epoch

    def train_tutorial(epochs):
        for _ in range(epochs):
            seconds = seconds_of(train_epoch, batches)
            tutorial.append((seconds, test_elbo(nb, encode, decode, x_test)))
            print("tutorial", *tutorial[-1], file=sys.stderr)

    def train_keras_io(epochs):
        for _ in range(epochs):
            seconds = seconds_of(lambda: model.fit(x_train, batch_size=128, verbose=0))
            elbo = test_elbo(nb, model.encoder, model.decode_logits, x_test)
            keras_io.append((seconds, elbo))
            print("keras.io", *keras_io[-1], file=sys.stderr)

    def train_ours(seed):
        tf.keras.utils.set_random_seed(seed)
        history = run_main_train_loop(
            nb,
            nb.CVAE(**nb.MNIST_MODEL, seed=seed),
            nb.make_dataset(x_train, nb.BATCH_SIZE, training=True),
            nb.make_dataset(x_test, nb.EVAL_BATCH_SIZE),
            nb.MNIST_EPOCHS,
            learning_rate=nb.MNIST_LEARNING_RATE,
        )
        elbos = -np.array(history["val_loss"])
        ours.append(np.transpose([history["seconds"], elbos]))

    train_tutorial(args.epochs - args.epochs // 2)
    train_ours(nb.SEED)
    train_keras_io(args.keras_epochs)
    train_ours(nb.SEED + 1)
    train_tutorial(args.epochs // 2)

    published = {"TensorFlow's tutorial": tutorial, "keras.io": keras_io}
    contenders = published | {"this notebook, mean of 2 runs": np.mean(ours, axis=0)}
    target, rows, tutorial_seconds = tutorial[-1][1], [], None
    for name, records in contenders.items():
        seconds, elbos = np.transpose(records)
        median = np.median(seconds)
        times = np.cumsum(seconds)[elbos >= target]
        late, early = ("", "") if len(times) else ("> ", "< ")
        reached = times[0] if len(times) else seconds.sum()
        tutorial_seconds = tutorial_seconds or reached  # it comes first
        row = (name, median, len(x_train) / median, elbos[0], elbos[-1], len(elbos))
        rows.append((*row, late, reached, early, tutorial_seconds / reached))
    print_table(
        f"1. Time to a test ELBO of {target:.2f} nats per image, MNIST "
        f"({len(x_train):,} training images)",
        "contender | s per epoch, median | images/s | ELBO after epoch 1 | after the "
        "last (epochs) | s to the target | tutorial's s / this",
        "{} | {:.2f} | {:,.0f} | {:.2f} | {:.2f} ({}) | {}{:.1f} | {}{:.2f}",
        rows,
    )
    print(
        "\nThe target is what the tutorial reached after its last epoch; the time is "
        "taken at the end of the first epoch not below it. Tests are not timed, except "
        "the notebook's, whose own seconds include them."
    )
    runs = {f"this notebook, run {i}": run for i, run in enumerate(ours, 1)}
    curves = {n: np.transpose(records)[1] for n, records in (published | runs).items()}
    last = max(map(len, curves.values()))
    print_table(
        "1b. Test ELBO after each epoch",
        " | ".join(["contender", *map(str, range(1, last + 1))]),
        " | ".join(["{}"] * (last + 1)),
        [
            (n, *map("{:.2f}".format, c), *[""] * (last - len(c)))
            for n, c in curves.items()
        ],
    )


def compare_loops(nb, args):
    """Table 2. One network, batch size and loss over whole epochs; the loops differ."""
    images = load_images(nb, "mnist", args.images, binarize=True)[0]
    few = images[: WARMUP_STEPS * TUTORIAL_BATCH]
    tf.keras.utils.set_random_seed(nb.SEED)
    train_epoch = make_tutorial_loop(*make_tutorial())
    encode, decode, networks = make_tutorial()
    model = nb.LossModel()
    model.networks = networks  # an attribute, so that Keras finds the weights
    model.compile(
        tf.keras.optimizers.Adam(1e-4),
        lambda model, x: -tf.reduce_mean(draw_elbo(encode, decode, x)),
        steps_per_execution=nb.STEPS_PER_EXECUTION,
        jit_compile=False,
    )

    def fit(images):
        batches = nb.make_dataset(images, TUTORIAL_BATCH, training=True)
        model.fit(batches, shuffle=False, verbose=0)

    @tf.function
    def repeat_step(x, steps):
        for _ in tf.range(steps):
            model.train_step(x)

    def train_bare(images):
        batch = tf.constant(images[:TUTORIAL_BATCH])
        repeat_step(batch, tf.constant(len(images) // TUTORIAL_BATCH))

    loops = {
        "the tutorial's": lambda images: train_epoch(shuffled_batches(images)),
        "this notebook's": fit,
        "none: one batch in one graph": train_bare,
    }
    for train in loops.values():
        train(few)
    seconds = []
    for turn in range(LOOP_TURNS):
        order = list(loops)[:: 1 if turn % 2 else -1]
        times = {name: seconds_of(loops[name], images) for name in order}
        seconds.append([times[name] for name in loops])
        print("loops", *seconds[-1], file=sys.stderr)
    rates = len(images) / np.transpose(seconds)
    print_table(
        f"2. The tutorial's network in each loop, batch {TUTORIAL_BATCH}, "
        f"{LOOP_TURNS} turns of {len(images):,} images each",
        "loop | images/s, median | ratio to the tutorial's, median (range)",
        "{} | {:,.0f} | {:.2f} ({:.2f} to {:.2f})",
        [
            (name, np.median(rate), np.median(r := rate / rates[0]), r.min(), r.max())
            for name, rate in zip(loops, rates, strict=True)
        ],
    )


def matmul_rates(repeats):
    """GFLOP/s of single float32 matrix multiplications."""
    a = tf.random.normal((MATMUL_SIZE, MATMUL_SIZE))
    multiply = tf.function(lambda: tf.matmul(a, a))
    multiply()
    return [2e-9 * MATMUL_SIZE**3 / seconds_of(multiply) for _ in range(repeats)]


def training_operations(model, layer):
    """Operations per image of a layer in training: 2 for each multiply-add.

    Forward, gradient of the weights and gradient of the input cost the same; the
    first layer has no use for the last of them. Padding is counted like image.
    """
    transposed = isinstance(layer, tf.keras.layers.Conv2DTranspose)
    places = (layer.input if transposed else layer.output).shape[1:-1]
    passes = 2 if layer is model.encoder.layers[0] else 3
    return passes * 2 * int(np.prod(layer.kernel.shape)) * int(np.prod(places))


def time_layer(model, layer, batch):
    """Median seconds of a layer's forward and backward pass on one batch, alone."""
    x = tf.random.normal((batch, *layer.input.shape[1:]))
    upstream = tf.random.normal((batch, *layer.output.shape[1:]))
    is_first = layer is model.encoder.layers[0]

    @tf.function
    def both(x, upstream):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
        sources = layer.trainable_variables + ([] if is_first else [x])
        # y is returned too: what nobody asks for would be optimized away.
        return y, tape.gradient(y, sources, output_gradients=upstream)

    for _ in range(5):
        both(x, upstream)
    return statistics.median(seconds_of(both, x, upstream) for _ in range(50))


def epoch_seconds(nb, settings, images, batch, flip=False):
    """Median seconds of `main_train_loop`'s epochs after the one with the tracing.

    Its test is of one batch of images, too few to matter.
    """
    tf.keras.utils.set_random_seed(nb.SEED)
    history = run_main_train_loop(
        nb,
        nb.CVAE(**settings),
        nb.make_dataset(images, batch, training=True, flip=flip),
        nb.make_dataset(images[: nb.EVAL_BATCH_SIZE], nb.EVAL_BATCH_SIZE),
        epochs=1 + TIMED_EPOCHS,
    )
    return np.median(history["seconds"][1:])


def measure_limit(nb, args):
    """Table 3. The matrix multiplication is timed before and after each model."""
    rates, rows, profiles, words = [], [], [], []
    for name, settings in [("mnist", nb.MNIST_MODEL), ("cifar10", nb.CIFAR10_MODEL)]:
        colour = name == "cifar10"  # not binarized but flipped, as in the notebook
        before = matmul_rates(MATMUL_REPEATS)
        images = load_images(nb, name, args.images, binarize=not colour)[0]
        images = images[:RATE_IMAGES]
        seconds = epoch_seconds(nb, settings, images, nb.BATCH_SIZE, flip=colour)
        rates.append(before + matmul_rates(MATMUL_REPEATS))
        limit = np.median(rates[-1])
        step = seconds / (len(images) // nb.BATCH_SIZE)  # no ragged last batch
        model = nb.CVAE(**settings)
        layers = [x for x in model.encoder.layers + model.decoder.layers if x.weights]
        costs = [1e-9 * training_operations(model, layer) for layer in layers]
        speed, rate = nb.BATCH_SIZE / step, sum(costs) * nb.BATCH_SIZE / step
        rows.append((name, sum(costs), speed, rate, limit, rate / limit))
        alone = [time_layer(model, layer, nb.BATCH_SIZE) for layer in layers]
        labels = [f"{type(x).__name__} {x.output.shape[1:]}" for x in layers]
        for label, time_alone, cost in zip(labels, alone, costs, strict=True):
            speed = cost * nb.BATCH_SIZE / time_alone
            row = (f"{name}, {label}", 1e3 * time_alone, time_alone / step, speed)
            profiles.append(row)
        slowest = int(np.argmax(alone))
        words.append(
            f"{name}: a step of {nb.BATCH_SIZE} images takes {1e3 * step:.1f} ms. Its "
            f"layers, each alone, take {sum(alone) / step:.0%} of that, the slowest, "
            f"{labels[slowest]}, {alone[slowest] / step:.0%}."
        )
    print_table(
        "3. Arithmetic in training against a matrix multiplication",
        "model | GFLOP per image | images/s | GFLOP/s | matmul, around it | share",
        "{} | {:.4f} | {:,.0f} | {:.1f} | {:.1f} | {:.0%}",
        rows,
    )
    print(
        f"\nmatmul of {MATMUL_SIZE} x {MATMUL_SIZE}, float32: best "
        f"{np.max(rates):.1f}, median {np.median(rates):.1f} GFLOP/s."
    )
    print_table(
        f"3b. Forward and backward pass of each layer alone, batch {nb.BATCH_SIZE}",
        "layer | ms | share of the step | GFLOP/s",
        "{} | {:.2f} | {:.0%} | {:.1f}",
        profiles,
    )
    print("", *words, sep="\n")


def measure_one(nb, n, batch):
    """Print seconds per epoch and this process's peak memory in MB, as JSON."""
    (images, _), _ = nb.load_dataset("mnist")
    images = nb.preprocess_images(images[:n], binarize=True)
    seconds = epoch_seconds(nb, nb.MNIST_MODEL, images, batch)
    status = pathlib.Path("/proc/self/status").read_text().splitlines()
    peak = next(line for line in status if line.startswith("VmHWM:"))
    print(json.dumps([len(images), seconds, int(peak.split()[1]) / 1000]))


def measure_growth(nb, args):
    """Table 4. Each row is a process of its own, so that each peak is its own."""
    rows = []
    for n, batch in GROWTH:
        if args.images is not None:
            n = max(batch, n * args.images // nb.FULL_SIZES["mnist"][0])
        command = [sys.executable, __file__, "--one", str(n), str(batch)]
        result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        images, seconds, peak = json.loads(result.stdout.splitlines()[-1])
        rate = images // batch * batch / seconds
        rows.append((images, batch, seconds, rate, peak))
    print_table(
        "4. Growth, MNIST model",
        "images | batch | s per epoch | images/s | peak memory, MB",
        "{:,} | {} | {:.2f} | {:,.0f} | {:,.0f}",
        rows,
    )


def train_classifier(nb, images, labels):
    """A small classifier of CIFAR-10; its last layer but one gives 128 features."""
    layers = tf.keras.layers
    tf.keras.utils.set_random_seed(nb.SEED)
    model = tf.keras.Sequential(
        [layers.Input(images.shape[1:]), layers.RandomFlip("horizontal", seed=nb.SEED)]
    )
    for filters in (16, 48, 96):  # small enough for minutes on two cores
        model.add(layers.Conv2D(filters, 3, padding="same", activation="relu"))
        model.add(layers.MaxPooling2D())  # before the normalization: a quarter of it
        model.add(layers.BatchNormalization())
    model.add(layers.Flatten())
    model.add(layers.Dense(128, activation="relu"))
    model.add(layers.Dense(10))
    steps = CLASSIFIER_EPOCHS * -(-len(images) // nb.BATCH_SIZE)
    schedule = tf.keras.optimizers.schedules.CosineDecay(1e-3, steps)
    model.compile(
        tf.keras.optimizers.Adam(schedule),
        tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,
    )
    model.fit(images, labels, nb.BATCH_SIZE, CLASSIFIER_EPOCHS, verbose=0)
    return model


def frechet_distance(a, b):
    """Squared Frechet distance of the Gaussians fitted to features `[n, d]`."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(cov_a)
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    # sqrt(A B) has the trace of sqrt(sqrt(A) B sqrt(A)), which is symmetric.
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ cov_b @ root), 0)).sum()
    means = np.sum((a.mean(axis=0) - b.mean(axis=0)) ** 2)
    return means + np.trace(cov_a) + np.trace(cov_b) - 2 * cross


def sample_pca_gaussian(images, n_components, n, generator):
    """Images drawn from a Gaussian that is fitted in the space of their PCA."""
    flat = images.reshape(len(images), -1)
    mean = flat.mean(axis=0, dtype=np.float64)
    scatter = flat.T @ flat / len(flat) - np.outer(mean, mean)
    values, vectors = np.linalg.eigh(scatter)
    scale = np.sqrt(np.maximum(values[-n_components:], 0))
    codes = scale * generator.normal(size=(n, n_components))
    drawn = mean + codes @ vectors[:, -n_components:].T
    return np.clip(drawn, 0, 1).reshape(n, *images.shape[1:]).astype(np.float32)


def get_cifar10_models(nb, backup, train_images, test_images):
    """Yield name and model of each CIFAR-10 training: from the backup, or trained."""
    for name, loss_name in CIFAR10_LOSSES.items():
        tf.keras.utils.set_random_seed(nb.SEED)
        model = nb.CVAE(**nb.CIFAR10_MODEL)
        if backup:
            progress = json.loads((backup / name / "progress.json").read_text())
            done = len(progress["logs"])
            if done < progress.get("epochs", done):
                sys.exit(f"{name} in {backup} is unfinished: {done} epochs are done")
            model.load_weights(backup / name / f"epoch-{done}.weights.h5")
        else:
            run_main_train_loop(
                nb,
                model,
                nb.make_dataset(train_images, nb.BATCH_SIZE, training=True, flip=True),
                nb.make_dataset(test_images, nb.EVAL_BATCH_SIZE),
                nb.CIFAR10_EPOCHS,
                loss_fn=getattr(nb, loss_name),
            )
        yield name, model


def decode_all(nb, model, codes):
    """Images of codes `[N, latent_dim]`, in batches."""
    batches = nb.make_dataset(codes, nb.EVAL_BATCH_SIZE)
    return np.concatenate([model.sample(z).numpy() for z in batches])


def measure_samples(nb, args):
    """Table 5."""
    x_train, x_test, y_train, y_test = load_images(nb, "cifar10", args.images)
    start = time.perf_counter()
    classifier = train_classifier(nb, x_train, y_train)
    seconds = time.perf_counter() - start
    accuracy = classifier.evaluate(x_test, y_test, nb.EVAL_BATCH_SIZE, verbose=0)[1]
    features = tf.keras.Model(classifier.inputs, classifier.layers[-2].output)

    def distance(images):
        return frechet_distance(
            features.predict(images, nb.EVAL_BATCH_SIZE, verbose=0), reference
        )

    reference = features.predict(x_test, nb.EVAL_BATCH_SIZE, verbose=0)
    n, latent_dim = len(x_test), nb.CIFAR10_MODEL["latent_dim"]
    generator = np.random.default_rng(nb.SEED)
    line = "Gaussian in PCA space, samples (to beat)"
    distances = {
        "training images (floor)": distance(x_train[:n]),
        line: distance(sample_pca_gaussian(x_train, latent_dim, n, generator)),
    }
    codes = generator.normal(size=(n, latent_dim)).astype(np.float32)
    for name, model in get_cifar10_models(nb, args.backup, x_train, x_test):
        distances[f"{name}, samples"] = distance(decode_all(nb, model, codes))
        means = nb.encode_means(model, x_test)
        distances[f"{name}, reconstructions"] = distance(decode_all(nb, model, means))
    print_table(
        f"5. Frechet distance to the {n:,} test images of CIFAR-10",
        "images | distance | share of the PCA Gaussian's",
        "{} | {:.2f} | {:.1%}",
        [(name, value, value / distances[line]) for name, value in distances.items()],
    )
    print(
        f"\nFeatures: {reference.shape[1]}, of a classifier trained here for "
        f"{CLASSIFIER_EPOCHS} epochs ({seconds:.0f} s), test accuracy {accuracy:.1%}."
    )


TABLES = {
    1: time_to_quality,
    2: compare_loops,
    3: measure_limit,
    4: measure_growth,
    5: measure_samples,
}


def main(args):
    nb = load_notebook()
    if args.one:
        return measure_one(nb, *args.one)
    print(describe_machine(), flush=True)
    for number in args.tables:
        TABLES[number](nb, args)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", type=int, nargs="+", choices=TABLES, default=TABLES)
    parser.add_argument("--epochs", type=int, default=10, help="the tutorial's")
    parser.add_argument("--keras-epochs", type=int, default=3, help="keras.io's")
    parser.add_argument("--backup", type=pathlib.Path, help="folder of trained models")
    parser.add_argument("--images", type=int, help="cut data sets to this many images")
    parser.add_argument("--one", type=int, nargs=2, help=argparse.SUPPRESS)
    main(parser.parse_args())
