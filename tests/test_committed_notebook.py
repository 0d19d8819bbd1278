"""The notebook as committed: complete, executed from this very source, and honest."""

import collections
import copy
import re

import pytest
from conftest import CODE_CELLS, NOTEBOOK, ROOT, SAVED, find_cell, printed
from nbformat.v4 import new_markdown_cell, new_output
from run_notebook import code_hash

METRICS = """train_images epochs parameters latent_dim seconds_per_epoch test_elbo
reconstruction kl psnr mmd_ratio median_sigma knn_accuracy data""".split()
MODELS = ["mnist", "bernoulli_kl", "calibrated_kl", "bernoulli_mmd"]
QUESTIONS = [f"1.{i}" for i in range(1, 12)] + ["2.1", "2.2", "3.1", "3.2"]
DEFINITIONS = [0.5, 0.25, 0.001, 250]  # and derivations: not measured
# References; headings and quotes; code, formulas, links, years; numbers of questions.
NOT_MEASURED = (
    r"(?ms)^## References$.*?(?=^## |\Z)|^[#>][^\n]*|```.*?```|`[^`]+`"
    r"|\$\$.*?\$\$|\$[^$]+\$|\[[^]]*\]\([^)]*\)|https?://\S+|\b(?:19|20)\d\d\b"
    r"|\b(?:1\.1[01]|1\.[1-9]|[23]\.[12])\b(?! (?:dB|nats|%|s\b))"
)
QUOTED = r"(?<![\w.])(\d{1,3}(?:,\d{3})+|\d+)(?:\.(\d+))?(?!\w|[.,]\d)( ?%)?"


def read_numbers(text):
    """All numbers, without their signs, in what was printed or in code."""
    return [float(n) for n in re.findall(r"\d+(?:_\d+)*\.?\d*(?:e[-+]?\d+)?", text)]


def unmatched_numbers(notebook):
    """Pairs of section and number: what the text quotes and no cell has printed.

    Decimals, and whole numbers of three digits or more, must agree, as rounded, with an
    output of their own section, with the closing summary or with a constant of the
    configuration cell. Text outside of the questions may quote any output.
    """
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    [settings] = [cell.source for cell in code if "HW3_QUICK" in cell.source]
    always = DEFINITIONS + read_numbers(settings) + read_numbers(printed(code[-1]))
    known, quoted, section = collections.defaultdict(list), [], ""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            known[section] += read_numbers(printed(cell))
            continue
        for part in re.split(r"(?m)^(?=###? )", cell.source):
            if heading := re.match(r"###? (\S+)", part):
                section = heading[1]
            for match in re.finditer(QUOTED, re.sub(NOT_MEASURED, " ", part)):
                quoted.append((section, match))
    unmatched = []
    for section, match in quoted:
        here = known[section] if section in QUESTIONS else sum(known.values(), [])
        value = float(match[0].replace(",", "").rstrip(" %"))
        allowed = 0.5 * 10.0 ** -len(match[2] or "") + 1e-9
        shares = [100 * n for n in here + always] if match[3] else []
        found = any(abs(n - value) <= allowed for n in here + always + shares)
        if not found and (match[2] or len(match[1]) > 2):
            unmatched.append((section, match[0]))
    return unmatched


@pytest.fixture(scope="module")
def summary():
    """The closing summary: dict of model -> metric -> text."""
    rows = [line.split() for line in printed(CODE_CELLS[-1]).splitlines()]
    assert rows[0] == ["metric", "unit", *MODELS]
    (_, *metrics), _, *columns = zip(*rows, strict=True)
    return {model: dict(zip(metrics, a, strict=True)) for model, *a in columns}


def test_executed_from_top_to_bottom_from_this_source():
    counts = [cell.execution_count for cell in CODE_CELLS]
    assert counts == list(range(1, len(CODE_CELLS) + 1))
    stored = SAVED.metadata.get("executed_code_sha256")
    assert stored == code_hash(SAVED), "the code was edited after it was executed"


def test_outputs_are_clean_and_every_figure_is_there_with_a_title():
    for cell in CODE_CELLS:
        pictures = [o.data for o in cell.outputs if "image/png" in o.get("data", {})]
        assert pictures or "fig" not in cell.metadata.get("tags", []), cell.source
        for picture in pictures:
            assert picture["image/png"].startswith("iVBORw0KGgo")  # a PNG in base64
            # The only text about a picture that editors can read out.
            assert re.match(r"(?!<Figure|<IPython)\w", picture["text/plain"])
        for output in cell.outputs:
            assert output.output_type != "error" and output.get("name") != "stderr"
            shown_by_browsers = {"text/plain", "text/html", "image/png"}
            assert set(output.get("data", {})) <= shown_by_browsers
        assert not re.search("(?i)warning|traceback", printed(cell))


def test_no_path_of_a_machine_and_small():
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert len(text.encode()) <= 2_500_000
    without_pictures = re.sub(r'"image/png": ".*"', "", text)
    assert not re.search(r"(?<![\w.:/])/(root|home|work|tmp|Users)/", without_pictures)


def test_every_question_has_its_heading_and_an_answer():
    text = "\n".join(c.source for c in SAVED.cells if c.cell_type == "markdown")
    sections = re.findall(r"(?ms)^### (\d\.\d+) (.*?)(?=^###? |\Z)", text)
    assert [number for number, _ in sections] == QUESTIONS
    assert [number for number, body in sections if "**Answer" not in body] == []


@pytest.mark.parametrize("model", MODELS)
def test_summary_is_complete_and_every_epoch_is_shown(summary, model):
    value = summary[model]
    assert sorted(value) == sorted(METRICS) and value["data"] == "full"
    assert value["train_images"] == ("60000" if model == "mnist" else "50000")
    elbo = -float(value["reconstruction"]) - float(value["kl"])
    assert float(value["test_elbo"]) == pytest.approx(elbo, rel=1e-3)
    cell = find_cell(f"{model}_history = main_train_loop(")
    n = int(value["epochs"])
    result = "loss" if model == "bernoulli_mmd" else "ELBO"
    line = rf"^Epoch +(\d+)/{n} \| time \d+\.\d s \| test {result} -?\d+\.\d\d$"
    epochs = re.findall(line, printed(cell), re.M)
    assert epochs == [str(i + 1) for i in range(n)]
    shown = n if model in ("mnist", "bernoulli_kl") else 1
    assert str(cell.outputs).count("image/png") == shown


def test_summary_shows_no_collapse(summary):
    # Another machine or seed has somewhat other figures; far worse ones are an error.
    assert float(summary["mnist"]["test_elbo"]) >= -135
    assert float(summary["calibrated_kl"]["psnr"]) >= 28
    assert float(summary["bernoulli_mmd"]["psnr"]) >= 26
    assert float(summary["bernoulli_mmd"]["mmd_ratio"]) <= 4
    assert max(int(summary[model]["parameters"]) for model in MODELS[1:]) <= 150_000


def test_readme_quotes_the_summary(summary):
    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("−", "-")
    [metrics] = re.findall(r"^\| model \| (.*) \|$", text, re.M)
    for model in MODELS:
        [row] = re.findall(rf"^\| `{model}` \| (.*) \|$", text.replace(",", ""), re.M)
        for metric, quoted in zip(metrics.split(" | "), row.split(" | "), strict=True):
            value = float(summary[model][metric])
            assert quoted == f"{value:.{len(quoted.partition('.')[2])}f}", metric


def test_every_measured_number_in_the_text_was_printed():
    assert unmatched_numbers(SAVED) == []


def test_a_wrong_number_in_the_text_is_found():
    text = "98.765 dB, −4,321.5 nats, `1.23`, $4.56$, see 2.1 (2021)"
    notebook = copy.deepcopy(SAVED)
    [i] = [i for i, c in enumerate(notebook.cells) if "mnist_history = " in c.source]
    notebook.cells[i].outputs.append(new_output("stream", text="-4321.46"))
    notebook.cells.insert(i + 1, new_markdown_cell(text))
    notebook.cells.append(new_markdown_cell(f"### 1.10 Latent space\n\n{text}"))
    wrong = set(unmatched_numbers(notebook)) - set(unmatched_numbers(SAVED))
    assert wrong == {("1.9", "98.765"), ("1.10", "98.765"), ("1.10", "4,321.5")}
