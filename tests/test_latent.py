"""Encodings by class, latent maps, nearest neighbours, walks, measurements."""

import types

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier


@pytest.fixture
def encodings(rng):
    """Codes of three classes, [n, 3] each, around different points."""
    return {
        label: (rng.normal(size=(20 + label, 3)) + label).astype(np.float32)
        for label in (2, 5, 9)
    }


@pytest.mark.parametrize("n", [1, 7, 500, 1203])
def test_get_allClass_encodings_of_any_number_of_images(nb, make_model, rng, n):
    model = make_model()
    images = rng.uniform(size=(n, 8, 8, 1)).astype(np.float32)
    labels = rng.integers(3, 6, size=n)
    encodings = nb.get_allClass_encodings(model, images, labels)
    assert set(encodings) == set(labels.tolist())
    assert all(type(label) is int for label in encodings)
    means = model.encode(images)[0].numpy()  # all in one batch
    for label, codes in encodings.items():
        assert isinstance(codes, np.ndarray)
        np.testing.assert_allclose(codes, means[labels == label], atol=1e-5)


@pytest.mark.parametrize(
    "labels", [np.zeros(3, int), np.zeros((4, 1), int), np.zeros(4), np.zeros(0, int)]
)
def test_get_allClass_encodings_rejects_unfitting_labels(nb, make_model, labels):
    with pytest.raises(ValueError, match="labels"):
        nb.get_allClass_encodings(
            make_model(), np.zeros((4, 8, 8, 1), np.float32), labels
        )


def test_get_allClass_encodings_rejects_no_images(nb, make_model):
    empty = np.zeros((0, 8, 8, 1), np.float32)
    with pytest.raises(ValueError, match="images must be .*non-empty"):
        nb.get_allClass_encodings(make_model(), empty, np.zeros(0, int))


def test_project_to_plane_against_scikit_learn(nb, rng):
    codes = rng.normal(size=(200, 6)) @ rng.normal(size=(6, 6)) + 3
    points, shares = nb.project_to_plane(codes)
    pca = PCA(2).fit(codes)
    expected = pca.transform(codes)
    signs = np.sign(np.sum(points * expected, axis=0))  # PCA leaves them open
    np.testing.assert_allclose(points * signs, expected, atol=1e-6)
    np.testing.assert_allclose(shares, pca.explained_variance_ratio_, rtol=1e-6)


def test_plot_latent_space_of_two_dimensions(nb, figures, encodings):
    plane = {label: codes[:, :2] for label, codes in encodings.items()}
    names = [f"class {i}" for i in range(10)]
    nb.plot_latent_space(plane, names, "a title", limit=20)
    [figure] = figures
    [axes] = figure.axes
    assert axes.get_title() == "a title"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("z[0]", "z[1]")
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts == ["class 2", "class 5", "class 9"]
    for drawn, codes in zip(axes.collections, plane.values(), strict=True):
        np.testing.assert_allclose(drawn.get_offsets(), codes)
    # Told apart by more than colour: no two markers are the same.
    markers = {str(drawn.get_paths()[0].vertices) for drawn in axes.collections}
    assert len(markers) == 3


def test_plot_latent_space_draws_every_map_in_the_same_frame(nb, figures, rng):
    narrow = {0: rng.uniform(-1, 1, size=(30, 2)), 1: np.array([[4.9, -4.9]])}
    wide = {0: 4 * rng.normal(size=(40, 2)), 1: np.array([[0.0, 5.1], [-7.0, 8.0]])}
    nb.plot_latent_space(narrow, title="a map")
    nb.plot_latent_space(wide, title="a map")
    nb.plot_latent_space(wide, title="a map", limit=50)
    frames = [(f.axes[0].get_xlim(), f.axes[0].get_ylim()) for f in figures]
    assert frames == [((-5, 5),) * 2] * 2 + [((-50, 50),) * 2]
    outside = sum(
        not (-5 <= x <= 5 and -5 <= y <= 5) for c in wide.values() for x, y in c
    )
    titles = [figure.axes[0].get_title() for figure in figures]
    assert titles == ["a map", f"a map ({outside} outside)", "a map"]


@pytest.mark.parametrize("limit", [0, -1.0, float("nan"), float("inf"), "5", None])
def test_plot_latent_space_rejects_a_bad_limit(nb, encodings, limit):
    with pytest.raises(ValueError, match="limit"):
        nb.plot_latent_space(encodings, limit=limit)


def test_plot_latent_space_names_the_share_of_variance(nb, figures, encodings):
    nb.plot_latent_space(encodings)
    [axes] = figures[0].axes
    pca = PCA(2).fit(np.concatenate(list(encodings.values())))
    shares = pca.explained_variance_ratio_
    assert f"{shares[0]:.1%}" in axes.get_xlabel()
    assert f"{shares[1]:.1%}" in axes.get_ylabel()
    drawn = [np.asarray(part.get_offsets()) for part in axes.collections]
    assert [len(points) for points in drawn] == [22, 1, 25, 1, 29, 1]
    for points, marker, codes in zip(
        drawn[::2], drawn[1::2], encodings.values(), strict=True
    ):
        expected = pca.transform(codes)
        signs = np.sign(np.sum(points * expected, axis=0))  # PCA leaves them open
        np.testing.assert_allclose(points * signs, expected, atol=1e-4)
        np.testing.assert_allclose(marker[0], np.median(points, axis=0), atol=1e-6)


@pytest.mark.parametrize(
    "bad", [{0: np.zeros((5, 1))}, {0: np.zeros(5), 1: np.zeros(5)}]
)
def test_plot_latent_space_rejects_less_than_a_plane(nb, bad):
    with pytest.raises(ValueError, match="encodings"):
        nb.plot_latent_space(bad)


@pytest.mark.parametrize("k", [1, 5])
def test_knn_predict_against_scikit_learn(nb, rng, k):
    codes = rng.normal(size=(300, 4)).astype(np.float32)
    labels = rng.integers(0, 10, size=300)
    queries = rng.normal(size=(701, 4)).astype(np.float32)  # more than one batch
    expected = KNeighborsClassifier(k).fit(codes, labels).predict(queries)
    np.testing.assert_array_equal(nb.knn_predict(codes, labels, queries, k=k), expected)


def test_pca_psnr_against_scikit_learn(nb, rng):
    train, test = rng.uniform(size=(2, 60, 4, 4, 1)) * rng.uniform(size=(4, 4, 1))
    pca = PCA(3).fit(train.reshape(60, -1))
    flat = test.reshape(60, -1)
    errors = (pca.inverse_transform(pca.transform(flat)) - flat) ** 2
    expected = 10 * np.log10(1 / errors.mean())
    assert nb.pca_psnr(train, test, 3) == pytest.approx(expected, rel=1e-6)


def test_knn_predict_uses_five_neighbours(nb, rng):
    codes = rng.normal(size=(300, 4)).astype(np.float32)
    labels = rng.integers(0, 10, size=300)
    expected = KNeighborsClassifier(5).fit(codes, labels).predict(codes)
    np.testing.assert_array_equal(nb.knn_predict(codes, labels, codes), expected)


def test_walk_src_to_dst_leads_from_one_mean_code_to_the_other(
    nb, make_model, encodings
):
    model = make_model()
    frames = nb.walk_src_to_dst(model, encodings, 2, 9, steps=7)
    assert frames.shape == (7, 8, 8, 1)
    ends = np.stack([encodings[2].mean(axis=0), encodings[9].mean(axis=0)])
    np.testing.assert_allclose(frames[[0, -1]], model.sample(ends), atol=1e-5)
    # A straight line in equal steps.
    share = np.arange(7)[:, None] / 6
    on_line = (1 - share) * ends[0] + share * ends[1]
    expected = model.sample(on_line.astype(np.float32))
    np.testing.assert_allclose(frames, expected, atol=1e-5)
    assert np.abs(frames[0] - frames[-1]).max() > 0.05


def test_walk_src_to_dst_between_given_codes(nb, make_model, encodings):
    model = make_model()
    src_code = np.array([1.0, -2.0, 0.5], np.float32)
    dst_code = np.array([-1.0, 0.0, 2.5], np.float32)
    frames = nb.walk_src_to_dst(
        model, encodings, 2, 5, steps=3, src_code=src_code, dst_code=dst_code
    )
    codes = np.stack([src_code, (src_code + dst_code) / 2, dst_code])
    np.testing.assert_allclose(frames, model.sample(codes), atol=1e-5)
    half = nb.walk_src_to_dst(model, encodings, 2, 5, steps=2, dst_code=dst_code)
    codes = np.stack([encodings[2].mean(axis=0), dst_code])
    np.testing.assert_allclose(half, model.sample(codes), atol=1e-5)


def test_walk_src_to_dst_takes_ten_steps_and_shows_them(
    nb, make_model, encodings, monkeypatch
):
    grids = []
    monkeypatch.setattr(
        nb, "show_image_grid", lambda rows, title, **rest: grids.append((rows, title))
    )
    names = [f"class {i}" for i in range(10)]
    frames = nb.walk_src_to_dst(make_model(), encodings, 5, 2, class_names=names)
    [([shown], title)] = grids
    assert len(frames) == 10
    np.testing.assert_array_equal(shown, frames)
    assert title.index("class 5") < title.index("class 2")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("src", dict(src=3)),
        ("src", dict(src="2")),
        ("dst", dict(dst=None)),
        ("steps", dict(steps=1)),
        ("steps", dict(steps=0)),
        ("steps", dict(steps=2.5)),
        ("src_code", dict(src_code=np.zeros(2), dst_code=np.zeros(2))),
        ("src_code", dict(src_code=np.zeros(2))),
        ("src_code", dict(src_code=0.5)),
        ("dst_code", dict(dst_code=np.zeros(4))),
        ("dst_code", dict(dst_code=np.zeros(1))),
    ],
)
def test_walk_src_to_dst_rejects_bad_arguments(
    nb, make_model, encodings, name, arguments
):
    with pytest.raises(ValueError, match=name):
        nb.walk_src_to_dst(make_model(), encodings, **(dict(src=2, dst=5) | arguments))


def ssim(a, b):
    """Structural similarity of [0, 1] images [H, W, C], window of 11 x 11 pixels."""

    def blur(image):
        window = dict(sigma=1.5, truncate=3.5, axes=(0, 1))
        return gaussian_filter(np.float64(image), **window)[5:-5, 5:-5]

    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
    covariance = blur(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
    return np.mean(luminance * (2 * covariance + 9e-4) / (var_a + var_b + 9e-4))


@pytest.fixture
def measured(nb, make_model, make_blobs):
    """A model with one dead latent unit, images of both parts, and its measures."""
    model = make_model(img_size=12)
    kernel, bias = model.encoder.layers[-1].trainable_variables
    alive = np.array([1, 0, 1, 1, 0, 1], np.float32)  # unit 1: q(z|x) is the prior
    kernel.assign(kernel * alive)
    bias.assign(bias * alive)
    train, test = make_blobs(300, size=12), make_blobs(620, seed=1, size=12)
    history = types.SimpleNamespace(history={"seconds": [9.0, 2.0, 4.0]})
    measures = nb.measure_model(model, *train, *test, history)
    return model, train, test, {name: value for name, (value, _) in measures.items()}


def test_measure_model_counts(measured):
    model, _, _, measures = measured
    assert measures["train_images"] == 300
    assert measures["epochs"] == 3
    assert measures["seconds_per_epoch"] == 4.0
    shapes = [variable.shape for variable in model.trainable_variables]
    assert measures["parameters"] == sum(int(np.prod(shape)) for shape in shapes)


def test_measure_model_image_quality(measured):
    model, _, (images, _), measures = measured
    reconstructions = model.sample(model.encode(images)[0]).numpy()
    errors = (np.float64(reconstructions) - images) ** 2
    assert measures["psnr"] == pytest.approx(10 * np.log10(1 / errors.mean()), abs=1e-3)
    expected = np.mean(list(map(ssim, reconstructions, images)))
    assert measures["ssim"] == pytest.approx(expected, abs=1e-3)


def test_measure_model_elbo(nb, measured):
    model, _, (images, _), measures = measured
    mean, logvar = (np.float64(a) for a in model.encode(images))
    kl = 0.5 * np.sum(mean**2 + np.exp(logvar) - logvar - 1, axis=1)
    # The variance of the Monte Carlo estimate of each image's divergence.
    spread = np.sum(0.5 * (1 - np.exp(logvar)) ** 2 + mean**2 * np.exp(logvar), axis=1)
    error = np.sqrt(spread.sum()) / len(images)
    assert abs(measures["kl"] - kl.mean()) < 5 * error
    again = -np.mean(nb.elbo_terms(model, images)[0])  # other noise
    assert measures["reconstruction"] == pytest.approx(again, rel=0.05)
    elbo = -measures["reconstruction"] - measures["kl"]
    assert measures["test_elbo"] == pytest.approx(elbo, rel=1e-5)


def test_measure_model_codes(measured):
    model, (train_images, train_labels), (images, labels), measures = measured
    codes = model.encode(images)[0].numpy()
    assert measures["active_units"] == np.sum(codes.var(axis=0) > 0.01) == 2
    classifier = KNeighborsClassifier(5)
    classifier.fit(model.encode(train_images)[0].numpy(), train_labels)
    assert measures["knn_accuracy"] == pytest.approx(classifier.score(codes, labels))


def test_measure_model_takes_another_likelihood(nb, measured):
    model, train, test, measures = measured
    history = types.SimpleNamespace(history={"seconds": [1.0]})
    other = nb.measure_model(
        model, *train, *test, history, lambda x, logits: nb.tf.zeros(len(x)) + 3.0
    )
    assert other["reconstruction"][0] == pytest.approx(-3)
    assert other["psnr"][0] == pytest.approx(measures["psnr"])


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_measure_mmd_against_closed_forms(nb, shift):
    n, dim = 1100, 8
    rng = np.random.default_rng(3)

    def encode(x):  # q(z) is N(shift, I)
        return np.full((len(x), dim), shift, np.float32), None

    def reparameterize(mean, logvar):
        return mean + rng.normal(size=mean.shape).astype(np.float32)

    model = types.SimpleNamespace(encode=encode, reparameterize=reparameterize)
    measures = nb.measure_mmd(model, np.zeros((n, 2, 2, 1), np.float32))
    assert list(measures) == ["mmd", "mmd_floor"]
    kernel_mean = (1 + 4 / dim) ** (-dim / 2)  # E k(a, b) of two standard normals
    floor = 2 / n * (1 - kernel_mean)
    assert measures["mmd_floor"][0] == pytest.approx(floor, rel=0.5)
    shifted = kernel_mean * np.exp(-(shift**2) / (1 + 4 / dim))
    expected = floor + 2 * (kernel_mean - shifted)
    assert measures["mmd"][0] == pytest.approx(expected, rel=0.1 if shift else 0.5)


def test_print_metrics_puts_models_side_by_side(nb, capsys):
    results = {
        "first": {"psnr": (21.5, "dB"), "kl": (3.25, "nats/image")},
        "second": {"psnr": (19.75, "dB"), "kl": (4.5, "nats/image")},
    }
    nb.print_metrics(results, ["kl", "psnr"])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows == [
        ["first", "second"],
        ["kl", "3.25", "4.5", "nats/image"],
        ["psnr", "21.5", "19.75", "dB"],
    ]
