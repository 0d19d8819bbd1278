"""Train the notebook's models on many seeds and report how near they come to diverging.

    python tests/stability.py mnist [--seeds 157 1 2] [--epochs 5] [--threads 1]
    python tests/stability.py elbo mmd improved improved_mmd --seeds 157 1 --epochs 2

mnist is the MNIST model, the others are those of CIFAR-10. Each goes over the first
`--epochs` epochs of its schedule. A row gives, for the steps after the first hundred
(or after the first half, where they are fewer), the worst loss as a multiple of its
epoch's mean (for a loss below 0: one plus the excess over the mean, in units of its
size), the worst norm of the gradient, the range of the log variances, and the test loss
at the end. HW3_NOTEBOOK and HW3_DATA_DIR act as in the tests and the notebook;
TensorFlow's own variables choose another rounding (TF_ENABLE_ONEDNN_OPTS=0,
ONEDNN_MAX_CPU_ISA=AVX2).
"""

import argparse
import functools
import time
from unittest import mock

import conftest
import numpy as np
import tensorflow as tf

LOSS, NORM, LOWEST, HIGHEST = range(4)  # columns of the record of a training


def record_training(nb, model, record, stop, loss_fn, **arguments):
    """Run the notebook's loop for `stop` epochs; `record` gets a row for each step.

    Returns the loss on the test images after the last epoch.
    """

    class Adam(tf.keras.optimizers.Adam):
        def apply(self, gradients, variables=None):
            put(NORM, tf.linalg.global_norm(gradients))
            return super().apply(gradients, variables)

    class Report(nb.EpochReport):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch + 1 == stop

    def put(column, value):
        # A test batch writes where the next training step writes again.
        step = tf.cast(model.optimizer.iterations, tf.int32)
        record.scatter_nd_update([[step, column]], [value])

    def encode(x, original=model.encode):
        mean, logvar = original(x)
        put(LOWEST, tf.reduce_min(logvar))
        put(HIGHEST, tf.reduce_max(logvar))
        return mean, logvar

    def recorded_loss(model, x):
        loss = loss_fn(model, x)
        put(LOSS, loss)
        return loss

    model.encode = encode
    adam = mock.patch.object(tf.keras.optimizers, "Adam", Adam)
    with adam, mock.patch.object(nb, "EpochReport", Report):
        history = nb.main_train_loop(model, loss_fn=recorded_loss, **arguments)
    return history.history["val_loss"][-1]


def make_settings(nb, name):
    """The design of a model, and the arguments that the notebook trains it with."""
    data = "mnist" if name == "mnist" else "cifar10"
    train, test = (
        nb.preprocess_images(x, binarize=data == "mnist")
        for x, _ in nb.load_dataset(data)
    )
    flip = data == "cifar10"
    calibrated = dict(log_likelihood=nb.log_calibrated_pdf)
    calibrated_loss = functools.partial(nb.compute_loss, **calibrated)
    loss_fn = {
        "mmd": nb.compute_mmd_loss,
        "improved": calibrated_loss,
        "large": calibrated_loss,
        "improved_mmd": functools.partial(
            nb.compute_mmd_loss, weight=nb.CALIBRATED_MMD_WEIGHT, **calibrated
        ),
    }.get(name, nb.compute_loss)
    upper = data.upper()
    size = {"latent_dim": nb.LARGE_LATENT_DIM} if name == "large" else {}
    return getattr(nb, f"{upper}_MODEL") | size, dict(
        train_dataset=nb.make_dataset(train, nb.BATCH_SIZE, training=True, flip=flip),
        test_dataset=nb.make_dataset(test, nb.EVAL_BATCH_SIZE),
        epochs=nb.EPOCHS,
        learning_rate=getattr(nb, f"{upper}_LEARNING_RATE"),
        clipnorm=nb.MNIST_CLIPNORM if name == "mnist" else None,
        loss_fn=loss_fn,
    )


def main(args):
    if args.threads:
        tf.config.threading.set_intra_op_parallelism_threads(args.threads)
        tf.config.threading.set_inter_op_parallelism_threads(args.threads)
    nb = conftest.load_notebook()
    nb.DisplayHandle = mock.Mock  # no live progress
    print("| model | seed | worst loss | worst norm | log variance | test loss | s |")
    print("|:--|--:|--:|--:|--:|--:|--:|")
    for name in args.models:
        design, arguments = make_settings(nb, name)
        steps = int(arguments["train_dataset"].cardinality())
        stop = args.epochs or arguments["epochs"]
        skipped = min(100, steps * stop // 2)
        for seed in args.seeds:
            record = tf.Variable(tf.zeros((steps * arguments["epochs"] + 1, 4)))
            start, model = time.perf_counter(), nb.CVAE(**design, seed=seed)
            try:
                loss = record_training(nb, model, record, stop, **arguments)
            except FloatingPointError as error:
                loss = f"DIVERGED: {error}"
            seconds = time.perf_counter() - start
            rows = record.numpy()[: steps * stop].reshape(stop, steps, 4)
            means = rows[:, :, LOSS].mean(axis=1, keepdims=True)
            excess = 1 + (rows[:, :, LOSS] - means) / np.abs(means)
            late = rows.reshape(-1, 4)[skipped:]
            print(
                f"| {name} | {seed} | {excess.flat[skipped:].max():.2f} means "
                f"| {late[:, NORM].max():.0f} | {late[:, LOWEST].min():.1f} to "
                f"{late[:, HIGHEST].max():.1f} | {loss} | {seconds:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    models = ("mnist", "elbo", "mmd", "improved", "improved_mmd", "large")
    parser.add_argument("models", nargs="+", choices=models)
    parser.add_argument("--seeds", type=int, nargs="+", default=[157])
    parser.add_argument("--epochs", type=int, help="of the schedule; all by default")
    parser.add_argument("--threads", type=int, help="of TensorFlow, each kind")
    main(parser.parse_args())
