"""What a mosaic and a shown figure look like."""

from unittest import mock

import matplotlib
import numpy as np
import pytest
from conftest import load_notebook


@pytest.mark.parametrize("channels", [1, 3])
def test_show_image_grid_puts_every_image_in_its_place(nb, figures, rng, channels):
    rows = rng.uniform(0.3, 0.6, size=(2, 4, 5, 6, channels))
    nb.show_image_grid(rows, "a title", ["a", "b"], "wxyz", scale=4)
    [(figure, title)] = figures
    [axes] = figure.axes
    [image] = axes.images
    mosaic = np.asarray(image.get_array()).reshape(2, 5, 4, 6, channels)
    np.testing.assert_allclose(mosaic.swapaxes(1, 2), rows)
    assert image.get_clim() == (0, 1)  # contrast is not stretched per picture
    assert axes.get_title() == title == "a title"
    assert image.get_extent() == [0, 4, 2, 0]  # in images
    for labels, n, expected in [
        (axes.get_xticklabels(), 0, [("w", 0.5), ("x", 1.5), ("y", 2.5), ("z", 3.5)]),
        (axes.get_yticklabels(), 1, [("a", 0.5), ("b", 1.5)]),
    ]:
        assert [(t.get_text(), t.get_position()[n]) for t in labels] == expected
    # Four screen pixels for each image pixel, so that none is larger than another.
    size = axes.get_position().size * figure.get_size_inches() * figure.dpi
    np.testing.assert_allclose(size, [4 * 6 * 4, 2 * 5 * 4])


def test_figures_are_shown_as_pictures_whatever_the_backend():
    nb = load_notebook()  # whose show_figure is its own
    nb.display = mock.Mock()
    assert matplotlib.get_backend().lower() == "agg"  # which shows nothing by itself
    nb.show_image_grid(np.zeros((1, 3, 4, 4, 1)), "a title", above=False)
    [bundle] = nb.display.call_args.args
    assert nb.display.call_args.kwargs == {"raw": True}
    assert bundle["text/plain"] == "a title"
    assert bundle["image/png"].startswith(b"\x89PNG\r\n\x1a\n")
    assert nb.plt.get_fignums() == []  # or a notebook would show it once more
