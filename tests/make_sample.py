"""Make the bundled sample, tests/data/{mnist,cifar10}.npz, from the full data sets.

    python tests/make_sample.py FOLDER_WITH_THE_FULL_FILES

Takes the first images of each class, in equal numbers and in their original order.
Rows listed in an optional FOLDER/cifar10_inexact_rows.json, which are not exact copies
of the published images, are left out.
"""

import json
import pathlib
import sys

import numpy as np

PER_CLASS = {"mnist": (200, 100), "cifar10": (150, 100)}  # training, test images


def first_of_each_class(labels, per_class, skip):
    """Indices of the first `per_class` rows of every class that are not in `skip`."""
    rows = np.setdiff1d(np.arange(len(labels)), skip)
    chosen = [rows[labels[rows].ravel() == c][:per_class] for c in range(10)]
    return np.sort(np.concatenate(chosen))


def main(folder):
    for name, counts in PER_CLASS.items():
        inexact_file = folder / f"{name}_inexact_rows.json"
        inexact = json.loads(inexact_file.read_text()) if inexact_file.exists() else {}
        sample = {}
        with np.load(folder / f"{name}.npz", allow_pickle=False) as full:
            for part, per_class in zip(("train", "test"), counts, strict=True):
                labels = full[f"y_{part}"]
                rows = first_of_each_class(labels, per_class, inexact.get(part, []))
                sample[f"x_{part}"] = full[f"x_{part}"][rows]
                sample[f"y_{part}"] = labels[rows]
        target = pathlib.Path(__file__).parent / "data" / f"{name}.npz"
        target.parent.mkdir(exist_ok=True)
        np.savez_compressed(target, **sample)
        print(target.name, target.stat().st_size, "bytes")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
