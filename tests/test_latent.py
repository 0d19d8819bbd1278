"""Encodings by class, the latent space, nearest neighbours, walks, measurements."""

import numpy as np
import pytest
from conftest import close, find_cell, make_blobs, make_model
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")


@pytest.mark.parametrize("n", [1, 200, 403])
def test_encodings_and_decodings_of_any_number_of_images(nb, rng, n):
    model = make_model(nb)
    labels = rng.integers(3, 6, size=n)
    images = rng.uniform(size=(n, 8, 8, 1)).astype(np.float32)
    mean, _ = model.encode(images)  # all in one batch
    encodings = nb.get_allClass_encodings(model, images, labels)
    assert set(encodings) == set(labels.tolist())
    for label, codes in encodings.items():
        assert type(label) is int
        close(codes, mean[labels == label], atol=1e-5)
    close(nb.map_batches(model.sample, mean), model.sample(mean), atol=1e-5)
    with pytest.raises(ValueError, match=f"{n + 1} labels"):
        nb.get_allClass_encodings(model, images, np.append(labels, 0))


def test_project_to_plane_against_scikit_learn(nb, rng):
    codes = (rng.normal(size=(40, 5)) * [1, 5, 2, 3, 1] + 9).astype(np.float32)
    points, names = nb.project_to_plane(codes)
    pca = PCA(2)
    close(abs(points), abs(pca.fit_transform(codes)), rtol=1e-3)  # signs are open
    for name, share in zip(names, pca.explained_variance_ratio_, strict=True):
        assert f"{share:.1%} of the variance" in name
    plane, names = nb.project_to_plane(codes[:, :2])
    assert np.all(plane == codes[:, :2]) and names == ["z[0]", "z[1]"]
    line, names = nb.project_to_plane(codes[:, :1])
    assert np.all(line == codes[:, [0, 0]]) and names == ["z[0]", "z[0]"]


@pytest.mark.parametrize("labels", [range(10), [2, 5, 9]], ids=["all", "three"])
def test_plot_latent_space(nb, figures, rng, labels):
    encodings = {i: rng.normal(size=(20 + i, 2)) + 3 * i for i in labels}
    nb.plot_latent_space(encodings, [f"class {i}" for i in range(10)], "a title")
    [(figure, title)] = figures
    large, *panels = [axes for axes in figure.axes if axes.collections or axes.lines]
    assert large.get_title() == title == "a title"
    [legend] = figure.legends
    drawn = zip(large.collections, panels, legend.get_texts(), labels, strict=True)
    for scatter, panel, text, label in drawn:
        assert panel.get_title() == text.get_text() == f"class {label}"
        grey, own = (line.get_xydata() for line in panel.lines)
        close(scatter.get_offsets(), encodings[label])
        close(own, encodings[label])
        close(grey, np.concatenate(list(encodings.values())))


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_plot_latent_space_of_one_code(nb, figures, dim):
    nb.plot_latent_space({3: np.ones((1, dim), np.float32)})
    assert figures[0][0].legends[0].get_texts()[0].get_text() == "3"


def test_the_decoded_plane_is_left_out_for_other_than_two_dimensions(nb, capsys):
    exec(find_cell("np.meshgrid").source, vars(nb) | {"mnist": make_model(nb)})
    assert "two dimensions" in capsys.readouterr().out


@pytest.mark.parametrize("n", [300, 3, 1])  # the last two are fewer than neighbours
def test_predict_classes_against_scikit_learn(nb, rng, n):
    codes, queries = rng.normal(size=(2, 300, 4)).astype(np.float32)
    labels = 3 * rng.integers(0, 20, size=n)  # 20 classes, not 0, 1, 2 and so on
    expected = KNeighborsClassifier(min(5, n)).fit(codes[:n], labels).predict(queries)
    close(nb.predict_classes(codes[:n], labels, queries), expected)


def test_walk_src_to_dst(nb, rng, figures):
    model = make_model(nb)
    encodings = {i: rng.normal(i, size=(i, 3)).astype(np.float32) for i in (2, 9)}
    one, other = np.float32([[1, -2, 0.5], [-1, 0, 2.5]])
    means = [codes.mean(axis=0) for codes in encodings.values()]
    for n, given, (start, end) in [
        (10, (), means),
        (7, (one, other), (one, other)),
        (3, (None, one), (means[0], one)),
    ]:
        walk = nb.walk_src_to_dst(model, encodings, 2, 9, n, *given)
        codes = [start + (end - start) * i / (n - 1) for i in range(n)]
        close(walk, model.sample(np.stack(codes)), atol=1e-5)
        figure, title = figures.pop()
        close(figure.axes[0].images[0].get_array(), np.hstack(walk)[..., 0])
        assert "from 2 to 9" in title


def test_measure_model(nb):
    model = make_model(nb)
    (x, y), (images, labels) = make_blobs(300), make_blobs(620, seed=1)
    arguments = model, (x, y), (images, labels), {"seconds": [9.0, 2.0, 4.0]}
    mean, logvar = model.encode(images)
    z = model.reparameterize(mean, logvar)
    model.reparameterize = lambda mean, logvar: z
    score = np.mean(model.log_likelihood(images, model.decode(z)))
    sigma = np.exp(logvar / 2)
    # Minus the entropy of q(z|x), minus the mean of ln p(z).
    normal = stats.norm(mean, sigma)
    kl = -np.mean(normal.entropy().sum(axis=1)) + 0.5 * 3 * np.log(2 * np.pi)
    kl += 0.5 * np.mean(np.sum(normal.moment(2), axis=1))
    weights = sum(weight.size for weight in model.get_weights())
    psnr = -10 * np.log10(np.mean((images - model.sample(mean)) ** 2))
    ratio = nb.compute_mmd_ratio(z.numpy())  # which has a test of its own
    knn = KNeighborsClassifier(5).fit(model.encode(x)[0].numpy(), y)
    expected = [300, 3, weights, 3, 4.0, score - kl, -score, kl, psnr, ratio]
    expected += [np.median(sigma), knn.score(mean, labels)]
    *values, data = (value for value, _ in nb.measure_model(*arguments).values())
    close(values, expected, rtol=1e-4)
    assert data == "sample"


def test_print_results_puts_metrics_down_and_models_across(nb, capsys):
    one = {"psnr": (21.5, "dB"), "data": ("full", "-")}
    two = {"psnr": (np.float32(50_000), "dB"), "data": ("sample", "-")}
    nb.print_results({"one": one, "two": two}, ["data", "psnr"])
    words = "metric unit one two data - full sample psnr dB 21.5 50000".split()
    assert capsys.readouterr().out.split() == words
