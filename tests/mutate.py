"""Plant small bugs in the notebook's functions and see whether the tests notice.

    python tests/mutate.py [NUMBER ...]

Each bug is one replacement in the cells tagged `def`, written to a temporary copy of
the notebook that the tests get through HW3_NOTEBOOK. Prints a table: the bug, and the
first test that failed, or MISSED. With numbers, only those bugs are planted. The exit
status is 0 if all were caught. The tests must pass before, or the table says nothing.
"""

import os
import re
import subprocess
import sys
import tempfile

import nbformat
from conftest import NOTEBOOK, ROOT

# What is wrong, the code, its replacement, the test file that should notice.
MUTATIONS = [
    ("load_dataset: no folder", "if folder else down", "if 0 else down", "data"),
    ("load_dataset: float images", "x.dtype == np.uint8 and ", "", "data"),
    ("read_npz: unpickles", "load(path)", "load(path, allow_pickle=True)", "data"),
    ("preprocess_images: 256 levels", "np.float32(255)", "np.float32(256)", "data"),
    ("show_classes: not the first", "argmax(dataset[0]", "argmin(dataset[0]", "data"),
    ("make_dataset: once", ", seed=SEED)\n    d", ", SEED, False)\n    d", "data"),
    ("make_dataset: ragged batch", "drop_remainder=training", "", "data"),
    ("make_dataset: upside down", "flip_left_right(", "flip_up_down(", "data"),
    ("get_strategy: GPUs", '"GPU")) > 1', '"GPU")) > 2', "training"),
    ("CVAE: filters do not double", "[filters * 2**i for", "[filters for", "model"),
    ("CVAE: one channel", "Transpose(num_channels, ", "Transpose(1, ", "model"),
    ("CVAE: sizes unchecked", "if remainder or side < 1", "if side < 1", "model"),
    ("encode: swapped", "mean, logvar = tf.spl", "logvar, mean = tf.spl", "model"),
    ("encode: no bound", "*LOGVAR_BOUNDS)", "-1e9, 1e9)", "losses"),
    ("reparameterize: variance", "tf.exp(0.5 * logvar)", "tf.exp(logvar)", "model"),
    ("reparameterize: no seed", "(mean), seed=self.noise", "(mean)", "model"),
    ("decode: no sigmoid", "tf.sigmoid(logits) if apply_sigmoid else", "", "model"),
    ("test_step: no weights", ", tf.shape(x)[0])", ")", "training"),
    ("train_step: scale", "share = loss / ", "share = loss + 0 / ", "training"),
    ("log_normal_pdf: sign", "-logvar) + logvar", "-logvar) - logvar", "losses"),
    ("log_bernoulli_pdf: mean", "sum(cross_entr", "mean(cross_entr", "losses"),
    ("compute_loss: KL's sign", "logpz - logqz_x)", "logqz_x - logpz)", "losses"),
    ("kl_divergence: no mean", "(mean**2 + tf.exp(", "(tf.exp(", "losses"),
    ("log_calibrated_pdf: no floor", "+ 1 / (12 * 255**2)", "", "losses"),
    ("log_calibrated_pdf: sigma", ".math.log(variance)", ".sqrt(variance)", "losses"),
    ("compute_kernel: width", ") / x.shape[1])", ") / 3)", "losses"),
    ("mean_kernel: part", "in split_batches(x)]", "in split_batches(x)[:1]]", "losses"),
    ("compute_mmd: 2 missing", "- 2 * mean_kernel(", "- mean_kernel(", "losses"),
    ("compute_mmd_to_prior: width", "/ (dim + 2)", "/ dim", "losses"),
    ("compute_mmd_loss: weight", "reconstruction + weight *", "weight *", "losses"),
    ("generate_and: input", "reconstructions.numpy()", "test_sample", "training"),
    ("EpochReport: sign", "{self.sign * logs", "{logs", "training"),
    ("EpochReport: progress", "step {step} of", "step {batch} of", "training"),
    ("main_train_loop: partial", '"func", loss_fn)', '"f", loss_fn)', "training"),
    ("main_train_loop: history", "if folder:  #", "if not folder:  #", "training"),
    ("main_train_loop: one backup", "checkpoint=True", "checkpoint=False", "training"),
    ("main_train_loop: XLA", "compile=replicas ==", "compile=replicas !=", "training"),
    ("show_image_grid: size", "scale * np.array", "2.5 * np.array", "figures"),
    ("plot_history: first epoch", "history[key][1:]", "history[key]", "figures"),
    ("plot_marginals: no rotation", "z @ directions[:, i]", "z[:, i]", "figures"),
    ("encode_images: mean", "model.encode(x) for", "model.encode(x)[:1] for", "latent"),
    ("principal_components: centre", "(part - mean for", "(part for", "latent"),
    ("plot_latent_space: share", "/ sum(variances)", "/ variances[0]", "latent"),
    ("knn_votes: farthest", "top_k(nearness", "top_k(-nearness", "latent"),
    ("walk_src_to_dst: end", "encodings[dst].m", "encodings[src].m", "latent"),
    ("decode_codes: same", "model.sample(z).n", "model.decode(z).n", "latent"),
    ("compute_psnr: root", "-10 * np.log10", "-20 * np.log10", "latent"),
    ("measure_model: ELBO", "-reconstruction - np", "-reconstruction + np", "latent"),
    ("sample_classes: law", "np.cov(codes", "np.corrcoef(codes", "latent"),
    ("measure_floor: mean", "return 2 / n * (1 - ", "return 2 / n * (", "latent"),
    ("measure_floor: spread", "size=(2, n, dim)", "size=(2, n // 4, dim)", "latent"),
    ("measure_mmd: floors", "(mmd / floor, ", "(mmd / spread, ", "latent"),
    ("print_results: unit", '"", units[0])', '"", values[0])', "latent"),
]


def planted(old, new):
    """The notebook with `old`, which occurs once in its def cells, replaced."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cells = [c for c in notebook.cells if "def" in c.metadata.get("tags", [])]
    [cell] = [cell for cell in cells if old in cell.source]
    assert cell.source.count(old) == 1, f"not unique, so correct mutate.py: {old}"
    cell.source = cell.source.replace(old, new)
    return notebook


def first_failure(notebook, group):
    """The first test of a file that fails on a notebook; None if all pass."""
    with tempfile.NamedTemporaryFile("w", suffix=".ipynb") as file:
        nbformat.write(notebook, file)
        file.flush()
        options = ["-x", "-q", "-p", "no:cacheprovider", f"tests/test_{group}.py"]
        process = subprocess.run(
            [sys.executable, "-m", "pytest", *options],
            cwd=ROOT,
            env=os.environ | {"HW3_NOTEBOOK": file.name},
            capture_output=True,
            text=True,
        )
    failed = re.search(r"^(?:FAILED|ERROR) tests/.*?::(\S+)", process.stdout, re.M)
    return failed and failed[1]


def main(numbers):
    notebooks = [planted(old, new) for _, old, new, _ in MUTATIONS]
    caught = 0
    for number in numbers:
        what, _, _, group = MUTATIONS[number - 1]
        failed = first_failure(notebooks[number - 1], group)
        caught += failed is not None
        print(f"{number:2d} | {what} | {failed or 'MISSED'}", flush=True)
    print(f"{caught} of {len(numbers)} caught")
    return caught == len(numbers)


if __name__ == "__main__":
    chosen = [int(number) for number in sys.argv[1:]]
    sys.exit(0 if main(chosen or range(1, len(MUTATIONS) + 1)) else 1)
