"""What a picture of images and a shown figure look like, whatever the settings."""

import io
from unittest import mock

import numpy as np
from conftest import close, find_cell, plt


def test_show_image_grid_puts_every_image_in_its_place(nb, figures, rng):
    rows = rng.uniform(0.3, 0.6, size=(2, 4, 5, 6, 3))
    nb.show_image_grid(rows, "a title", "ab", "wxyz")
    [axes] = figures[0][0].axes
    [image] = axes.images
    mosaic = image.get_array().reshape(2, 5, 4, 6, 3)
    close(mosaic.swapaxes(1, 2), rows)
    assert image.get_clim() == (0, 1)  # contrast is not stretched per picture
    assert axes.get_title() == figures[0][1] == "a title"
    labels = axes.get_xticklabels() + axes.get_yticklabels()
    assert [label.get_text() for label in labels] == [*"wxyzab"]
    close([*axes.get_xticks() // 6, *axes.get_yticks() // 5], [0, 1, 2, 3, 0, 1])


def test_figures_are_png_pictures_whatever_a_matplotlibrc_says(nb, monkeypatch):
    monkeypatch.setattr(nb, "display", shown := mock.Mock())
    with plt.rc_context({"image.origin": "lower", "savefig.format": "pdf"}):
        exec(find_cell("plt.style.use").source, vars(nb).copy())
        rising = np.repeat(np.linspace(0, 1, 30), 30).reshape(1, 1, 30, 30, 1)
        nb.show_image_grid(rising, "a title")
    [bundle] = shown.call_args.args
    assert bundle["text/plain"] == "a title" and shown.call_args.kwargs == {"raw": True}
    upper, lower = np.array_split(plt.imread(io.BytesIO(bundle["image/png"])), 2)
    assert upper.mean() < lower.mean() - 0.1  # dark above, as in the array
    assert plt.get_fignums() == []  # or a notebook would show it once more
