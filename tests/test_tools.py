"""The tools beside the tests, started with tiny settings, so that they do not rot."""

import re

import benchmark
import conftest
import hand_in
import mutate
import nbformat
import numpy as np
import pytest
import stability
from conftest import ROOT
from nbformat.v4 import new_code_cell, new_notebook


@pytest.fixture
def tiny(nb, monkeypatch):
    """A fresh copy of the notebook's functions, which the tools are made to use.

    A training has two epochs of 200 images of 28 x 28 pixels.
    """
    module = conftest.load_notebook()
    monkeypatch.setenv("HW3_DATA_DIR", str(ROOT / "tests/data"))
    monkeypatch.setattr(conftest, "load_notebook", lambda: module)
    load = module.load_dataset

    def load_few(name):
        return [(x[:200, :28, :28], y[:200]) for x, y in load(name)]

    module.load_dataset = load_few
    module.CIFAR10_MODEL |= dict(img_size=28, latent_dim=49)
    module.EPOCHS = 2
    return module


def read_rows(text):
    """The rows of the Markdown tables in a text, as lists of cells."""
    rows = re.findall(r"^\| (.*) \|$", text, re.MULTILINE)
    return [row.split(" | ") for row in rows]


def test_stability(tiny, capsys):
    stability.main(["mnist", "calibrated_mmd", "--epochs", "1", "--seeds", "1", "2"])
    _, *rows = read_rows(capsys.readouterr().out)
    for first, second, both in (rows[:3], rows[3:]):
        qualities = [float(row[-1].split()[0]) for row in (first, second)]
        mean, apart = (float(number) for number in re.findall(r"[\d.]+", both[-1]))
        assert 3 < min(qualities) and max(qualities) < 30
        assert re.fullmatch(r"-\d+\.\d to -?\d\.\d", first[2])
        assert mean == pytest.approx(np.mean(qualities), abs=0.011)
        assert apart == pytest.approx(np.ptp(qualities), abs=0.011)


@pytest.mark.filterwarnings("ignore:Matrix is singular")  # few images
def test_benchmark(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(benchmark, "EPOCHS", dict.fromkeys(benchmark.EPOCHS, 2))
    monkeypatch.setattr(benchmark, "CLASSIFIER_EPOCHS", 1)
    monkeypatch.setattr(benchmark, "CIFAR10_MODELS", ["calibrated_kl"])
    tiny.BACKUP_DIR = tmp_path
    model = tiny.CVAE(**tiny.CIFAR10_MODEL, name="calibrated_kl")
    images = tiny.preprocess_images(tiny.load_dataset("cifar10")[0][0])
    batches = tiny.make_dataset(images, 64)
    tiny.main_train_loop(model, batches, batches, 1)
    benchmark.main(["--backup", str(tmp_path)])
    rows = {name: cells for name, *cells in read_rows(capsys.readouterr().out)}
    for name in (*benchmark.EPOCHS, "this notebook"):
        seconds, elbo, _ = rows[name]
        assert float(seconds) > 0 and -800 < float(elbo) < -200
    assert rows["test images"][:2] == ["0.00", "0.0%"]
    base = float(rows["Gaussian in PCA space, 12 components"][0])
    for name in [name for name in rows if name.startswith("calibrated_kl")]:
        distance, share, _ = rows[name]
        ratio = float(share[:-1]) / 100
        assert abs(float(distance) - ratio * base) < 0.006 * (1 + ratio)


@pytest.mark.skipif(not hand_in.CHROMIUM, reason="needs Chromium")
def test_hand_in_prints_a_page_and_a_pdf(monkeypatch, tmp_path):
    source = new_notebook(cells=[new_code_cell("print('an answer')")])
    nbformat.write(source, tmp_path / "source.ipynb")
    monkeypatch.setattr(hand_in, "NOTEBOOK", tmp_path / "source.ipynb")
    hand_in.main(tmp_path)
    page = (tmp_path / "HW3_VAE.html").read_text(encoding="utf-8")
    assert "an answer" in page and "size: A3" in page
    assert (tmp_path / "HW3_VAE.pdf").read_bytes().startswith(b"%PDF")


def test_every_mutation_still_applies():
    for _, _, old, new in mutate.read_mutations():
        mutate.plant(old, new)
