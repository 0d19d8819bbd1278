"""Execute HW3_VAE.ipynb from a fresh kernel into a new file.

    python tests/run_notebook.py [OUTPUT]

The committed notebook is never overwritten unless OUTPUT names it. What the cells print
appears as they run. The hash of the code is stored in the result's metadata, so that a
test can tell whether the outputs belong to the source; a run that lost a picture gets
none. HW3_DATA_DIR, HW3_BACKUP_DIR and HW3_QUICK act as in the notebook.
"""

import asyncio
import base64
import contextlib
import hashlib
import io
import pathlib
import re
import signal
import sys

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from PIL import Image

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


def drop_opacity(data):
    """A PNG, base64, without an alpha channel that is opaque everywhere.

    No pixel changes, and the notebook's pictures become 7 % smaller.
    """
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    if picture.mode != "RGBA" or picture.getextrema()[3] != (255, 255):
        return data
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "png", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def clean_outputs(outputs):
    """Outputs without TensorFlow's start-up notes, pictures without opacity.

    Neighbouring pieces of one stream become one; the order among pictures stays.
    """
    cleaned = []
    for output in outputs:
        last = cleaned[-1] if cleaned else {}
        data = output.get("data", {})
        if "image/png" in data:
            data["image/png"] = drop_opacity(data["image/png"])
        if output.output_type == "stream" and last.get("name") == output.name:
            last.text += output.text
        elif output.get("name") != "stderr":
            cleaned.append(output)
    return cleaned


def cells_without_picture(notebook):
    """Numbers, from 1, of the cells tagged `fig` that show no picture.

    Flow charts need a program that may be missing; then their cell says so.
    """
    lost = []
    for number, cell in enumerate(notebook.cells, start=1):
        shown = re.search("image/png|No flow chart", str(cell.get("outputs")))
        if "fig" in cell.metadata.get("tags", []) and not shown:
            lost.append(number)
    return lost


def main(output):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.metadata.pop("executed_code_sha256", None)  # earned anew, at the end
    for cell in notebook.cells:
        if cell.cell_type == "code":  # an interrupted run must not show older outputs
            cell.outputs, cell.execution_count = [], None

    def interrupt():  # Ctrl-C ends the cell; nbclient would kill the kernel under it
        asyncio.ensure_future(client.km.interrupt_kernel())

    def catch_ctrl_c(notebook):
        loop = asyncio.get_running_loop()
        with contextlib.suppress(NotImplementedError):  # on Windows
            loop.add_signal_handler(signal.SIGINT, interrupt)

    resources = {"metadata": {"path": str(ROOT)}}
    client = Client(notebook, resources=resources, on_notebook_start=catch_ctrl_c)
    try:
        client.execute()
        if lost := cells_without_picture(notebook):
            sys.exit(f"\nNot a complete run: no picture in cells {lost}, tagged `fig`.")
        notebook.metadata["executed_code_sha256"] = code_hash(notebook)
    except CellExecutionError as error:
        if error.ename != "KeyboardInterrupt":
            raise
        sys.exit("\nStopped by Ctrl-C.")
    finally:  # a failed run is kept too: it shows where and why
        for cell in notebook.cells:
            cell.metadata.pop("execution", None)  # times of day: noise in a diff
            if cell.cell_type == "code":
                cell.outputs = clean_outputs(cell.outputs)
        output.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, output)
        print(f"\nWhat was executed is in {output.resolve()}")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "executed/HW3_VAE.ipynb"))
