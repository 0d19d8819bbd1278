"""Execute HW3_VAE.ipynb from a fresh kernel into a new file.

    python tests/run_notebook.py [OUTPUT]

The committed notebook is never overwritten unless OUTPUT names it. The hash of the
code is stored in the result's metadata, so that a test can tell whether the outputs
belong to the source. HW3_DATA_DIR and HW3_QUICK act as in the notebook.
"""

import base64
import hashlib
import io
import pathlib
import sys

import nbformat
from nbclient import NotebookClient
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "HW3_VAE.ipynb"


def code_hash(notebook):
    """SHA-256 of the sources of all code cells, in order."""
    code = "\0".join(c.source for c in notebook.cells if c.cell_type == "code")
    return hashlib.sha256(code.encode()).hexdigest()


def merge_adjacent_streams(outputs):
    """Join neighbouring pieces of one stream; the order among pictures stays."""
    merged = []
    for output in outputs:
        last = merged[-1] if merged else {}
        if output.output_type == "stream" and last.get("name") == output.name:
            last.text += output.text
        else:
            merged.append(output)
    return merged


def compress_picture(data):
    """The same pixels in a smaller PNG, base64 both: opaque ones need no alpha."""
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    if picture.mode == "RGBA" and picture.getextrema()[3] == (255, 255):
        picture = picture.convert("RGB")
    buffer = io.BytesIO()
    picture.save(buffer, "png", optimize=True)
    return min(data, base64.b64encode(buffer.getvalue()).decode(), key=len)


def main(output):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=None,
        kernel_name="python3",
        resources={"metadata": {"path": str(ROOT)}},
        on_cell_executed=lambda cell, cell_index, execute_reply: print(
            f"cell {cell_index + 1} of {len(notebook.cells)} done", flush=True
        ),
    )
    try:
        client.execute()
    finally:  # a failed run is kept too: it shows where and why
        for cell in notebook.cells:
            cell.metadata.pop("execution", None)  # times of day: noise in a diff
            if cell.cell_type == "code":
                cell.outputs = merge_adjacent_streams(cell.outputs)
                for data in (output.get("data", {}) for output in cell.outputs):
                    if "image/png" in data:
                        data["image/png"] = compress_picture(data["image/png"])
        notebook.metadata["executed_code_sha256"] = code_hash(notebook)
        output.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, output)
        print(f"The executed notebook is {output.resolve()}")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "executed/HW3_VAE.ipynb"))
