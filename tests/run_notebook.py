"""Execute HW3_VAE.ipynb from a fresh kernel into a new file.

    python tests/run_notebook.py [OUTPUT]

OUTPUT is executed/HW3_VAE.ipynb by default: the committed notebook is not overwritten
unless OUTPUT names it. What the cells print appears as they run. A complete run gets
the hash of the code in its metadata, so that a test can tell whether outputs belong to
the source. A run with a lost picture, an error or a warning gets none.
"""

import base64
import hashlib
import pathlib
import re
import sys

import nbformat
import oxipng
from nbclient import NotebookClient
from nbformat.v4 import new_output

ROOT = pathlib.Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "HW3_VAE.ipynb"


class Client(NotebookClient):
    """Shows on the terminal what the kernel prints while a cell runs."""

    def process_message(self, msg, cell, cell_index):
        if msg["msg_type"] == "stream" and msg["content"]["name"] == "stdout":
            print(msg["content"]["text"], end="", flush=True)
        return super().process_message(msg, cell, cell_index)


def code_hash(notebook):
    """SHA-256 of the sources of all code cells, in order."""
    code = "\0".join(c.source for c in notebook.cells if c.cell_type == "code")
    return hashlib.sha256(code.encode()).hexdigest()


def shrink_picture(data):
    """A PNG, base64, as a smaller one with the same pixels."""
    return base64.b64encode(
        oxipng.optimize_from_memory(base64.b64decode(data))
    ).decode()


def is_start_up_note(line):
    """Whether a line of stderr is one that TensorFlow logs while it starts.

    These are information (I), and warnings or errors from its search for a GPU.
    """
    if line.startswith(("WARNING: All log messages before absl", "To enable the foll")):
        return True  # a line before or after a note
    is_information = re.match(r"(I\d{4}|[\d-]+ [\d:.]+: I) .*\.cc:\d+\] ", line)
    return is_information or re.search(r" \S*(cuda|gpu|placer)\S*\.cc:\d+\] ", line)


def clean_outputs(outputs):
    """A cell's outputs without start-up notes; neighbouring texts become one.

    The order of pictures and printed text stays. What is left of stderr comes last.
    """
    stderr = "".join(o.text for o in outputs if o.get("name") == "stderr")
    lines = stderr.splitlines(keepends=True)
    warnings = "".join(line for line in lines if not is_start_up_note(line))
    cleaned = []
    for output in [o for o in outputs if o.get("name") != "stderr"]:
        if "image/png" in output.get("data", {}):
            output.data["image/png"] = shrink_picture(output.data["image/png"])
        if cleaned and "stream" == output.output_type == cleaned[-1].output_type:
            cleaned[-1].text += output.text
        else:
            cleaned.append(output)
    if warnings:
        cleaned.append(new_output("stream", name="stderr", text=warnings))
    return cleaned


def find_faults(notebook):
    """What keeps an executed notebook from being complete: a list of sentences."""
    faults = []
    for number, cell in enumerate(notebook.cells, start=1):
        outputs = str(cell.get("outputs"))
        lost = "image/png" not in outputs or re.search("No (flow ch|picture)", outputs)
        if lost and "fig" in cell.metadata.get("tags", []):
            faults.append(f"cell {number} lost a picture")
        # In a notebook TensorFlow's own warnings go to stdout.
        if "'stderr'" in outputs or "WARNING:" in outputs:
            faults.append(f"cell {number} has a warning")
    return faults


def main(output):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code_cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    # A run that fails must show neither older outputs nor their hash.
    notebook.metadata.pop("executed_code_sha256", None)
    for cell in code_cells:
        cell.outputs, cell.execution_count = [], None
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        Client(notebook, resources={"metadata": {"path": str(ROOT)}}).execute()
    finally:  # a failed run is kept too: it shows where and why
        for cell in code_cells:
            cell.metadata.pop("execution", None)  # times of day: noise in a diff
            cell.outputs = clean_outputs(cell.outputs)
        nbformat.write(notebook, output)
        print(f"\nWhat was executed is in {output.resolve()}")
    if faults := find_faults(notebook):
        sys.exit(f"Not a complete run: {', '.join(faults)}.")
    notebook.metadata["executed_code_sha256"] = code_hash(notebook)
    nbformat.write(notebook, output)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "executed/HW3_VAE.ipynb"))
