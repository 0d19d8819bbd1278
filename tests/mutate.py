"""Plant small bugs in the notebook's functions and see whether the tests notice.

    python tests/mutate.py [NUMBER ...]

Each bug is one replacement in the cells tagged `def`, written to a temporary copy of
the notebook that the tests get through HW3_NOTEBOOK. Prints a table: the bug, and the
first test that failed, or MISSED. With numbers, only those bugs are planted. The exit
status is 0 if all were caught.
"""

import copy
import os
import pathlib
import subprocess
import sys
import tempfile

import nbformat
from conftest import NOTEBOOK, ROOT

# What is wrong, the code, its replacement, the test files that should notice.
MUTATIONS = [
    (
        "log_normal_pdf: wrong sign of logvar",
        "* tf.exp(-logvar) + logvar + log2pi",
        "* tf.exp(-logvar) - logvar + log2pi",
        "losses",
    ),
    (
        "log_normal_pdf: 0.5 missing",
        "-0.5 * ((sample - mean) ** 2",
        "-1.0 * ((sample - mean) ** 2",
        "losses",
    ),
    (
        "log_normal_pdf: log(2 pi) missing",
        "+ logvar + log2pi",
        "+ logvar",
        "losses",
    ),
    (
        "log_normal_pdf: always the same axis",
        "axis=raxis",
        "axis=1",
        "losses",
    ),
    (
        "reparameterize: variance for standard deviation",
        "mean + tf.exp(0.5 * logvar) * eps",
        "mean + tf.exp(logvar) * eps",
        "model",
    ),
    (
        "reparameterize: log variance read as sigma",
        "mean + tf.exp(0.5 * logvar) * eps",
        "mean + logvar * eps",
        "model",
    ),
    (
        "reparameterize: no noise",
        "mean + tf.exp(0.5 * logvar) * eps",
        "mean + 0.0 * tf.exp(0.5 * logvar) * eps",
        "model",
    ),
    (
        "reparameterize: noise without the model's seed",
        "tf.keras.random.normal(tf.shape(mean), dtype=mean.dtype, seed=self.noise)",
        "tf.random.normal(tf.shape(mean))",
        "model",
    ),
    (
        "reparameterize: the same noise each time",
        "tf.keras.random.normal(tf.shape(mean), dtype=mean.dtype, seed=self.noise)",
        "tf.keras.random.normal(tf.shape(mean), seed=1)",
        "model",
    ),
    (
        "reparameterize: gradient stopped",
        "return mean + tf.exp(0.5 * logvar) * eps",
        "return tf.stop_gradient(mean + tf.exp(0.5 * logvar) * eps)",
        "model",
    ),
    (
        "encode: mean and log variance swapped",
        "mean, logvar = tf.split(",
        "logvar, mean = tf.split(",
        "model",
    ),
    (
        "decode: no sigmoid",
        "return tf.sigmoid(logits) if apply_sigmoid else logits",
        "return logits",
        "model",
    ),
    (
        "sample: logits for images",
        "return self.decode(eps, apply_sigmoid=True)",
        "return self.decode(eps)",
        "model",
    ),
    (
        "CVAE: one filter for every image",
        "layers.Conv2DTranspose(num_channels, **conv)",
        "layers.Conv2DTranspose(1, **conv)",
        "model",
    ),
    (
        "CVAE: activation on the last layer",
        "layers.Conv2DTranspose(num_channels, **conv)",
        "layers.Conv2DTranspose(num_channels, activation=activation, **conv)",
        "model",
    ),
    (
        "CVAE: filters do not double",
        "[filters * 2**i for i in",
        "[filters for i in",
        "model",
    ),
    (
        "CVAE: decoder's filters not reversed",
        "for n in reversed(conv_filters[:-1]):",
        "for n in conv_filters[:-1]:",
        "model",
    ),
    (
        "CVAE: sizes that do not divide are accepted",
        "        if remainder:\n",
        "        if img_size % strides:\n",
        "model",
    ),
    (
        "log_bernoulli_pdf: mean for sum over pixels",
        "-tf.reduce_sum(cross_entropy, axis=[1, 2, 3])",
        "-tf.reduce_mean(cross_entropy, axis=[1, 2, 3])",
        "losses",
    ),
    (
        "elbo_terms: prior with the wrong variance",
        "log_normal_pdf(z, 0.0, 0.0)",
        "log_normal_pdf(z, 0.0, 1.0)",
        "losses",
    ),
    (
        "compute_loss: KL with the wrong sign",
        "logqz_x = elbo_terms(model, x)\n"
        "    return -tf.reduce_mean(logpx_z + logpz - logqz_x)",
        "logqz_x = elbo_terms(model, x)\n"
        "    return -tf.reduce_mean(logpx_z - logpz + logqz_x)",
        "losses",
    ),
    (
        "log_calibrated_pdf: log sigma for log variance",
        "logvar = tf.math.log(tf.reduce_mean((x - mean) ** 2))",
        "logvar = 0.5 * tf.math.log(tf.reduce_mean((x - mean) ** 2))",
        "losses",
    ),
    (
        "importance_weighted_bound: sum for mean of the weights",
        "tf.reduce_logsumexp(log_weights, axis=1) - tf.math.log(float(draws))",
        "tf.reduce_logsumexp(log_weights, axis=1)",
        "losses",
    ),
    (
        "importance_weighted_bound: draws of different images mixed",
        "tf.repeat(x, draws, axis=0)",
        "tf.tile(x, (draws, 1, 1, 1))",
        "losses",
    ),
    (
        "compute_kernel: another width",
        "-tf.maximum(squared_distances, 0) / x.shape[1]",
        "-tf.maximum(squared_distances, 0) / (2 * x.shape[1])",
        "losses",
    ),
    (
        "compute_mmd: a kernel term left out",
        "mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean",
        "mean_kernel(x, x) - 2 * mean",
        "losses",
    ),
    (
        "compute_mmd: 2 missing",
        "mean_kernel(y, y) - 2 * mean_kernel(x, y)",
        "mean_kernel(y, y) - mean_kernel(x, y)",
        "losses",
    ),
    (
        "compute_mmd_loss: weight ignored",
        "return reconstruction + weight * compute_mmd",
        "return reconstruction + compute_mmd",
        "losses",
    ),
    (
        "preprocess_images: no 1 / 255",
        "return images / np.float32(255)",
        "return images.astype(np.float32)",
        "data",
    ),
    (
        "preprocess_images: binarized at 0",
        "(images > 127)",
        "(images > 0)",
        "data",
    ),
    (
        "load_dataset: labels keep their second axis",
        "labels.reshape(-1))",
        "labels)",
        "data",
    ),
    (
        "load_dataset: HW3_DATA_DIR ignored",
        "    if folder:\n",
        "    if False:\n",
        "data",
    ),
    (
        "read_npz: labels above 9 accepted",
        " or y.max() > 9",
        "",
        "data",
    ),
    (
        "make_dataset: ragged last batch kept",
        "drop_remainder=bool(training)",
        "drop_remainder=False",
        "data",
    ),
    (
        "make_dataset: the same order each epoch",
        "indices.shuffle(len(images), seed=SEED)",
        "indices.shuffle(len(images), seed=SEED, reshuffle_each_iteration=False)",
        "data",
    ),
    (
        "show_image_grid: rows and columns swapped",
        "np.concatenate([np.concatenate(row, axis=1) for row in rows])",
        "np.concatenate([np.concatenate(row) for row in rows], axis=1)",
        "figures",
    ),
    (
        "show_figure: figure left open",
        "    plt.close(figure)\n    display(Image(",
        "    display(Image(",
        "figures",
    ),
    (
        "generate_and_display_images: rows swapped",
        "[test_sample, reconstructions]",
        "[reconstructions, test_sample]",
        "training",
    ),
    (
        "test_step: ragged batch not weighed",
        "update_state(loss, sample_weight=tf.shape(x)[0])",
        "update_state(loss)",
        "training",
    ),
    (
        "train_step: loss not shared between replicas",
        "share = loss / tf.distribute.get_strategy().num_replicas_in_sync",
        "share = loss",
        "training",
    ),
    (
        "EpochReport: loss that is not finite passes",
        "if not np.isfinite(loss):",
        "if False:",
        "training",
    ),
    (
        "main_train_loop: ELBO printed with the loss's sign",
        '("ELBO", -1) if loss_fn is',
        '("ELBO", 1) if loss_fn is',
        "training",
    ),
    (
        "get_allClass_encodings: last class dropped",
        "for label in np.unique(labels)}",
        "for label in np.unique(labels)[:-1]}",
        "latent",
    ),
    (
        "project_to_plane: the smallest components",
        "centered @ directions[:, :-3:-1]",
        "centered @ directions[:, :2]",
        "latent",
    ),
    (
        "knn_predict: the farthest for the nearest",
        "tf.math.top_k(-distances, k)",
        "tf.math.top_k(distances, k)",
        "latent",
    ),
    (
        "walk_src_to_dst: last step missing",
        "np.linspace(*ends, steps, dtype=np.float32)",
        "np.linspace(*ends, steps, endpoint=False, dtype=np.float32)",
        "latent",
    ),
    (
        "measure_model: mean of the images' PSNR",
        '"psnr": (-10 * np.log10(np.mean(np.concatenate(squared_errors)))',
        '"psnr": (-10 * np.mean(np.log10(np.concatenate(squared_errors)))',
        "latent",
    ),
    (
        "measure_model: variance over the wrong axis",
        "np.var(means, axis=0) > 0.01",
        "np.var(means, axis=1) > 0.01",
        "latent",
    ),
    (
        "measure_mmd: floor of a sample with itself",
        "compute_mmd(prior[1], prior[0])",
        "compute_mmd(prior[0], prior[0])",
        "latent",
    ),
    (
        "mean_kernel: blocks overlap",
        "for start in range(0, x.shape[0], EVAL_BATCH_SIZE)",
        "for start in range(0, x.shape[0], EVAL_BATCH_SIZE - 1)",
        "losses",
    ),
    (
        "compute_mmd_to_prior: exponent without the kernel's width",
        "tf.reduce_sum(z**2, axis=1) / (d + 2)",
        "tf.reduce_sum(z**2, axis=1) / d",
        "losses",
    ),
    (
        "compute_mmd_to_prior: wrong mean over two prior draws",
        "(1 + 4 / d) ** (-d / 2)",
        "(1 + 2 / d) ** (-d / 2)",
        "losses",
    ),
    (
        "make_dataset: flip upside down",
        "tf.image.random_flip_left_right(",
        "tf.image.random_flip_up_down(",
        "data",
    ),
    (
        "Backup: another configuration is loaded",
        "if differing:",
        "if False:",
        "backup",
    ),
    (
        "Backup: weights not loaded",
        "            self.model.load_weights(self.weights_file())\n",
        "",
        "backup",
    ),
    (
        "Backup: the new weights' name is published before they are written",
        "        self.model.save_weights(self.weights_file(), overwrite=True)\n"
        '        new = self.folder / "new.json"\n'
        '        new.write_text(json.dumps(self.configuration | {"logs": self.logs}))\n'
        "        new.replace(self.progress)\n",
        '        new = self.folder / "new.json"\n'
        '        new.write_text(json.dumps(self.configuration | {"logs": self.logs}))\n'
        "        new.replace(self.progress)\n"
        "        self.model.save_weights(self.weights_file(), overwrite=True)\n",
        "backup",
    ),
    (
        "main_train_loop: a resumed training counts its epochs from 1",
        "initial_epoch=done,",
        "initial_epoch=0,",
        "backup",
    ),
    (
        "plot_latent_space: codes above or below the frame not counted",
        "np.abs(points).max(axis=1) > limit",
        "np.abs(points[:, 0]) > limit",
        "latent",
    ),
]


def mutated(notebook, old, new):
    """A copy of the notebook with `old`, which occurs once, replaced in a def cell."""
    notebook = copy.deepcopy(notebook)
    cells = [c for c in notebook.cells if "def" in c.metadata.get("tags", [])]
    found = sum(cell.source.count(old) for cell in cells)
    if found != 1:
        sys.exit(
            f"this code occurs {found} times, not once, so correct mutate.py: {old}"
        )
    for cell in cells:
        cell.source = cell.source.replace(old, new)
    return notebook


def run_tests(notebook_path, files):
    """Run test files on a notebook; return the exit status and the first failure."""
    process = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
        + [str(file) for file in files],
        cwd=ROOT,
        env=os.environ | {"HW3_NOTEBOOK": str(notebook_path)},
        capture_output=True,
        text=True,
    )
    for line in process.stdout.splitlines():
        if line.startswith("FAILED "):
            return process.returncode, line.removeprefix("FAILED tests/").split(" - ")[
                0
            ]
    return process.returncode, None


def main(numbers):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    copies = [mutated(notebook, old, new) for _, old, new, _ in MUTATIONS]
    tests = {group: ROOT / "tests" / f"test_{group}.py" for *_, group in MUTATIONS}
    status, failed = run_tests(NOTEBOOK, sorted(tests.values()))
    if status:
        sys.exit(f"the tests must pass before a bug is planted, but: {failed}")
    caught = 0
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "mutated.ipynb")
        for number in numbers:
            name, _, _, group = MUTATIONS[number - 1]
            nbformat.write(copies[number - 1], path)
            status, failed = run_tests(path, [tests[group]])
            # Status 1 with a failed test: not a run that could not even start.
            noticed = status == 1 and failed is not None
            caught += noticed
            print(
                f"{number:2d} | {name} | {failed if noticed else 'MISSED'}", flush=True
            )
    print(f"{caught} of {len(numbers)} caught")
    return caught == len(numbers)


if __name__ == "__main__":
    chosen = [int(number) for number in sys.argv[1:]]
    sys.exit(0 if main(chosen or range(1, len(MUTATIONS) + 1)) else 1)
