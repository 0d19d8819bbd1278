"""Train one of the notebook's models on several seeds: does it run away or scatter?

    python tests/stability.py mnist --seeds 157 1 2 [--epochs 5]

A row for each seed: the range of the log variances of 1,000 test images over the ends
of all epochs, the largest rise of the test loss from one epoch to the next, and the
final loss, PSNR and MMD^2 ratio of the test images. A training that runs away ends
with the notebook's error. mnist is the MNIST model, the others are those of CIFAR-10.
HW3_NOTEBOOK names another notebook, HW3_DATA_DIR the data (tests/data, to try it out).
"""

import argparse
import functools
import sys

import conftest
import numpy as np

MODELS = ["mnist", "bernoulli_kl", "calibrated_kl", "bernoulli_mmd"]


def train_on_seed(nb, name, seed, epochs):
    """Train a model, print its row; returns the final test loss and test PSNR."""
    is_mnist = name == "mnist"
    nb.SEED = seed  # of weights, shuffles, flips and noise
    splits = nb.load_dataset("mnist" if is_mnist else "cifar10")
    train, test = (nb.preprocess_images(x, binarize=is_mnist) for x, _ in splits)
    settings = nb.MNIST_MODEL if is_mnist else nb.CIFAR10_MODEL
    batch_size = nb.MNIST_BATCH_SIZE if is_mnist else nb.CIFAR10_BATCH_SIZE
    model_class = nb.CalibratedCVAE if name == "calibrated_kl" else nb.CVAE
    model = model_class(**settings)
    batches = nb.make_dataset(train, batch_size, training=True, flip=not is_mnist)
    test_batches = nb.make_dataset(test, nb.EVAL_BATCH_SIZE)
    loss_fn = nb.compute_mmd_loss if name == "bernoulli_mmd" else nb.compute_loss
    logvars = []

    def record(model, epoch, test_sample, originals):
        logvars.append(model.encode(test[:1000])[1].numpy())

    nb.generate_and_display_images = record
    history = nb.main_train_loop(model, batches, test_batches, epochs, loss_fn)
    losses = history["val_loss"]
    mean, logvar = nb.encode_images(model, test)
    psnr = nb.compute_psnr(test, nb.map_batches(model.sample, mean))
    ratio = nb.compute_mmd_ratio(model.reparameterize(mean, logvar).numpy())
    print(
        f"| {seed} | {np.min(logvars):.1f} to {np.max(logvars):.1f}"
        f" | {max([0, *np.diff(losses)]):.2f} | {losses[-1]:.2f}"
        f" | {psnr:.2f} dB | {ratio:.2f} |",
        flush=True,
    )
    return losses[-1], psnr


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[157])
    parser.add_argument("--epochs", type=int, help="as the notebook by default")
    args = parser.parse_args(arguments)
    nb = conftest.load_notebook()
    nb.print = functools.partial(print, file=sys.stderr)
    default = nb.MNIST_EPOCHS if args.model == "mnist" else nb.CIFAR10_EPOCHS
    epochs = args.epochs or default
    print(f"{args.model}, {epochs} epochs\n")
    print("| seed | log variance | largest rise | test loss | PSNR | MMD^2 ratio |")
    print(f"|{'--:|' * 6}", flush=True)
    results = [train_on_seed(nb, args.model, seed, epochs) for seed in args.seeds]
    losses, psnrs = np.transpose(results)
    print()
    if args.model == "mnist":
        print(f"test ELBO: mean {-np.mean(losses):.2f}, worst {-np.max(losses):.2f}")
    print(f"test PSNR: mean {np.mean(psnrs):.2f} dB, worst {np.min(psnrs):.2f} dB")


if __name__ == "__main__":
    main()
