"""Train the notebook's models on many seeds: how stable they are, how far they scatter.

    python tests/stability.py mnist [--seeds 157 1 2] [--epochs 5]
    python tests/stability.py bernoulli_kl calibrated_mmd --seeds 157 1 2 --epochs 3

mnist is the MNIST model, the others are those of CIFAR-10. `--epochs` is the length of
a whole training, from the peak of the learning rate down to 0. A row gives, for the
steps after the first hundred (or after the first half, where they are fewer), the worst
norm of the gradient before it is clipped and the range of the log variances, and at the
end the loss and the PSNR on the test images; below a model's rows follows how far its
seeds lie apart. HW3_NOTEBOOK and HW3_DATA_DIR (tests/data, to try it out) act as in the
tests and the notebook; TensorFlow's own variables choose another rounding
(TF_ENABLE_ONEDNN_OPTS=0, ONEDNN_MAX_CPU_ISA=AVX2) and the threads
(TF_NUM_INTRAOP_THREADS=1).
"""

import argparse
import functools
import sys
from unittest import mock

import conftest
import numpy as np
import tensorflow as tf

MODELS = "mnist bernoulli_kl calibrated_kl bernoulli_mmd calibrated_mmd".split()
NORM, LOWEST, HIGHEST = range(3)  # columns of the record of a training


def record_training(nb, model, record, *arguments):
    """Run the notebook's loop; `record` gets a row for each step.

    Returns the loss on the test images after the last epoch.
    """

    class Adam(tf.keras.optimizers.Adam):
        def apply(self, gradients, variables=None):
            put(NORM, tf.linalg.global_norm(gradients))
            return super().apply(gradients, variables)

    def put(column, value):
        # A test batch writes where the next training step writes again.
        step = tf.cast(model.optimizer.iterations, tf.int32)
        record.scatter_nd_update([[step, column]], [value])

    def encode(x, original=model.encode):
        mean, logvar = original(x)
        put(LOWEST, tf.reduce_min(logvar))
        put(HIGHEST, tf.reduce_max(logvar))
        return mean, logvar

    model.encode = encode
    with mock.patch.object(tf.keras.optimizers, "Adam", Adam):
        history = nb.main_train_loop(model, *arguments)
    return history.history["val_loss"][-1]


def make_loss(nb, name):
    """The loss function that the notebook trains a model with."""
    calibrated = name.startswith("calibrated")
    likelihood = nb.log_calibrated_pdf if calibrated else nb.log_bernoulli_pdf
    options = dict(log_likelihood=likelihood)
    if not name.endswith("mmd"):
        return functools.partial(nb.compute_loss, **options)
    options["weight"] = nb.CALIBRATED_MMD_WEIGHT if calibrated else nb.MMD_WEIGHT
    return functools.partial(nb.compute_mmd_loss, **options)


def train_seeds(nb, name, seeds, epochs):
    """Train a model on each seed and print its rows."""
    is_mnist = name == "mnist"
    splits = nb.load_dataset("mnist" if is_mnist else "cifar10")
    train, test = (nb.preprocess_images(x, binarize=is_mnist) for x, _ in splits)
    batches = nb.make_dataset(train, nb.BATCH_SIZE, training=True, flip=not is_mnist)
    test_batches = nb.make_dataset(test, nb.EVAL_BATCH_SIZE)
    steps = epochs * int(batches.cardinality())
    qualities = []
    for seed in seeds:
        design = nb.MNIST_MODEL if is_mnist else nb.CIFAR10_MODEL
        model = nb.CVAE(**design, seed=seed)
        model.clipnorm = nb.MNIST_CLIPNORM if is_mnist else None
        record = tf.Variable(tf.zeros((steps + 1, 3)))
        arguments = batches, test_batches, epochs, make_loss(nb, name)
        try:
            loss = f"{record_training(nb, model, record, *arguments):.2f}"
        except FloatingPointError as error:
            loss = f"DIVERGED: {error}"
        late = record.numpy()[min(100, steps // 2) : steps]
        codes, _ = nb.encode_images(model, test)
        decoded = nb.map_batches(model.sample, codes)
        qualities.append(nb.compute_psnr(test, decoded))
        print(
            f"| {name} | {seed} | {late[:, NORM].max():.0f} "
            f"| {late[:, LOWEST].min():.1f} to {late[:, HIGHEST].max():.1f} "
            f"| {loss} | {qualities[-1]:.2f} dB |",
            flush=True,
        )
    spread = f"{np.mean(qualities):.2f} dB, {np.ptp(qualities):.2f} dB apart"
    print(f"| {name} | all | | | | {spread} |", flush=True)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", choices=MODELS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[157])
    parser.add_argument("--epochs", type=int, help="as the notebook by default")
    args = parser.parse_args(arguments)
    nb = conftest.load_notebook()
    nb.BACKUP_DIR = None  # every training starts anew
    nb.generate_and_display_images = mock.Mock()
    nb.print = functools.partial(print, file=sys.stderr)
    print("| model | seed | worst norm | log variance | test loss | test PSNR |")
    print(f"|:--{'|--:' * 5}|", flush=True)
    for name in args.models:
        train_seeds(nb, name, args.seeds, args.epochs or nb.EPOCHS)


if __name__ == "__main__":
    main()
