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


@pytest.mark.parametrize(("n", "shape"), [(1, (-1,)), (200, (-1, 1)), (603, (-1,))])
def test_encodings_and_decodings_of_any_number_of_images(nb, make_model, rng, n, shape):
    model = make_model()
    labels = rng.integers(3, 6, size=n)
    images = rng.uniform(size=(n, 8, 8, 1)).astype(np.float32)
    means, logvars = (a.numpy() for a in model.encode(images))  # all in one batch
    encodings = nb.get_allClass_encodings(model, images, labels.reshape(shape))
    assert set(encodings) == set(labels.tolist())
    for label, codes in encodings.items():
        assert type(label) is int and isinstance(codes, np.ndarray)
        np.testing.assert_allclose(codes, means[labels == label], atol=1e-5)
    np.testing.assert_allclose(nb.encode_images(model, images)[1], logvars, atol=1e-5)
    decoded = nb.map_batches(model.sample, means)
    np.testing.assert_allclose(decoded, model.sample(means), atol=1e-5)


def drawn_codes(axes, number, classes):
    """The points of one class on a map, in order of their first number."""
    points = [part.get_offsets() for part in axes.collections[number::classes]]
    assert len(points) == 20  # mixed with the others', so that no class covers another
    return np.array(sorted(np.concatenate(points).tolist()))


def test_plot_latent_space_of_two_dimensions(nb, figures, rng):
    plane = {label: rng.normal(size=(20 + label, 2)) + 3 * label for label in range(10)}
    names = [f"class {i}" for i in range(10)]
    path = np.array([[0, 1], [2, 5], [3, 3]])
    nb.plot_latent_space(plane, names, "a title", paths=[path])
    [(figure, title)] = figures
    [axes] = figure.axes
    reach = [np.abs(code).max() for codes in plane.values() for code in codes]
    frame = np.quantile(reach, 0.995)
    assert axes.get_xlim() == axes.get_ylim() == pytest.approx((-frame, frame))
    assert axes.get_title() == title == "a title\n(2 of 245 codes lie outside)"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("z[0]", "z[1]")
    for texts in (axes.texts, axes.get_legend().get_texts()):
        assert [text.get_text() for text in texts] == names
    for i, codes in plane.items():
        np.testing.assert_allclose(drawn_codes(axes, i, 10), sorted(codes.tolist()))
        np.testing.assert_allclose(axes.texts[i].get_position(), np.median(codes, 0))
    # Told apart by more than colour: no two markers are the same.
    parts = axes.collections[:10]
    assert len({str(part.get_paths()[0].vertices) for part in parts}) == 10
    assert len({tuple(part.get_facecolor()[0]) for part in parts}) == 10
    np.testing.assert_array_equal(axes.lines[0].get_xydata(), path)


def test_plot_latent_space_of_more_dimensions(nb, figures, encodings):
    _, axes = nb.plt.subplots(subplot_kw={"xlim": (-9, 9)})
    nb.plot_latent_space(encodings, axes=axes)
    assert figures == [] and axes.get_xlim() == axes.get_ylim() == (-9, 9)
    nb.plot_latent_space(encodings)
    pca = PCA(2).fit(np.concatenate(list(encodings.values())))
    for ax in (axes, *figures[0][0].axes):
        axis_labels = ax.get_xlabel(), ax.get_ylabel()
        for text, share in zip(axis_labels, pca.explained_variance_ratio_, strict=True):
            assert f"{share:.1%} of the variance" in text
        for i, codes in enumerate(encodings.values()):
            drawn = drawn_codes(ax, i, 3)
            expected = pca.transform(codes).std(axis=0)  # signs and origin are open
            np.testing.assert_allclose(drawn.std(axis=0), expected, rtol=1e-3)


def test_plot_latent_space_of_one_dimension(nb, figures, rng):
    codes = rng.normal(size=(30, 1))
    nb.plot_latent_space({7: codes})
    drawn = drawn_codes(figures[0][0].axes[0], 0, 1)
    np.testing.assert_allclose(drawn[:, 0], np.sort(codes[:, 0]))


@pytest.mark.parametrize(("k", "options"), [(5, {}), (1, {"k": 1}), (20, {"k": 20})])
def test_predict_classes_against_scikit_learn(nb, rng, k, options):
    codes, queries = rng.normal(size=(2, 300, 4)).astype(np.float32)
    labels = 3 * rng.integers(0, 20, size=300)  # 20 classes, not 0, 1, 2 and so on
    predicted = nb.predict_classes(codes, labels[:, None], queries, **options)
    classifier = KNeighborsClassifier(k).fit(codes, labels)
    np.testing.assert_array_equal(predicted, classifier.predict(queries))


def test_walk_src_to_dst(nb, make_model, encodings, figures):
    model = make_model()
    one, other = np.float32([[1, -2, 0.5], [-1, 0, 2.5]])
    two, nine = (encodings[label].mean(axis=0) for label in (2, 9))
    for start, end, n, ends, given in [
        (two, nine, 10, "class means", {}),
        (one, other, 7, "two codes", dict(steps=7, src_code=one, dst_code=other)),
        (two, other, 3, "two codes", dict(steps=3, dst_code=other)),
    ]:
        walk = nb.walk_src_to_dst(model, encodings, 2, 9, **given)
        # A straight line in equal steps.
        codes = np.stack([start + (end - start) * i / (n - 1) for i in range(n)])
        np.testing.assert_allclose(walk, model.sample(codes), atol=1e-5)
        figure, title = figures.pop()
        mosaic = figure.axes[0].images[0].get_array()
        np.testing.assert_allclose(mosaic, np.hstack(walk)[..., 0])
        between = f"walk from class 2 to class 9, between {ends}"
        assert title == f"{model.name}: {between}"


@pytest.mark.parametrize(("size", "window", "shape"), [(12, 11, -1), (8, 8, (-1, 1))])
def test_measure_model(nb, make_model, make_blobs, monkeypatch, size, window, shape):
    model = make_model(img_size=size)
    train = make_blobs(300, size=size)
    for variable in model.encoder.layers[-1].trainable_variables:
        # Unit 1: q(z|x) is the prior; the others are narrower.
        variable.assign(variable * [5, 0, 5, 1, 0, 1] - [0, 0, 0, 0.3, 0, 0.3])
    images, labels = make_blobs(620, seed=1, size=size)
    mean, logvar = (a.numpy() for a in model.encode(images))
    decoded = model.sample(mean).numpy()
    error = mean_squared_error(images.ravel(), decoded.ravel())
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
        "ssim": np.mean(nb.tf.image.ssim(decoded, images, 1.0, window)),
        "active_units": 2,
        "median_sigma": np.median(np.sqrt(np.exp(logvar))),
        "knn_accuracy": knn.score(mean, labels),
    }
    history = types.SimpleNamespace(history={"seconds": [9.0, 2.0, 4.0]})
    train, test = [(x, y.reshape(shape)) for x, y in (train, (images, labels))]
    measures = nb.measure_model(model, train, test, history)
    value = {name: value for name, (value, _) in measures.items()}
    assert value["reconstruction"] == pytest.approx(reconstruction, rel=0.05)
    elbo = -value.pop("reconstruction") - value["kl"]
    assert value.pop("test_elbo") == pytest.approx(elbo)
    assert value.pop("data") == "sample"
    assert value == pytest.approx(expected, rel=1e-4)

    monkeypatch.setattr(nb, "N_NEIGHBOUR_CODES", 7)
    train[1][:7] = 9  # all it may look at now, and no class of the test images
    other = nb.measure_model(model, train, test, history, lambda x, z: np.ones(len(x)))
    assert other["reconstruction"][0] == -1 and other["knn_accuracy"][0] == 0


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_measure_mmd_and_floor(nb, make_model, rng, shift):
    n = 1100
    dim = 8
    codes = np.random.default_rng(3).normal(shift, np.sqrt(3 / 4), (n, dim))
    model = make_model()  # whose codes are the images, with a variance of 1/4
    model.encode = lambda x: (x, nb.tf.fill(x.shape, np.float32(-np.log(4))))
    mmd, floor, ratio = nb.measure_mmd(model, codes.astype(np.float32)).values()
    kernel_mean = (1 + 4 / dim) ** (-dim / 2)  # E k(a, b) of two standard normals
    pairs = rng.normal(size=(40, 2, n, dim)).astype(np.float32)
    values = [nb.compute_mmd(*pair) for pair in pairs]
    assert floor[0] == pytest.approx(np.mean(values), rel=0.1)
    expected = floor[0] + 2 * kernel_mean * (1 - np.exp(-(shift**2) / (1 + 4 / dim)))
    assert mmd[0] == pytest.approx(expected, rel=0.1 if shift else 0.5)
    assert ratio[0] == pytest.approx(mmd[0] / floor[0])


def test_print_results_puts_metrics_down_and_models_across(nb, capsys):
    first = {"psnr": (21.5, "dB"), "data": ("full", "-")}
    second = {"psnr": (19.75, "dB"), "kl": (4.5, "nats/image")}
    nb.print_results({"first": first, "second": second}, ["kl", "psnr", "data"])
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    values = ["kl nats/image - 4.5", "psnr dB 21.5 19.75", "data - full -"]
    assert lines == ["metric unit first second", *values]
