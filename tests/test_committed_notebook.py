"""The notebook as committed: complete, executed from this very source, and honest."""

import base64
import builtins
import json
import re
import symtable
import sys

import nbformat
import pytest
from conftest import NOTEBOOK, ROOT
from run_notebook import code_hash

MAX_FILE, MAX_OUTPUT = 8_000_000, 600_000  # bytes
CIFAR10_MODELS = "elbo improved large mmd improved_mmd".split()
MODELS = ["mnist_elbo", *(f"cifar10_{name}" for name in CIFAR10_MODELS)]
METRICS = (
    "train_images epochs parameters latent_dim seconds_per_epoch test_elbo "
    "reconstruction kl psnr ssim mmd mmd_floor mmd_floor_sd mmd_in_floors "
    "active_units knn_accuracy data"
).split()
QUESTIONS = [f"1.{i}" for i in range(1, 12)] + ["2.1", "2.2", "3.1", "3.2"]


SAVED = nbformat.read(NOTEBOOK, as_version=4)
CODE_CELLS = [cell for cell in SAVED.cells if cell.cell_type == "code"]
OUTPUTS = [output for cell in CODE_CELLS for output in cell.outputs]


@pytest.fixture(scope="module")
def summary():
    """The closing summary: dict of (model, metric) -> value, as printed."""
    lines = [line.split() for line in CODE_CELLS[-1].outputs[0].text.splitlines()]
    rows = lines[lines.index(["model", "metric", "value", "unit"]) + 1 :]
    assert len({(row[0], row[1]) for row in rows}) == len(rows), "a row comes twice"
    return {(row[0], row[1]): row[2] for row in rows}


def test_executed_from_top_to_bottom_from_this_source():
    counts = [cell.execution_count for cell in CODE_CELLS]
    assert counts == list(range(1, len(CODE_CELLS) + 1))
    stored = SAVED.metadata.get("executed_code_sha256")
    assert stored == code_hash(SAVED), "the code was edited after it was executed"


def test_outputs_are_clean_and_show_in_any_browser():
    for output in OUTPUTS:
        assert output.output_type != "error" and output.get("name") != "stderr"
        assert not re.search(
            "warning|traceback", str(output.get("text")), re.IGNORECASE
        )
        assert set(output.get("data", {})) <= {"text/plain", "text/html", "image/png"}
    data = [output.get("data", {}) for output in OUTPUTS]
    pictures = [bundle["image/png"] for bundle in data if "image/png" in bundle]
    assert len(pictures) > 60  # one for each epoch, and the figures
    for picture in pictures:
        assert base64.b64decode(picture).startswith(b"\x89PNG")


def test_no_path_of_a_machine_and_small():
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert len(text.encode()) < MAX_FILE
    assert max(len(json.dumps(output)) for output in OUTPUTS) < MAX_OUTPUT
    without_pictures = re.sub(r'"image/png": ".*"', "", text)
    assert not re.search(r"(?<![\w.:/])/(root|home|work|tmp|Users)/", without_pictures)


def test_every_question_has_its_heading_and_an_answer():
    text = "\n".join(c.source for c in SAVED.cells if c.cell_type == "markdown")
    _, *sections = re.split(r"^(?=#+ \d)", text, flags=re.MULTILINE)
    numbered = {m[1]: s for s in sections if (m := re.match(r"#+ (\d\.\d+) ", s))}
    # All of them, once, in the handout's order.
    assert re.findall(r"^#+ (\d\.\d+) ", text, re.MULTILINE) == QUESTIONS
    assert [number for number in QUESTIONS if "**Answer" not in numbered[number]] == []


def test_def_cells_print_nothing():
    for cell in CODE_CELLS:
        assert cell.metadata.tags[0] in ("setup", "def", "check", "run", "fig")
        assert "def" not in cell.metadata.tags or cell.outputs == []


def global_names(table):
    """Names that the functions in a symbol table look up in the module."""
    names = set()
    for child in table.get_children():
        if child.get_type() == "function":
            names |= {s.get_name() for s in child.get_symbols() if s.is_global()}
        names |= global_names(child)
    return names


def test_functions_read_no_global_but_constants():
    source = "\n".join(c.source for c in CODE_CELLS if "def" in c.metadata.tags)
    module = symtable.symtable(source, "def cells", "exec")
    defined = {s.get_name(): s for s in module.get_symbols() if s.is_local()}
    for name in global_names(module) - set(dir(builtins)):
        assert name in defined, f"{name} is not defined in the def cells"
        symbol = defined[name]
        fixed = symbol.is_imported() or symbol.is_namespace() or name.isupper()
        assert fixed, f"a function reads the variable {name}"


def test_flow_charts_explain_a_missing_dot(nb, make_model, monkeypatch, capsys):
    [cell] = [cell for cell in CODE_CELLS if "plot_model" in cell.source]
    monkeypatch.setenv("PATH", "")
    monkeypatch.delitem(sys.modules, "IPython.core.magics.namespace", raising=False)
    exec(cell.source, vars(nb) | {"first_model": make_model(), "display": print})
    lines = capsys.readouterr().out.splitlines()
    assert "decoder" in lines[2] and "graphviz" in lines[3].lower()


def count_epochs(cell):
    """How many epochs a training shows, each with its line and then its picture."""
    quantity = "loss" if "mmd_loss" in cell.source else "ELBO"
    line = rf"Epoch +(\d+)/(\d+) \| time \d+\.\d s \| test {quantity} -?\d+\.\d\d"
    shown = "".join(
        "PICTURE\n" if "image/png" in output.get("data", {}) else output.get("text", "")
        for output in cell.outputs
    )
    found = re.findall(rf"^{line}\nPICTURE$", shown, re.MULTILINE)
    assert found == [(str(i + 1), str(len(found))) for i in range(len(found))]
    return len(found)


def test_every_epoch_shows_time_value_and_picture():
    runs = [cell for cell in CODE_CELLS if "def" not in cell.metadata.tags]
    training = [cell for cell in runs if "main_train_loop(" in cell.source]
    mnist, *cifar10 = map(count_epochs, training)
    assert mnist >= 10 and cifar10[0] >= 10 and cifar10 == cifar10[:1] * 5


@pytest.mark.parametrize("model", MODELS)
def test_summary_is_complete_and_from_the_full_data(summary, model):
    value = {metric: summary[model, metric] for metric in METRICS}
    assert value.pop("data") == "full"
    value = {metric: float(text) for metric, text in value.items()}
    assert value["train_images"] == (60_000 if "mnist" in model else 50_000)
    elbo = -value["reconstruction"] - value["kl"]
    assert value["test_elbo"] == pytest.approx(elbo, rel=1e-3)
    ratio = value["mmd"] / value["mmd_floor"]
    assert value["mmd_in_floors"] == pytest.approx(ratio, rel=1e-3)
    assert 0 <= value["knn_accuracy"] <= 1 and value["ssim"] <= 1


@pytest.mark.parametrize(
    ("model", "metric", "least", "most"),
    [
        ("mnist_elbo", "test_elbo", -131, 0),
        ("cifar10_mmd", "psnr", 22.8, 100),
        ("cifar10_improved", "psnr", 23.4, 100),
        ("cifar10_improved_mmd", "psnr", 23.4, 100),
        ("cifar10_large", "psnr", 27.0, 100),
        ("cifar10_mmd", "mmd_in_floors", 0, 2),
        ("cifar10_improved_mmd", "mmd_in_floors", 0, 2),
    ],
)
def test_summary_reaches_the_required_figures(summary, model, metric, least, most):
    assert least <= float(summary[model, metric]) <= most


def readme_figures(text):
    """The numbers of the README's results table: (model, metric, text) each."""
    header = []
    for line in text.splitlines():
        cells = [cell.strip(" `*") for cell in line.strip("| ").split("|")]
        header = (header or cells) if line.startswith("|") else []
        if header and cells[0] in MODELS:
            for metric, cell in zip(header[1:], cells[1:], strict=True):
                plain = cell.replace("−", "-").replace(",", "")
                if re.fullmatch(r"-?\d+(\.\d+)?", plain):
                    yield cells[0], metric, plain


def test_readme_quotes_the_summary(summary):
    figures = list(readme_figures((ROOT / "README.md").read_text(encoding="utf-8")))
    assert {model for model, *_ in figures} == set(MODELS) and len(figures) >= 24
    for model, metric, quoted in figures:
        decimals = len(quoted.partition(".")[2])
        # The summary prints six digits: half a unit of the quoted place, and a hair.
        printed, allowed = float(summary[model, metric]), 0.5 * 10**-decimals + 1e-9
        assert abs(float(quoted) - printed) <= allowed, (model, metric, quoted, printed)
