"""Encodings by class, latent maps, nearest neighbours, walks, measurements."""

import types

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.spatial import distance
from sklearn.decomposition import PCA
from sklearn.metrics import mean_squared_error
from sklearn.neighbors import KNeighborsClassifier


@pytest.fixture
def encodings(rng):
    """Codes of three classes, [n, 3] each, around different points."""
    codes = rng.normal(size=(30, 3)).astype(np.float32)
    return {2: codes[:8] + 2, 5: codes[8:18] + 5, 9: codes[18:] + 9}


@pytest.fixture
def code_model(make_model):
    """A model whose images [1, dim, 1] are codes; q(z|x) has a variance of 1/4."""
    model = make_model()
    model.encode = lambda x: (x[:, 0, :, 0], x[:, 0, :, 0] * 0 - np.log(4))
    model.sample = lambda z: z[:, None, :, None]
    return model


@pytest.mark.parametrize("n", [1, 250, 603])
def test_encodings_and_decodings_of_any_number_of_images(nb, make_model, rng, n):
    model, labels = make_model(), rng.integers(3, 6, size=n)
    images = rng.uniform(size=(n, 8, 8, 1)).astype(np.float32)
    means, logvars = (a.numpy() for a in model.encode(images))  # all in one batch
    encodings = nb.get_allClass_encodings(model, images, labels)
    assert set(encodings) == set(labels.tolist())
    for label, codes in encodings.items():
        assert type(label) is int and isinstance(codes, np.ndarray)
        np.testing.assert_allclose(codes, means[labels == label], atol=1e-5)
    np.testing.assert_allclose(nb.encode_images(model, images)[1], logvars, atol=1e-5)
    decoded = nb.decode_codes(model, means)
    np.testing.assert_allclose(decoded, model.sample(means), atol=1e-5)


def test_principal_components_against_scikit_learn(nb, rng):
    points = rng.normal(size=(200, 6)) @ rng.normal(size=(6, 6)) + 3
    mean, variances, directions = nb.principal_components(points)
    pca = PCA().fit(points)
    np.testing.assert_allclose(mean, pca.mean_)
    np.testing.assert_allclose(variances, pca.explained_variance_ * 199 / 200)
    product = np.abs(pca.components_ @ directions)  # the signs are open
    np.testing.assert_allclose(product, np.eye(6), atol=1e-6)


def test_plot_latent_space_of_two_dimensions(nb, figures, rng):
    plane = {label: rng.normal(size=(20 + label, 2)) + 3 * label for label in range(10)}
    names, path = [f"class {i}" for i in range(10)], np.array([[0, 1], [2, 5], [3, 3]])
    nb.plot_latent_space(plane, names, "a title", paths=[path])
    [figure] = figures
    [axes] = figure.axes
    texts = figure.get_suptitle(), figure.get_supxlabel(), figure.get_supylabel()
    assert texts == ("a title", "z[0]", "z[1]")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == names
    assert [text.get_text() for text in axes.texts] == names
    for i, codes in plane.items():
        np.testing.assert_allclose(axes.collections[i].get_offsets(), codes)
        # The name stands among its codes.
        assert np.linalg.norm(axes.texts[i].get_position() - codes.mean(axis=0)) < 3
    # Told apart by more than colour: no two markers are the same.
    assert len({str(part.get_paths()[0].vertices) for part in axes.collections}) == 10
    assert len({tuple(part.get_facecolor()[0]) for part in axes.collections}) == 10
    np.testing.assert_array_equal(axes.lines[0].get_xydata(), path)


def test_plot_latent_space_of_more_dimensions(nb, figures, encodings):
    nb.plot_latent_space(encodings)
    codes = np.concatenate(list(encodings.values()))
    pca = PCA(2).fit(codes)
    [figure], shares = figures, pca.explained_variance_ratio_
    assert f"{shares[0]:.1%} of the variance" in figure.get_supxlabel()
    assert f"{shares[1]:.1%} of the variance" in figure.get_supylabel()
    for axes, (label, own) in zip(figure.axes, encodings.items(), strict=False):
        [text] = axes.get_legend().get_texts()
        assert text.get_text() == str(label)
        for drawn, part in zip(axes.collections, (codes, own), strict=True):
            expected = np.abs(pca.transform(part))  # the signs are open
            np.testing.assert_allclose(np.abs(drawn.get_offsets()), expected, atol=1e-4)


@pytest.mark.parametrize("k", [None, 1, 20])
def test_knn_votes_against_scikit_learn(nb, rng, k):
    codes, queries = rng.normal(size=(2, 300, 4)).astype(np.float32)
    labels = rng.integers(0, 10, size=300)
    votes = nb.knn_votes(codes, labels, queries, **({"k": k} if k else {}))
    classifier = KNeighborsClassifier(k or 5).fit(codes, labels)
    np.testing.assert_allclose(votes / (k or 5), classifier.predict_proba(queries))


def test_walk_src_to_dst_leads_from_one_mean_code_to_the_other(
    nb, make_model, encodings, figures
):
    model, start, end = (
        make_model(),
        encodings[2].mean(axis=0),
        encodings[9].mean(axis=0),
    )
    frames = nb.walk_src_to_dst(model, encodings, 2, 9, steps=7)
    # A straight line in equal steps.
    codes = np.stack([start + (end - start) * i / 6 for i in range(7)])
    np.testing.assert_allclose(frames, model.sample(codes), atol=1e-5)
    assert np.abs(frames[0] - frames[-1]).max() > 0.05
    mosaic = figures[0].axes[0].images[0].get_array()
    np.testing.assert_allclose(mosaic, np.hstack(frames)[..., 0])


def test_walk_src_to_dst_between_given_codes(nb, make_model, encodings, figures):
    model, (one, other) = make_model(), np.float32([[1, -2, 0.5], [-1, 0, 2.5]])
    frames = nb.walk_src_to_dst(model, encodings, 2, 5, 3, one, other, "a title")
    codes = np.stack([one, (one + other) / 2, other])
    np.testing.assert_allclose(frames, model.sample(codes), atol=1e-5)
    half = nb.walk_src_to_dst(model, encodings, 2, 5, dst_code=other)
    ends = model.sample(np.stack([encodings[2].mean(axis=0), other]))
    np.testing.assert_allclose(half[[0, 9]], ends, atol=1e-5)
    titles = [figure.axes[0].get_title() for figure in figures]
    assert titles == ["a title", "Walk from 2 to 5"]


def test_sample_classes_has_mean_and_covariance_of_each_class(nb, code_model, rng):
    labels, n = np.arange(8000) % 2 * 4 + 3, 6000
    mixing, shifts = rng.normal(size=(2, 3, 3)), rng.normal(scale=3, size=(2, 3))
    codes = np.empty((8000, 1, 3, 1), np.float32)
    for i, label in enumerate((3, 7)):
        own = rng.normal(size=(4000, 3)) @ mixing[i] + shifts[i]
        codes[labels == label] = own[:, None, :, None]
    samples = nb.sample_classes(code_model, codes, labels, n)
    assert samples.shape == (n, 2, 1, 3, 1)
    for i in range(2):
        drawn = samples[:, i, 0, :, 0]
        covariance = mixing[i].T @ mixing[i] + np.eye(3) / 4  # of means, and of q(z|x)
        scale = np.sqrt(np.diag(covariance))
        assert np.all(np.abs(drawn.mean(axis=0) - shifts[i]) < 0.1 * scale)
        error = np.abs(np.cov(drawn, rowvar=False) - covariance)
        assert np.all(error < 0.1 * np.outer(scale, scale))


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


def test_measure_model_against_other_libraries(nb, make_model, make_blobs, monkeypatch):
    model, (images, labels) = make_model(img_size=12), make_blobs(620, 1, 12)
    for variable in model.encoder.layers[-1].trainable_variables:
        variable.assign(variable * [1, 0, 1, 1, 0, 1])  # unit 1: q(z|x) is the prior
    train, history = make_blobs(300, size=12), types.SimpleNamespace()
    history.history = {"seconds": [9.0, 2.0, 4.0]}
    measures = nb.measure_model(model, train, (images, labels), history)
    value = {name: value for name, (value, _) in measures.items()}

    counts = (value["train_images"], value["epochs"], value["seconds_per_epoch"])
    assert counts == (300, 3, 4) and value["latent_dim"] == 3
    assert value["parameters"] == sum(weight.size for weight in model.get_weights())

    mean, logvar = (a.numpy() for a in model.encode(images))
    reconstructions = model.sample(mean).numpy()
    error = mean_squared_error(images.ravel(), reconstructions.ravel())
    assert value["psnr"] == pytest.approx(10 * np.log10(1 / error), abs=1e-3)
    similarity = np.mean(list(map(ssim, reconstructions, images)))
    assert value["ssim"] == pytest.approx(similarity, abs=1e-3)

    kl = 0.5 * np.mean(np.sum(mean**2 + np.exp(logvar) - logvar - 1, axis=1))
    assert value["kl"] == pytest.approx(kl, rel=1e-4)
    z = model.reparameterize(mean, logvar)  # other noise
    again = -np.mean(nb.log_bernoulli_pdf(images, model.decode(z)))
    assert value["reconstruction"] == pytest.approx(again, rel=0.05)
    elbo = -value["reconstruction"] - value["kl"]
    assert value["test_elbo"] == pytest.approx(elbo, rel=1e-5)

    assert value["active_units"] == np.sum(mean.var(axis=0) > 0.01) == 2
    sigma = np.median(np.sqrt(np.exp(logvar)))
    assert value["median_sigma"] == pytest.approx(sigma, rel=1e-4)
    classifier = KNeighborsClassifier(5).fit(
        model.encode(train[0])[0].numpy(), train[1]
    )
    assert value["knn_accuracy"] == pytest.approx(classifier.score(mean, labels))

    monkeypatch.setattr(nb, "N_NEIGHBOUR_CODES", 7)
    train[1][:7] = 9  # all it may look at now, and no class of the test images
    others = (train, (images, labels), history, lambda x, logits: np.full(len(x), 3.0))
    other = nb.measure_model(model, *others)
    assert other["reconstruction"][0] == -3 and other["knn_accuracy"][0] == 0


def test_measure_floor_against_other_draws(nb, rng):
    n, dim = 200, 6

    def mmd(a, b):
        k = np.exp(-distance.cdist(*[np.concatenate([a, b])] * 2, "sqeuclidean") / dim)
        return k[:n, :n].mean() + k[n:, n:].mean() - 2 * k[:n, n:].mean()

    draws = [mmd(*rng.normal(size=(2, n, dim))) for _ in range(60)]
    floor, spread = nb.measure_floor(n, dim)
    # Only the diagonals, where the kernel is 1, do not cancel in the mean.
    exact = 2 / n * (1 - (1 + 4 / dim) ** (-dim / 2))
    assert abs(floor - exact) < 5 * np.std(draws) / np.sqrt(10)
    assert 0.4 < spread / np.std(draws) < 2.5


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_measure_mmd_against_closed_forms(nb, code_model, shift):
    n, dim = 1100, 8
    codes = np.random.default_rng(3).normal(shift, np.sqrt(3 / 4), (n, 1, dim, 1))
    measures = nb.measure_mmd(code_model, codes.astype(np.float32))
    mmd, floor, spread, ratio = (value for value, _ in measures.values())
    kernel_mean = (1 + 4 / dim) ** (-dim / 2)  # E k(a, b) of two standard normals
    expected = 2 / n * (1 - kernel_mean)
    assert floor == pytest.approx(expected, rel=0.2) and 0 < spread < floor / 2
    expected += 2 * kernel_mean * (1 - np.exp(-(shift**2) / (1 + 4 / dim)))
    assert mmd == pytest.approx(expected, rel=0.1 if shift else 0.5)
    assert ratio == pytest.approx(mmd / floor)


def test_print_results_puts_models_side_by_side(nb, capsys):
    first = {"psnr": (21.5, "dB"), "kl": (3.25, "nats/image")}
    second = {"psnr": (19.75, "dB"), "kl": (4.5, "nats/image")}
    nb.print_results({"first": first, "second": second}, ["kl", "psnr"])
    header, *rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert header == ["first", "second"]
    assert rows == [
        ["kl", "3.25", "4.5", "nats/image"],
        ["psnr", "21.5", "19.75", "dB"],
    ]
