"""What the figures of mosaics, curves and quantiles show."""

import types

import numpy as np
import pytest


@pytest.mark.parametrize("channels", [1, 3])
def test_show_image_grid_puts_every_image_in_its_place(nb, figures, rng, channels):
    rows = rng.uniform(0.3, 0.6, size=(2, 4, 5, 6, channels))
    nb.show_image_grid(rows, "a title", ["a", "b"], "wxyz", scale=4)
    [figure] = figures
    [axes] = figure.axes
    [image] = axes.images
    mosaic = np.asarray(image.get_array()).reshape(2, 5, 4, 6, channels)
    for i, j in np.ndindex(2, 4):
        np.testing.assert_allclose(mosaic[i, :, j], rows[i, j])
    assert image.get_clim() == (0, 1)  # contrast is not stretched per picture
    assert axes.get_title() == "a title"
    ticks = [(t.get_text(), t.get_position()[0]) for t in axes.get_xticklabels()]
    assert ticks == [("w", 3), ("x", 9), ("y", 15), ("z", 21)]
    ticks = [(t.get_text(), t.get_position()[1]) for t in axes.get_yticklabels()]
    assert ticks == [("a", 2.5), ("b", 7.5)]
    # Four screen pixels for each image pixel, so that none is larger than another.
    size = axes.get_position().size * figure.get_size_inches() * figure.dpi
    np.testing.assert_allclose(size, [4 * 6 * 4, 2 * 5 * 4])


def test_plot_history_draws_all_curves_but_the_first_epoch(nb, figures):
    one, two = types.SimpleNamespace(), types.SimpleNamespace()
    one.history = {"loss": [9, 4, 2], "val_loss": [8, 5, 3]}
    two.history = {"loss": [7, 6], "val_loss": [9, 1]}
    nb.plot_history({"one": one, "two": two}, "a title")
    nb.plot_history({"one": one}, "a title", "loss", sign=1)
    [elbo], [loss] = figures[0].axes, figures[1].axes
    drawn = [line.get_xydata().tolist() for line in elbo.lines]
    assert drawn == [[[2, -4], [3, -2]], [[2, -5], [3, -3]], [[2, -6]], [[2, -1]]]
    assert elbo.lines[0].get_linestyle() != elbo.lines[1].get_linestyle()
    texts = [text.get_text() for text in elbo.get_legend().get_texts()]
    assert texts == ["one, train", "one, test", "two, train", "two, test"]
    assert "a title" in elbo.get_title() and "epoch" in elbo.get_xlabel()
    assert "ELBO (nats" in elbo.get_ylabel() and "loss (nats" in loss.get_ylabel()
    np.testing.assert_array_equal(loss.lines[1].get_ydata(), [5, 3])


def test_plot_marginals_shows_which_codes_are_wider_than_the_prior(nb, figures, rng):
    normal = rng.normal(size=(20_000, 4))
    rotation, _ = np.linalg.qr(rng.normal(size=(4, 4)))
    codes = {"normal": normal, "widened": normal * [1, 3, 1, 0.2] @ rotation}
    nb.plot_marginals(codes)
    for axes, name, slopes in zip(
        figures[0].axes, codes, [(1, 1), (3, 0.2)], strict=True
    ):
        *coordinates, wide, narrow, diagonal = axes.lines
        x, y = diagonal.get_data()
        np.testing.assert_array_equal(x, y)
        inner = slice(10, -10)  # the outermost quantiles rest on a few codes
        for line, slope in zip((wide, narrow), slopes, strict=True):
            quantiles = line.get_ydata()[inner]
            np.testing.assert_allclose(quantiles, slope * x[inner], atol=0.1 * slope)
        for line, z in zip(coordinates, codes[name].T, strict=True):
            share = np.mean(z < line.get_ydata()[150])
            assert share == pytest.approx(0.001 + 150 * 0.998 / 199, abs=1e-3)
        assert axes.get_title() == name
        assert "quantile" in axes.get_xlabel() + figures[0].get_supxlabel()
