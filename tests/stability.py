"""Train the notebook's models on many seeds: how stable they are, how far they scatter.

    python tests/stability.py mnist [--seeds 157 1 2] [--epochs 5]
    python tests/stability.py bernoulli_kl calibrated_mmd --seeds 157 1 2 --epochs 3

mnist is the MNIST model, the others are those of CIFAR-10. `--epochs` is the length of
a whole training, from the peak of the learning rate down to 0. A row gives the range of
the log variances of 1,000 test images over the ends of all epochs, the largest rise of
the test loss from one epoch to the next, and at the end the loss and the PSNR on the
test images; below a model's rows follows how far its seeds lie apart. HW3_NOTEBOOK and
HW3_DATA_DIR (tests/data, to try it out) act as in the tests and the notebook;
TensorFlow's own variables choose another rounding (TF_ENABLE_ONEDNN_OPTS=0,
ONEDNN_MAX_CPU_ISA=AVX2) and the threads (TF_NUM_INTRAOP_THREADS=1).
"""

import argparse
import functools
import sys

import conftest
import numpy as np

MODELS = "mnist bernoulli_kl calibrated_kl bernoulli_mmd calibrated_mmd".split()


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
    qualities = []
    for seed in seeds:
        design = nb.MNIST_MODEL if is_mnist else nb.CIFAR10_MODEL
        model = nb.CVAE(**design, seed=seed)
        model.clipnorm = nb.MNIST_CLIPNORM if is_mnist else None
        logvars = []

        def record(model, epoch, sample, *_, logvars=logvars):
            logvars.append(model.encode(sample)[1])

        nb.generate_and_display_images = record
        arguments = batches, test_batches, epochs, make_loss(nb, name), test[:1000]
        try:
            losses = nb.main_train_loop(model, *arguments).history["val_loss"]
        except FloatingPointError as error:
            print(f"| {name} | {seed} | DIVERGED: {error} |", flush=True)
            continue
        codes, _ = nb.encode_images(model, test)
        decoded = nb.map_batches(model.sample, codes)
        qualities.append(nb.compute_psnr(test, decoded))
        row = [f"{np.min(logvars):.1f} to {np.max(logvars):.1f}"]
        row += [f"{max([0, *np.diff(losses)]):.2f}", f"{losses[-1]:.2f}"]
        row += [f"{qualities[-1]:.2f} dB"]
        print(f"| {name} | {seed} | {' | '.join(row)} |", flush=True)
    if qualities:
        spread = f"{np.mean(qualities):.2f} dB, {np.ptp(qualities):.2f} dB apart"
        print(f"| {name} | {len(qualities)} seeds | | | | {spread} |", flush=True)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", choices=MODELS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[157])
    parser.add_argument("--epochs", type=int, help="as the notebook by default")
    args = parser.parse_args(arguments)
    nb = conftest.load_notebook()
    nb.BACKUP_DIR = None  # every training starts anew
    nb.print = functools.partial(print, file=sys.stderr)
    print("| model | seed | log variance | largest rise | test loss | test PSNR |")
    print(f"|:--{'|--:' * 5}|", flush=True)
    for name in args.models:
        train_seeds(nb, name, args.seeds, args.epochs or nb.EPOCHS)


if __name__ == "__main__":
    main()
