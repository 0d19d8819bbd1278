"""The notebook's cells: run twice, after edits, and where something is missing."""

import ast
import collections
import contextlib
import copy
import dis
import os

import numpy as np
import pytest
from conftest import CODE_CELLS, ROOT, SAVED, close, find_cell, make_model, printed
from nbclient import NotebookClient

CELLS = CODE_CELLS[1:]  # the first installs TensorFlow where it is missing


def test_no_cell_rebinds_a_name_of_another():
    cells = collections.defaultdict(set)
    for i, cell in enumerate(CELLS):
        # Assignments, loops, functions and so on; not the variables of comprehensions.
        for step in dis.get_instructions(compile(cell.source, f"cell {i}", "exec")):
            if step.opname == "STORE_NAME":
                cells[step.argval].add(i)
    shared = [name for name, where in cells.items() if len(where) > 1]
    assert set(shared) <= {"_"} and "x_train" in cells  # the first is never read


def test_no_function_default_holds_a_constant():
    # A changed constant would have no effect until the function is defined again.
    nodes = [node for cell in CELLS for node in ast.walk(ast.parse(cell.source))]
    for node in [node for node in nodes if isinstance(node, ast.arguments)]:
        for default in filter(None, [*node.defaults, *node.kw_defaults]):
            names = {a.id for a in ast.walk(default) if isinstance(a, ast.Name)}
            assert not any(name.isupper() for name in names), names


@pytest.mark.parametrize("text", ["", "0", "1", "1 ", "true"])
def test_HW3_QUICK(monkeypatch, text):
    monkeypatch.setenv("HW3_QUICK", text)
    settings = {"os": os}
    wrong = pytest.raises(ValueError, match="true")
    with wrong if text == "true" else contextlib.nullcontext():
        exec(find_cell("HW3_QUICK").source, settings)
        assert bool(settings["QUICK"]) is (settings["MAX_STEPS"] > 0) is ("1" in text)


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot run this script")
@pytest.mark.parametrize("mode", [None, 0o755, 0o644])  # missing, failing, forbidden
def test_flow_charts_explain_a_dot_that_fails(nb, monkeypatch, tmp_path, capsys, mode):
    monkeypatch.setenv("PATH", str(tmp_path))
    if mode:
        (tmp_path / "dot").write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / "dot").chmod(mode)
    models = dict.fromkeys(["mnist_untrained", "cifar10_untrained"], make_model(nb))
    exec(find_cell("model_to_dot").source, vars(nb) | models)
    assert capsys.readouterr().out.count("No flow chart") == 2


def test_every_cell_runs_twice_in_one_kernel(monkeypatch, tmp_path):
    for name in ("mnist", "cifar10"):
        with np.load(ROOT / f"tests/data/{name}.npz") as file:
            np.savez(tmp_path / f"{name}.npz", **{key: file[key][:300] for key in file})
    monkeypatch.setenv("HW3_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("HW3_QUICK", "1")
    notebook = copy.deepcopy(SAVED)
    notebook.cells = copy.deepcopy([*CODE_CELLS, *CELLS])
    for cell in notebook.cells:
        if "\nKL_WEIGHTS = " in cell.source:
            # One epoch is enough, and one other weight.
            cell.source += "\nKL_WEIGHTS = (1,)"
            cell.source += "\nMNIST_EPOCHS = CIFAR10_EPOCHS = 1"
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=None, resources=resources).execute()
    first, second = (printed(notebook.cells[i]).split() for i in (len(CELLS), -1))
    assert first[-4:] == second[-4:] == ["sample"] * 4
    elbo = slice(first.index("test_elbo") + 2, first.index("reconstruction"))
    close(np.float64(second[elbo]), np.float64(first[elbo]), rtol=0.01)
