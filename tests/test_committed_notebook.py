"""The notebook as committed: complete, executed from this very source, and honest."""

import base64
import os
import re
import subprocess
import sys

import nbformat
import pytest
from conftest import NOTEBOOK, ROOT
from run_notebook import code_hash
from stability import MODELS

METRICS = """train_images epochs parameters latent_dim seconds_per_epoch test_elbo
reconstruction kl psnr ssim mmd mmd_floor mmd_in_floors active_units median_sigma
knn_accuracy data""".split()
QUESTIONS = [f"1.{i}" for i in range(1, 12)] + ["2.1", "2.2", "3.1", "3.2"]

SAVED = nbformat.read(NOTEBOOK, as_version=4)
CODE_CELLS = [cell for cell in SAVED.cells if cell.cell_type == "code"]
OUTPUTS = [output for cell in CODE_CELLS for output in cell.outputs]


@pytest.fixture(scope="module")
def summary():
    """The closing summary: dict of (model, metric) -> value."""
    lines = [line.split() for line in CODE_CELLS[-1].outputs[0].text.splitlines()]
    [start] = [i for i, line in enumerate(lines) if line[:2] == ["metric", "unit"]]
    models = lines[start][2:]
    assert sorted(models) == sorted(MODELS)
    rows = [line for line in lines[start + 1 :] if len(line) == 2 + len(models)]
    assert sorted(metric for metric, *_ in rows) == sorted(METRICS)  # each once
    return {
        (model, metric): value if metric == "data" else float(value)
        for metric, _, *values in rows
        for model, value in zip(models, values, strict=True)
    }


def test_executed_from_top_to_bottom_from_this_source():
    counts = [cell.execution_count for cell in CODE_CELLS]
    assert counts == list(range(1, len(CODE_CELLS) + 1))
    stored = SAVED.metadata.get("executed_code_sha256")
    assert stored == code_hash(SAVED), "the code was edited after it was executed"


def test_outputs_are_clean_and_show_in_any_browser():
    for output in OUTPUTS:
        assert output.output_type != "error" and output.get("name") != "stderr"
        assert not re.search("(?i)warning|traceback", str(output.get("text")))
        assert set(output.get("data", {})) <= {"text/plain", "text/html", "image/png"}
    pictures = [o.data for o in OUTPUTS if "image/png" in o.get("data", {})]
    assert len(pictures) > 60  # one for each epoch, and the figures
    for bundle in pictures:
        assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")
        # Its title: the only text about a picture that editors can read out.
        assert re.match(r"(?!<Figure|<IPython)\w", bundle["text/plain"])


def test_no_path_of_a_machine_and_small():
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert len(text.encode()) < 3_500_000
    without_pictures = re.sub(r'"image/png": ".*"', "", text)
    assert not re.search(r"(?<![\w.:/])/(root|home|work|tmp|Users)/", without_pictures)


def test_every_question_has_its_heading_and_an_answer():
    text = "\n".join(c.source for c in SAVED.cells if c.cell_type == "markdown")
    _, *sections = re.split(r"^(?=#+ \d)", text, flags=re.MULTILINE)
    numbered = {m[1]: s for s in sections if (m := re.match(r"#+ (\d\.\d+) ", s))}
    # All of them, once, in the handout's order.
    assert re.findall(r"^#+ (\d\.\d+) ", text, re.MULTILINE) == QUESTIONS
    assert [number for number in QUESTIONS if "**Answer" not in numbered[number]] == []


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot run this script")
@pytest.mark.parametrize("dot", ["", "#!/bin/sh\nexit 1\n"], ids=["none", "broken"])
def test_flow_charts_explain_a_dot_that_fails(nb, monkeypatch, tmp_path, capsys, dot):
    [cell] = [cell for cell in CODE_CELLS if "model_to_dot" in cell.source]
    monkeypatch.setenv("PATH", str(tmp_path))
    if dot:
        (tmp_path / "dot").write_text(dot)
        (tmp_path / "dot").chmod(0o755)
    exec(cell.source, vars(nb) | dict(first_model=nb.CVAE(8, 1, 2), strides=2))
    told = re.findall("^(?:en|de)coder|^No flow chart", capsys.readouterr().out, re.M)
    assert told == ["encoder", "No flow chart", "decoder", "No flow chart"]


def test_first_cell_installs_tensorflow_only_where_it_is_missing(monkeypatch):
    code = re.sub(r"%(pip .*)", r"run('\1')", CODE_CELLS[0].source)

    def installations(*found):
        """The `%pip` lines, given the answers to whether TensorFlow is there."""
        answers, lines = iter(found), []
        monkeypatch.setattr("importlib.util.find_spec", lambda name: next(answers))
        exec(code, {"run": lines.append})
        return lines

    monkeypatch.delenv("COLAB_RELEASE_TAG", raising=False)
    assert installations() == []
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release")
    assert installations("found") == []
    [command] = installations(None, "found")
    assert command.startswith("pip install") and "tensorflow-tpu==" in command
    with pytest.raises(ModuleNotFoundError, match="TensorFlow"):  # pip failed
        installations(None, None)


def available_versions(package, python):
    """Versions of a package with a file for a version of Python on Colab's Linux."""
    pip = [sys.executable, "-m", "pip", "index", "versions", package]
    pip += [f"--python-version={python}", "--only-binary=:all:", "--retries=0"]
    pip += [f"--platform=manylinux_2_{glibc}_x86_64" for glibc in (17, 27, 28, 31)]
    text = subprocess.run(pip, capture_output=True, text=True).stdout
    return re.findall(r"[\d.]+\w*", text.partition("Available versions:")[2])


def test_first_cell_names_packages_that_colabs_python_can_install():
    text = (ROOT / "tests/colab-constraints.txt").read_text(encoding="utf-8")
    python = re.match(r".*Python (3\.\d+)", text)[1]
    if not available_versions("pip", python):
        pytest.skip("no network")
    [line] = re.findall(r"%pip install -q (.*)", CODE_CELLS[0].source)
    for package in line.split():
        name, _, version = package.partition("==")
        available = available_versions(name, python)
        assert available and (not version or version in available), package
    # A release that has no file for this Python: it is the file that counts.
    assert "0.0.21" not in available_versions("libtpu", "3.13")


def test_every_epoch_shows_time_value_and_picture():
    shown = "".join(
        "PICTURE\n" if "image/png" in output.get("data", {}) else output.get("text", "")
        for output in OUTPUTS
    )
    line = r"Epoch +(\d+)/(\d+) \| time \d+\.\d s \| test (ELBO|loss) -?\d+\.\d\d"
    found = re.findall(rf"^{line}\nPICTURE$", shown, re.MULTILINE)
    words = ["ELBO"] * 3 + ["loss"] * 2  # the models with the MMD come last
    n = len(found) // len(words)
    rows = [(str(i + 1), str(n), word) for word in words for i in range(n)]
    assert n >= 10 and found == rows


@pytest.mark.parametrize("model", MODELS)
def test_summary_is_complete_and_from_the_full_data(summary, model):
    value = {metric: summary[model, metric] for metric in METRICS}
    assert value["data"] == "full"
    assert value["train_images"] == (60_000 if model == "mnist" else 50_000)
    elbo = -value["reconstruction"] - value["kl"]
    assert value["test_elbo"] == pytest.approx(elbo, rel=1e-3)
    ratio = value["mmd"] / value["mmd_floor"]
    assert value["mmd_in_floors"] == pytest.approx(ratio, rel=1e-3)
    assert 0 <= value["knn_accuracy"] <= 1 and value["ssim"] <= 1


def test_the_full_run_fails_if_one_model_saw_the_sample(summary):
    text = (ROOT / ".github/workflows/full-run.yml").read_text(encoding="utf-8")
    [path] = re.findall(r"run: python tests/run_notebook.py (\S+)", text)
    assert re.search(rf"run: HW3_NOTEBOOK={path} python -m .* -k full_data\n", text)
    values = summary | {("mnist", "data"): "sample"}
    with pytest.raises(AssertionError, match="sample"):
        test_summary_is_complete_and_from_the_full_data(values, "mnist")


def test_summary_reaches_the_required_figures(summary):
    assert summary["mnist", "test_elbo"] >= -131
    assert summary["calibrated_kl", "psnr"] >= 30.0
    assert summary["calibrated_kl", "ssim"] >= 0.945
    for model, psnr in [("bernoulli_mmd", 27.0), ("calibrated_mmd", 29.0)]:
        assert summary[model, "psnr"] >= psnr
        assert summary[model, "mmd_in_floors"] <= 3
    assert max(summary[model, "parameters"] for model in MODELS[1:]) <= 1e6


def test_readme_quotes_the_summary(summary):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\|(.*)\|$", text.replace("−", "-").replace(",", ""), re.M)
    rows = [[cell.strip(" `*") for cell in line.split("|")] for line in lines]
    [header] = [row for row in rows if "psnr" in row]
    figures = {}
    for row in rows:
        if row[0] in MODELS:
            figures |= {(row[0], k): v for k, v in zip(header, row, strict=True)}
    figures = {k: v for k, v in figures.items() if re.fullmatch(r"-?\d+(\.\d+)?", v)}
    assert {model for model, _ in figures} == set(MODELS) and len(figures) >= 24
    for key, quoted in figures.items():
        # The summary prints six digits: half a unit of the quoted place, and a hair.
        allowed = 0.5 * 10 ** -len(quoted.partition(".")[2]) + 1e-9
        assert abs(float(quoted) - summary[key]) <= allowed, (key, quoted, summary[key])
