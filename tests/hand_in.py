"""Print the committed notebook to executed/HW3_VAE.html and executed/HW3_VAE.pdf.

    python tests/hand_in.py

The PDF needs Chromium; the formulas need a network, and a line at the top of both files
says so where they could not be drawn. A3 pages hold whole lines of code.
"""

import shutil
import subprocess

from nbconvert import HTMLExporter
from run_notebook import NOTEBOOK, ROOT

HEAD = """<style>@page { size: A3; margin: 1cm }</style>
<script>addEventListener("load", () => window.MathJax || document.body.prepend(
"WARNING: the formulas are not drawn, because there was no network."))</script>
</head>"""
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def main(folder=ROOT / "executed"):
    if not CHROMIUM:
        raise SystemExit("Install Chromium first (apt-get install chromium).")
    folder.mkdir(exist_ok=True)
    page, pdf = folder / "HW3_VAE.html", folder / "HW3_VAE.pdf"
    html, _ = HTMLExporter().from_filename(NOTEBOOK)
    page.write_text(html.replace("</head>", HEAD, 1), encoding="utf-8")
    flags = "--headless --log-level=3 --no-sandbox --virtual-time-budget=60000".split()
    command = [CHROMIUM, *flags, f"--print-to-pdf={pdf}", page]
    subprocess.run(command, check=True)
    print(f"{page}\n{pdf}\nA line at their top says if the formulas are not drawn.")


if __name__ == "__main__":
    main()
