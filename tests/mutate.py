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

# What is wrong, the code, its replacement, the test file that should notice.
MUTATIONS = [
    ("load_dataset: no folder", "if folder else down", "if 0 else down", "data"),
    ("load_dataset: labels", "<= set(range(10))", "<= set(y.flat)", "data"),
    ("load_dataset: float images", "x.dtype == np.uint8 and ", "", "data"),
    ("load_dataset: wrong error", "(ValueError if path", "(KeyError if path", "data"),
    ("read_npz: unpickles", "load(path)", "load(path, allow_pickle=True)", "data"),
    ("preprocess_images: 256 levels", "float32) / 255", "float32) / 256", "data"),
    ("preprocess_images: never binary", "np.round(scaled) if", "scaled if", "data"),
    ("show_classes: not the first", "argmax(dataset[0]", "argmin(dataset[0]", "data"),
    ("make_dataset: order", "shuffle(len(images), seed=SEED)", "skip(0)", "data"),
    ("make_dataset: once", ", seed=SEED)\n    d", ", SEED, False)\n    d", "data"),
    ("make_dataset: ragged batch", "drop_remainder=training", "", "data"),
    ("make_dataset: upside down", "flip_left_right(", "flip_up_down(", "data"),
    ("make_dataset: cut short", "MAX_STEPS if training else -1", "MAX_STEPS", "data"),
    ("get_strategy: GPUs", '"GPU")) > 1', '"GPU")) > 2', "training"),
    ("CVAE: filters do not double", "[filters * 2**i for", "[filters for", "model"),
    ("CVAE: one channel", "Transpose(num_channels, ", "Transpose(1, ", "model"),
    ("CVAE: sizes unchecked", "if remainder or side < 1", "if side < 1", "model"),
    ("CVAE: order", "*reversed(hidden_units), ", "*hidden_units, ", "model"),
    ("CVAE: seed ignored", "set_random_seed(seed)", "set_random_seed(1)", "model"),
    ("encode: swapped", "mean, logvar = tf.spl", "logvar, mean = tf.spl", "model"),
    ("encode: no bound", "tf.clip_by_value(logvar, *LOGVAR_BOUNDS)", "logvar", "model"),
    ("encode: loose bound", "(-30.0, 5.0)", "(-300.0, 300.0)", "losses"),
    ("encode: tight bound", "(-30.0, 5.0)", "(-1.0, 1.0)", "training"),
    ("reparameterize: variance", "tf.exp(0.5 * logvar)", "tf.exp(logvar)", "model"),
    ("reparameterize: no noise", "logvar) * eps", "logvar) * 0", "model"),
    ("reparameterize: no seed", "(mean), seed=self.noise", "(mean)", "model"),
    ("decode: no sigmoid", "tf.sigmoid(logits) if apply_sigmoid else", "", "model"),
    ("sample: logits", "self.decode(eps, apply_sigmoid=True)", "eps", "model"),
    ("test_step: no weights", ", tf.shape(x)[0])", ")", "training"),
    ("train_step: scale", "share = loss / ", "share = loss + 0 / ", "training"),
    ("log_normal_pdf: sign", "-logvar) + logvar", "-logvar) - logvar", "losses"),
    ("log_normal_pdf: axis", "log2pi), axis=raxis", "log2pi), axis=1", "losses"),
    ("log_bernoulli_pdf: mean", "sum(cross_entr", "mean(cross_entr", "losses"),
    ("compute_loss: KL's sign", "logpz - logqz_x)", "logqz_x - logpz)", "losses"),
    ("compute_loss: other prior", "(z, 0.0, 0.0)", "(z, 0.0, 1.0)", "losses"),
    ("kl_divergence: no mean", "(mean**2 + tf.exp(", "(tf.exp(", "losses"),
    ("log_calibrated_pdf: no floor", "+ 1 / (12 * 255**2)", "", "losses"),
    ("log_calibrated_pdf: sigma", ".math.log(variance)", ".sqrt(variance)", "losses"),
    ("compute_kernel: width", ") / x.shape[1])", ") / 3)", "losses"),
    ("compute_mmd: 2 missing", "k_yy - 2 * k_xy", "k_yy - k_xy", "losses"),
    ("compute_mmd_to_prior: width", "/ (dim + 2)", "/ dim", "losses"),
    ("compute_mmd_loss: weight", "reconstruction + weight *", "weight *", "losses"),
    ("compute_mmd_loss: default", "weight=MMD_WEIGHT", "weight=1.0", "losses"),
    ("generate_and: input", "reconstructions.numpy()", "test_sample", "training"),
    ("EpochReport: sign", "{self.sign * value:.2f}", "{value:.2f}", "training"),
    ("EpochReport: NaN", "if not np.isfinite(", "if np.isinf(", "training"),
    ("main_train_loop: partial", '"func", loss_fn)', '"f", loss_fn)', "training"),
    ("main_train_loop: history", "if folder:  #", "if not folder:  #", "training"),
    ("main_train_loop: log", "append=True", "append=False", "training"),
    ("main_train_loop: no backup", "checkpoint=False", "checkpoint=True", "training"),
    ("main_train_loop: one backup", "checkpoint=True", "checkpoint=False", "training"),
    (
        "main_train_loop: XLA",
        "_compile=replicas ==",
        "_compile=replicas !=",
        "training",
    ),
    ("show_image_grid: contrast", "vmin=0, vmax=1, ", "", "figures"),
    ("show_image_grid: size", "scale * np.array", "2.5 * np.array", "figures"),
    ("plot_history: first epoch", "history[key][1:]", "history[key]", "figures"),
    ("plot_marginals: no rotation", "z @ directions[:, i]", "z[:, i]", "figures"),
    ("encode_images: mean", "model.encode(x) for", "model.encode(x)[:1] for", "latent"),
    ("principal_components: centre", "= points - mean", "= points", "latent"),
    ("principal_components: order", "directions[:, ::-1]", "directions", "latent"),
    ("plot_latent_space: share", "/ sum(variances)", "/ variances[0]", "latent"),
    ("plot_latent_space: marker", '"osv^<>DPX*"[i % 10]', '"o"', "latent"),
    ("knn_votes: farthest", "top_k(-distances", "top_k(distances", "latent"),
    ("knn_votes: factor", "- 2 * queries @", "- queries @", "latent"),
    ("walk_src_to_dst: end", "encodings[dst].m", "encodings[src].m", "latent"),
    ("decode_codes: same", "model.sample(z) for", "model.decode(z) for", "latent"),
    ("compute_psnr: root", "-10 * np.log10", "-20 * np.log10", "latent"),
    ("measure_model: ELBO", "-reconstruction - np", "-reconstruction + np", "latent"),
    ("measure_model: sigma", "np.exp(logvar / 2)", "np.exp(logvar)", "latent"),
    ("sample_classes: all", "codes[labels == label] for", "codes for", "latent"),
    ("sample_classes: law", "np.cov(own, rowvar=False)", "own.T @ own", "latent"),
    ("measure_floor: n", "size=(2, n, dim)", "size=(2, n // 2, dim)", "latent"),
    ("measure_floor: spread", "np.std(values, ddof=1)", "0.0", "latent"),
    ("measure_mmd: floors", "(mmd / floor, ", "(mmd / spread, ", "latent"),
    ("print_results: unit", '"", units[0])', '"", values[0])', "latent"),
]


def mutated(notebook, old, new):
    """A copy of the notebook with `old`, which occurs once, replaced in a def cell."""
    notebook = copy.deepcopy(notebook)
    cells = [c for c in notebook.cells if "def" in c.metadata.get("tags", [])]
    found = sum(cell.source.count(old) for cell in cells)
    if found != 1:
        sys.exit(f"this code occurs {found} times, so correct mutate.py: {old}")
    for cell in cells:
        cell.source = cell.source.replace(old, new)
    return notebook


def first_failure(notebook, group):
    """The first test of a file that fails on a notebook; None if all pass."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "mutated.ipynb")
        nbformat.write(notebook, path)
        options = ["-x", "-q", "-p", "no:cacheprovider", f"tests/test_{group}.py"]
        process = subprocess.run(
            [sys.executable, "-m", "pytest", *options],
            cwd=ROOT,
            env=os.environ | {"HW3_NOTEBOOK": str(path)},
            capture_output=True,
            text=True,
        )
    for line in process.stdout.splitlines():
        if line.startswith(("FAILED tests/", "ERROR tests/")):
            return line.split("::")[-1].split(" - ")[0]
    return None


def main(numbers):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    copies = [mutated(notebook, old, new) for _, old, new, _ in MUTATIONS]
    groups = {MUTATIONS[number - 1][3] for number in numbers}
    for group in sorted(groups):
        if failed := first_failure(notebook, group):
            sys.exit(f"the tests must pass before a bug is planted, but: {failed}")
    caught = 0
    for number in numbers:
        what, _, _, group = MUTATIONS[number - 1]
        failed = first_failure(copies[number - 1], group)
        caught += failed is not None
        print(f"{number:2d} | {what} | {failed or 'MISSED'}", flush=True)
    print(f"{caught} of {len(numbers)} caught")
    return caught == len(numbers)


if __name__ == "__main__":
    chosen = [int(number) for number in sys.argv[1:]]
    sys.exit(0 if main(chosen or range(1, len(MUTATIONS) + 1)) else 1)
