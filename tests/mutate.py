"""Plant small bugs in the notebook's functions and see whether the tests notice.

    python tests/mutate.py [NUMBER ...]

Each bug is one replacement in the cells tagged `def`, written to a temporary copy of
the notebook that the tests get through HW3_NOTEBOOK; mutations.txt lists them. Prints a
table: the bug, and the first test that failed, or MISSED. With numbers, only those bugs
are planted. The exit status is 0 if all were caught. The tests must pass before, or the
table says nothing.
"""

import os
import pathlib
import re
import subprocess
import sys
import tempfile

import nbformat
from conftest import NOTEBOOK, ROOT


def read_mutations():
    """List of test file, what is wrong, code and replacement."""
    text = (ROOT / "tests/mutations.txt").read_text(encoding="utf-8")
    return [line.split(" :: ") for line in text.splitlines() if line[0] != "#"]


def plant(old, new):
    """The notebook with `old`, which occurs once in its def cells, replaced."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cells = [c for c in notebook.cells if "def" in c.metadata.get("tags", [])]
    if sum(cell.source.count(old) for cell in cells) != 1:
        raise ValueError(f"not once in the notebook, so correct mutations.txt: {old}")
    [cell] = [cell for cell in cells if old in cell.source]
    cell.source = cell.source.replace(old, new)
    compile(cell.source, old, "exec")
    return notebook


def first_failure(notebook, group):
    """The first test of a file that fails on a notebook; None if all pass."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "mutated.ipynb")
        nbformat.write(notebook, path)
        options = ["-x", "-q", "-p", "no:cacheprovider", f"tests/test_{group}.py"]
        command = [sys.executable, "-m", "pytest", *options]
        settings = dict(cwd=ROOT, env=os.environ | {"HW3_NOTEBOOK": str(path)})
        process = subprocess.run(command, capture_output=True, text=True, **settings)
    failed = re.search(r"^(?:FAILED|ERROR) tests/.*?::(\S+)", process.stdout, re.M)
    return failed and failed[1]


def main(numbers):
    mutations = read_mutations()
    numbers = numbers or range(1, len(mutations) + 1)
    caught = 0
    for number in numbers:
        group, what, old, new = mutations[number - 1]
        failed = first_failure(plant(old, new), group)
        caught += failed is not None
        print(f"{number:2d} | {what} | {failed or 'MISSED'}", flush=True)
    print(f"{caught} of {len(numbers)} caught")
    return caught == len(numbers)


if __name__ == "__main__":
    sys.exit(0 if main([int(number) for number in sys.argv[1:]]) else 1)
