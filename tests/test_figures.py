"""Figures: what the helpers draw, and that nothing stays open."""

import base64
import io
import itertools
import re
import types

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image


@pytest.fixture
def displayed(nb, monkeypatch):
    """The objects that the notebook's functions display."""
    objects = []
    monkeypatch.setattr(nb, "display", objects.append)
    return objects


def test_show_figure_displays_a_png_with_its_text_and_closes(nb, displayed):
    figure, axes = nb.plt.subplots()
    axes.plot([0, 1])
    nb.show_figure(figure, alt="a line")
    [image] = displayed
    assert image.alt == "a line"
    pixels = nb.plt.imread(io.BytesIO(image.data), format="png")
    assert np.ptp(pixels[..., :3]) > 0.5
    assert nb.plt.get_fignums() == []


@pytest.mark.parametrize("channels", [1, 3])
def test_show_image_grid_puts_every_image_in_its_place(nb, figures, rng, channels):
    rows = rng.uniform(0.3, 0.6, size=(2, 4, 5, 6, channels))
    nb.show_image_grid(rows, "a title", row_labels=["a", "b"], column_labels="wxyz")
    [axes] = figures[0].axes
    [image] = axes.images
    mosaic = np.asarray(image.get_array()).reshape(2 * 5, 4 * 6, channels)
    for i in range(2):
        for j in range(4):
            part = mosaic[5 * i : 5 * (i + 1), 6 * j : 6 * (j + 1)]
            np.testing.assert_allclose(part, rows[i, j])
    assert image.get_clim() == (0, 1)  # contrast is not stretched per picture
    assert axes.get_title() == "a title"
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a", "b"]
    assert [text.get_text() for text in axes.get_xticklabels()] == list("wxyz")


def test_plot_history_draws_both_curves(nb, figures):
    history = types.SimpleNamespace(history={"loss": [5, 4, 2], "val_loss": [6, 5, 3]})
    nb.plot_history(history, "a title", reference=("somebody else", -4.5))
    nb.plot_history(history, "a title", name="loss", sign=1)
    (elbo,), (loss,) = figures[0].axes, figures[1].axes
    train, test, reference = elbo.lines
    np.testing.assert_array_equal(train.get_xdata(), [1, 2, 3])
    np.testing.assert_array_equal(train.get_ydata(), [-5, -4, -2])
    np.testing.assert_array_equal(test.get_ydata(), [-6, -5, -3])
    assert set(reference.get_ydata()) == {-4.5}
    assert train.get_linestyle() != test.get_linestyle()
    texts = [text.get_text() for text in elbo.get_legend().get_texts()]
    assert texts == ["train", "test", "somebody else"]
    assert "ELBO" in elbo.get_ylabel() and "nats" in elbo.get_ylabel()
    np.testing.assert_array_equal(loss.lines[1].get_ydata(), [6, 5, 3])
    assert "loss" in loss.get_ylabel()


def test_figures_are_closed_afterwards(nb, displayed, make_model, make_blobs):
    model, (images, labels) = make_model(), make_blobs(30)
    encodings = nb.get_allClass_encodings(model, images, labels)
    history = types.SimpleNamespace(history={"loss": [2, 1], "val_loss": [3, 2]})
    nb.plot_latent_space(encodings)
    nb.plot_history(history, "curves")
    nb.walk_src_to_dst(model, encodings, 0, 1)
    nb.generate_and_display_images(model, 1, images[:4])
    assert len(displayed) == 4
    assert all(image.alt for image in displayed)
    assert nb.plt.get_fignums() == []


def test_show_flow_chart_without_dot_prints_a_table(
    nb, make_model, monkeypatch, capsys
):
    monkeypatch.setattr(nb.shutil, "which", lambda program: None)
    encoder = make_model().encoder
    nb.show_flow_chart(encoder)
    printed = capsys.readouterr().out
    assert "apt-get install graphviz" in printed
    for layer in encoder.layers:
        assert layer.name in printed


def test_show_flow_chart_with_dot_displays_a_picture(
    nb, make_model, displayed, monkeypatch
):
    charts = []

    def plot_model(network, path, show_shapes, **rest):  # `dot` may be absent here
        charts.append((network, show_shapes))
        nb.pathlib.Path(path).write_bytes(b"\x89PNG\r\n\x1a\n a chart")

    monkeypatch.setattr(nb.shutil, "which", lambda program: "/usr/bin/dot")
    monkeypatch.setattr(nb.tf.keras.utils, "plot_model", plot_model)
    decoder = make_model().decoder
    nb.show_flow_chart(decoder)
    assert charts == [(decoder, True)]
    [image] = displayed
    assert image.data.endswith(b"a chart") and "decoder" in image.alt


def test_show_animation_displays_a_gif_of_all_frames(nb, displayed, rng):
    clips = [
        np.linspace(0, 1, 4)[:, None, None, None] * np.ones((4, 8, 8, 1)),
        rng.uniform(size=(4, 6, 6, 3)),
    ]
    nb.show_animation(clips, ["grey", "colour"], alt="two clips")
    [shown] = displayed
    assert 'alt="two clips"' in shown.data
    content = base64.b64decode(re.search('image/gif;base64,([^"]+)', shown.data)[1])
    with Image.open(io.BytesIO(content)) as gif:
        levels = []
        for frame in range(gif.n_frames):
            gif.seek(frame)
            pixels = np.asarray(gif.convert("L"))
            levels.append(pixels[pixels.shape[0] // 2, pixels.shape[1] // 4])
        assert gif.info["loop"] == 0  # for ever
    # There and back: black, two greys, white, and the greys once more.
    np.testing.assert_allclose(levels, [0, 85, 170, 255, 170, 85], atol=6)
    assert nb.plt.get_fignums() == []


# What a colour becomes, in linear RGB, for eyes without one kind of cones
# (Machado, Oliveira and Fernandes 2009, severity 1).
COLOUR_VISION = {
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
TO_XYZ = [
    [0.4124564, 0.3575761, 0.1804375],
    [0.2126729, 0.7151522, 0.0721750],
    [0.0193339, 0.1191920, 0.9503041],
]
WHITE = [0.95047, 1.0, 1.08883]


def lab(colour, vision):
    """CIELAB coordinates of an sRGB colour as eyes of that kind see it."""
    colour = np.array(to_rgb(colour))
    linear = np.where(
        colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4
    )
    seen = np.clip(np.array(COLOUR_VISION[vision]) @ linear, 0, 1)
    x, y, z = np.cbrt(np.array(TO_XYZ) @ seen / WHITE)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("vision", COLOUR_VISION)
def test_plot_latent_space_colours_differ_for_every_eye(nb, figures, rng, vision):
    encodings = {c: rng.normal(size=(5, 2)) for c in range(10)}
    nb.plot_latent_space(encodings)
    [figure] = figures
    colours = [tuple(c.get_facecolor()[0][:3]) for c in figure.axes[0].collections]
    assert len(colours) == 10
    for a, b in itertools.combinations([lab(c, vision) for c in colours], 2):
        assert np.linalg.norm(a - b) > 15  # 2.3 is just noticeable side by side
