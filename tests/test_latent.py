"""Encodings by class, latent maps, nearest neighbours, walks, measurements."""

import types

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.metrics import mean_squared_error
from sklearn.neighbors import KNeighborsClassifier


@pytest.fixture
def encodings(rng):
    """Codes of three classes, [n, 3] each, around different points."""
    codes = rng.normal(size=(30, 3)).astype(np.float32)
    return {2: codes[:8] + 2, 5: codes[8:18] + 5, 9: codes[18:] + 9}


@pytest.fixture
def code_model(nb, make_model):
    """A model whose images [1, dim, 1] are codes; q(z|x) has a variance of 1/4."""
    model = make_model()
    logvar = np.float32(-np.log(4))
    model.encode = lambda x: (x[:, 0, :, 0], x[:, 0, :, 0] * 0 + logvar)
    model.sample = lambda z: nb.tf.convert_to_tensor(z[:, None, :, None])
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
    texts = figure.get_suptitle(), axes.get_xlabel(), axes.get_ylabel()
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
    assert f"{shares[0]:.1%} of the variance" in figure.axes[2].get_xlabel()
    assert f"{shares[1]:.1%} of the variance" in figure.axes[0].get_ylabel()
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


def test_walk_src_to_dst(nb, make_model, encodings, figures):
    model, (one, other) = make_model(), np.float32([[1, -2, 0.5], [-1, 0, 2.5]])
    two, nine = (encodings[label].mean(axis=0) for label in (2, 9))
    frames = [
        nb.walk_src_to_dst(model, encodings, 2, 9),
        nb.walk_src_to_dst(model, encodings, 2, 9, 7, one, other, "a title"),
        nb.walk_src_to_dst(model, encodings, 2, 9, 3, dst_code=other),
    ]
    ends = [(two, nine, 10), (one, other, 7), (two, other, 3)]
    for walk, (start, end, n), figure in zip(frames, ends, figures, strict=True):
        # A straight line in equal steps.
        codes = np.stack([start + (end - start) * i / (n - 1) for i in range(n)])
        np.testing.assert_allclose(walk, model.sample(codes), atol=1e-5)
        mosaic = figure.axes[0].images[0].get_array()
        np.testing.assert_allclose(mosaic, np.hstack(walk)[..., 0])
    titles = [figure.axes[0].get_title() for figure in figures[:2]]
    assert titles == ["Walk from 2 to 9", "a title"]


def test_sample_classes_has_mean_and_covariance_of_each_class(nb, code_model, rng):
    labels, mixing = np.arange(8000) % 2 * 4 + 3, rng.normal(size=(2, 3, 3))
    means = rng.normal(size=(4000, 2, 1, 3)) @ mixing + [[[3, -2, 0]], [[0, 1, 5]]]
    images = means.reshape(8000, 1, 3, 1).astype(np.float32)
    samples = nb.sample_classes(code_model, images, labels, 6000)
    assert samples.shape == (6000, 2, 1, 3, 1)
    for i, center in enumerate([(3, -2, 0), (0, 1, 5)]):
        drawn = samples[:, i, 0, :, 0]
        covariance = mixing[i].T @ mixing[i] + np.eye(3) / 4  # of means, and of q(z|x)
        scale = np.sqrt(np.diag(covariance))
        assert np.all(np.abs(drawn.mean(axis=0) - center) < 0.1 * scale)
        error = np.abs(np.cov(drawn, rowvar=False) - covariance)
        assert np.all(error < 0.1 * np.outer(scale, scale))


def test_measure_model_against_other_libraries(nb, make_model, make_blobs, monkeypatch):
    model, train = make_model(img_size=12), make_blobs(300, size=12)
    for variable in model.encoder.layers[-1].trainable_variables:
        variable.assign(variable * [1, 0, 1, 1, 0, 1])  # unit 1: q(z|x) is the prior
    images, labels = test = make_blobs(620, seed=1, size=12)
    mean, logvar = (a.numpy() for a in model.encode(images))
    reconstructions = model.sample(mean).numpy()
    error = mean_squared_error(images.ravel(), reconstructions.ravel())
    logits = model.decode(model.reparameterize(mean, logvar))  # other noise
    reconstruction = -np.mean(nb.log_bernoulli_pdf(images, logits))
    knn = KNeighborsClassifier(5).fit(model.encode(train[0])[0].numpy(), train[1])
    expected = {
        "train_images": 300,
        "epochs": 3,
        "parameters": sum(weight.size for weight in model.get_weights()),
        "latent_dim": 3,
        "seconds_per_epoch": 4.0,
        "kl": 0.5 * np.mean(np.sum(mean**2 + np.exp(logvar) - logvar - 1, axis=1)),
        "psnr": 10 * np.log10(1 / error),
        "ssim": np.mean(nb.tf.image.ssim(reconstructions, images, 1.0)),
        "active_units": 2,
        "median_sigma": np.median(np.sqrt(np.exp(logvar))),
        "knn_accuracy": knn.score(mean, labels),
    }
    history = types.SimpleNamespace(history={"seconds": [9.0, 2.0, 4.0]})
    measures = nb.measure_model(model, train, test, history)
    value = {name: value for name, (value, _) in measures.items()}
    assert value["reconstruction"] == pytest.approx(reconstruction, rel=0.05)
    elbo = -value.pop("reconstruction") - value["kl"]
    assert value.pop("test_elbo") == pytest.approx(elbo)
    assert value == pytest.approx(expected, rel=1e-4)

    monkeypatch.setattr(nb, "N_NEIGHBOUR_CODES", 7)
    train[1][:7] = 9  # all it may look at now, and no class of the test images
    other = nb.measure_model(model, train, test, history, lambda x, z: np.ones(len(x)))
    assert other["reconstruction"][0] == -1 and other["knn_accuracy"][0] == 0


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_measure_mmd_and_floor(nb, code_model, rng, shift):
    n, dim = 1100, 8
    codes = np.random.default_rng(3).normal(shift, np.sqrt(3 / 4), (n, 1, dim, 1))
    measures = nb.measure_mmd(code_model, codes.astype(np.float32))
    mmd, floor, spread, ratio = (value for value, _ in measures.values())
    kernel_mean = (1 + 4 / dim) ** (-dim / 2)  # E k(a, b) of two standard normals
    pairs = rng.normal(size=(40, 2, n, dim)).astype(np.float32)
    values = [nb.compute_mmd(*pair) for pair in pairs]
    assert floor == pytest.approx(np.mean(values), rel=0.1)
    assert 0.4 < spread / np.std(values) < 2
    expected = floor + 2 * kernel_mean * (1 - np.exp(-(shift**2) / (1 + 4 / dim)))
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
