"""Execute HW3_VAE.ipynb from a fresh kernel into a new file.

    python tests/run_notebook.py [OUTPUT]

The committed notebook is never overwritten unless OUTPUT names it. What the cells print
and the progress of the trainings appear as they run. The hash of the code is stored in
the result's metadata, so that a test can tell whether the outputs belong to the source.
HW3_DATA_DIR, HW3_BACKUP_DIR and HW3_QUICK act as in the notebook.
"""

import asyncio
import base64
import hashlib
import io
import pathlib
import signal
import sys

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "HW3_VAE.ipynb"


class Client(NotebookClient):
    """Shows on the terminal what the kernel sends while a cell runs."""

    def process_message(self, msg, cell, cell_index):
        content, kind = msg["content"], msg["msg_type"]
        if kind == "stream" and content["name"] == "stdout":
            print(f"\r\033[K{content['text']}", end="", flush=True)
        elif kind == "update_display_data":
            text = content["data"].get("text/plain", "")
            print(f"\r\033[K{text}", end="", flush=True)
        return super().process_message(msg, cell, cell_index)


def code_hash(notebook):
    """SHA-256 of the sources of all code cells, in order."""
    code = "\0".join(c.source for c in notebook.cells if c.cell_type == "code")
    return hashlib.sha256(code.encode()).hexdigest()


def clean_outputs(outputs):
    """Outputs without TensorFlow's start-up notes and the emptied progress display.

    Neighbouring pieces of one stream become one; the order among pictures stays.
    """
    cleaned = []
    for output in outputs:
        last = cleaned[-1] if cleaned else {}
        data = output.get("data", {})
        if output.get("name") == "stderr" or set(data.values()) == {""}:
            continue
        if output.output_type == "stream" and last.get("name") == output.name:
            last.text += output.text
            continue
        if "image/png" in data:
            data["image/png"] = compress_picture(data["image/png"])
        cleaned.append(output)
    return cleaned


def compress_picture(data):
    """A smaller PNG of a picture, base64 both.

    Colours are rounded to multiples of 5, by 2 of 255 levels at most: no eye sees it,
    and the strips of all epochs, mostly noise of real images, stay below 8 MB.
    """
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    if picture.mode == "RGBA" and picture.getextrema()[3] == (255, 255):
        picture = picture.convert("RGB")
    buffer = io.BytesIO()
    picture.point(lambda level: 5 * round(level / 5)).save(buffer, "png", optimize=True)
    return min(data, base64.b64encode(buffer.getvalue()).decode(), key=len)


def main(output):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.metadata.pop("executed_code_sha256", None)  # earned anew, at the end
    for cell in notebook.cells:
        if cell.cell_type == "code":  # an interrupted run must not show older outputs
            cell.outputs, cell.execution_count = [], None
    client = Client(
        notebook,
        resources={"metadata": {"path": str(ROOT)}},
        on_notebook_start=lambda notebook: (
            asyncio.get_running_loop().add_signal_handler(signal.SIGINT, interrupt)
        ),
    )

    def interrupt():  # Ctrl-C ends the cell; nbclient would kill the kernel under it
        asyncio.ensure_future(client.km.interrupt_kernel())

    try:
        client.execute()
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
