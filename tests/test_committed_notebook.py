"""The notebook as committed: complete, executed from this very source, and honest."""

import ast
import base64
import builtins
import json
import re
import symtable

import pytest
from run_notebook import code_hash

MAX_FILE, MAX_OUTPUT = 8_000_000, 600_000  # bytes
CIFAR10_MODELS = [
    f"cifar10_{name}" for name in ("elbo", "improved", "large", "mmd", "improved_mmd")
]
MODELS = ["mnist_elbo", *CIFAR10_MODELS]
METRICS = (
    "train_images epochs parameters latent_dim seconds_per_epoch test_elbo "
    "reconstruction kl psnr ssim mmd mmd_floor mmd_floor_sd mmd_in_floors "
    "active_units knn_accuracy data"
).split()
QUESTIONS = [f"1.{i}" for i in range(1, 12)] + ["2.1", "2.2", "3.1", "3.2"]
LEAST = {  # what the trained models must reach, and what they must not exceed
    ("mnist_elbo", "test_elbo"): -131,
    ("cifar10_mmd", "psnr"): 22.8,
    ("cifar10_improved", "psnr"): 23.4,
    ("cifar10_improved_mmd", "psnr"): 23.4,
    ("cifar10_large", "psnr"): 27.0,
    **{(model, "epochs"): 10 for model in MODELS},
}
MOST = {(f"cifar10_{name}", "mmd_in_floors"): 2 for name in ("mmd", "improved_mmd")}


@pytest.fixture(scope="module")
def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture(scope="module")
def outputs(code_cells):
    return [output for cell in code_cells for output in cell.outputs]


def text_of(output):
    """All text of an output that a reader sees."""
    data = output.get("data", {})
    return output.get("text", "") + "".join(
        "".join(value) for mime, value in data.items() if mime.startswith("text/")
    )


@pytest.fixture(scope="module")
def summary(code_cells):
    """The closing summary: dict of (model, metric) -> value, as printed."""
    text = "".join(text_of(output) for output in code_cells[-1].outputs)
    lines = [line.split() for line in text.splitlines()]
    rows = lines[lines.index(["model", "metric", "value", "unit"]) + 1 :]
    assert len({(row[0], row[1]) for row in rows}) == len(rows), "a row comes twice"
    return {(row[0], row[1]): row[2] for row in rows}


def test_executed_from_top_to_bottom(code_cells):
    counts = [cell.execution_count for cell in code_cells]
    assert counts == list(range(1, len(code_cells) + 1))


def test_outputs_belong_to_this_source(notebook):
    stored = notebook.metadata.get("executed_code_sha256")
    assert stored == code_hash(notebook), "the code was edited after it was executed"


def test_outputs_are_clean_and_show_in_any_browser(outputs):
    for output in outputs:
        assert output.output_type != "error" and output.get("name") != "stderr"
        assert not re.search(r"warning|traceback", text_of(output), re.IGNORECASE)
        assert set(output.get("data", {})) <= {"text/plain", "text/html", "image/png"}
    pictures = [
        o.data["image/png"] for o in outputs if "image/png" in o.get("data", {})
    ]
    assert len(pictures) > 60  # one for each epoch, and the figures
    for picture in pictures:
        assert base64.b64decode(picture).startswith(b"\x89PNG")


def test_no_path_of_a_machine(notebook):
    for cell in notebook.cells:
        text = cell.source + "".join(text_of(o) for o in cell.get("outputs", []))
        assert not re.search(r"(?<![\w.:/])/(root|home|work|tmp|Users)/", text)


def test_sizes(notebook_path, outputs):
    assert notebook_path.stat().st_size < MAX_FILE
    assert max(len(json.dumps(output)) for output in outputs) < MAX_OUTPUT


def test_every_question_has_its_heading_and_an_answer(notebook):
    text = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    # All of them, once, in the handout's order.
    assert re.findall(r"^#+ (\d\.\d+) ", text, re.MULTILINE) == QUESTIONS
    sections = re.split(r"^#+ \d", text, flags=re.MULTILINE)
    titled = [s for s in sections if re.match(r"\.\d", s)]
    assert [
        number
        for number, s in zip(QUESTIONS, titled, strict=True)
        if "**Answer" not in s
    ] == []


def test_def_cells_define_and_print_nothing(code_cells):
    for cell in code_cells:
        assert cell.metadata.tags[0] in ("setup", "def", "check", "run", "fig")
        if "def" in cell.metadata.tags:
            assert cell.outputs == []
            printed = [
                node
                for node in ast.parse(cell.source).body
                if isinstance(node, ast.Expr) and "print" in ast.dump(node)
            ]
            assert printed == []


def global_names(table):
    """Names that the functions in a symbol table look up in the module."""
    names = set()
    for child in table.get_children():
        if child.get_type() == "function":
            names |= {s.get_name() for s in child.get_symbols() if s.is_global()}
        names |= global_names(child)
    return names


def test_functions_read_no_global_but_constants(code_cells):
    source = "\n".join(c.source for c in code_cells if "def" in c.metadata.tags)
    module = symtable.symtable(source, "def cells", "exec")
    defined = {s.get_name(): s for s in module.get_symbols() if s.is_local()}
    for name in global_names(module) - set(dir(builtins)):
        assert name in defined, f"{name} is not defined in the def cells"
        symbol = defined[name]
        fixed = symbol.is_imported() or symbol.is_namespace() or name.isupper()
        assert fixed, f"a function reads the variable {name}"


def events(cell):
    """The lines and pictures of a cell's output, in the order a reader sees them."""
    for output in cell.outputs:
        if "image/png" in output.get("data", {}):
            yield "picture"
        elif output.output_type == "stream":
            yield from output.text.splitlines()


def test_every_epoch_shows_time_value_and_picture(code_cells):
    trained = []
    for cell in code_cells:
        if "def" in cell.metadata.tags or "main_train_loop(" not in cell.source:
            continue
        quantity = "loss" if "mmd_loss" in cell.source else "ELBO"
        line = rf"Epoch +(\d+)/(\d+) \| time \d+\.\d s \| test {quantity} -?\d+\.\d\d"
        shown = list(events(cell))
        found = [
            (int(match[1]), int(match[2]), shown[i + 1])
            for i, text in enumerate(shown[:-1])
            if (match := re.fullmatch(line, text))
        ]
        assert found == [(i + 1, len(found), "picture") for i in range(len(found))]
        trained.append(len(found))
    mnist, *cifar10 = trained
    assert mnist >= 10 and cifar10[0] >= 10 and cifar10 == cifar10[:1] * 5


def test_summary_is_complete_and_from_the_full_data(summary):
    assert {(model, metric) for model in MODELS for metric in METRICS} <= set(summary)
    for model in MODELS:
        value = {metric: summary[model, metric] for metric in METRICS}
        full = {"mnist": "60000", "cifar10": "50000"}[model.split("_")[0]]
        assert (value.pop("data"), value["train_images"]) == ("full", full)
        number = {metric: float(text) for metric, text in value.items()}
        elbo = -number["reconstruction"] - number["kl"]
        assert number["test_elbo"] == pytest.approx(elbo, rel=1e-3)
        ratio = number["mmd"] / number["mmd_floor"]
        assert number["mmd_in_floors"] == pytest.approx(ratio, rel=1e-3)
        assert 0 <= number["knn_accuracy"] <= 1 and number["ssim"] <= 1


def test_summary_reaches_the_required_figures(summary):
    missed = {key: summary[key] for key in LEAST if float(summary[key]) < LEAST[key]}
    missed |= {key: summary[key] for key in MOST if float(summary[key]) > MOST[key]}
    assert missed == {}
    for metric in ("epochs", "train_images"):  # compared, so trained alike
        assert len({summary[model, metric] for model in CIFAR10_MODELS}) == 1


def readme_figures(text):
    """The numbers of the README's results table: (model, metric, text) each."""
    header = []
    for line in text.splitlines():
        cells = [cell.strip(" `*") for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|"):
            header = []
        elif not header:
            header = cells
        elif cells[0] in MODELS:
            for metric, cell in zip(header[1:], cells[1:], strict=True):
                plain = cell.replace("−", "-").replace(",", "")
                if re.fullmatch(r"-?\d+(\.\d+)?", plain):
                    yield cells[0], metric, plain


def test_readme_quotes_the_summary(summary, root):
    figures = list(readme_figures((root / "README.md").read_text(encoding="utf-8")))
    assert {model for model, *_ in figures} == set(MODELS) and len(figures) >= 24
    for model, metric, quoted in figures:
        decimals = len(quoted.partition(".")[2])
        # The summary prints six digits: half a unit of the quoted place, and a hair.
        printed, allowed = float(summary[model, metric]), 0.5 * 10**-decimals + 1e-9
        assert abs(float(quoted) - printed) <= allowed, (model, metric, quoted, printed)
