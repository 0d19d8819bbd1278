"""Densities, ELBO, MMD and the other losses, against scipy, numpy and closed forms."""

import re
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import integrate, stats
from scipy.spatial import distance
from scipy.special import expit


@pytest.fixture
def x(rng):
    """Six binary images of the small model's shape."""
    return rng.integers(0, 2, size=(6, 8, 8, 1)).astype(np.float32)


@pytest.fixture
def fixed(make_model, rng):
    """A small model whose draw from q(z|x) is known: the model and the draw."""
    model = make_model()
    z = rng.normal(size=(6, 3)).astype(np.float32)
    model.reparameterize = lambda mean, logvar: z
    return model, z


def bernoulli(x, logits):
    """log p(x|z) of each binary image, by scipy."""
    return stats.bernoulli.logpmf(x, expit(np.float64(logits))).sum(axis=(1, 2, 3))


def calibrated(x, logits, factor=1.0):
    """Gaussian log p(x|z) of each image, `factor` times the error's own deviation."""
    mean = expit(np.float64(logits))
    sigma = factor * np.sqrt(np.mean((x - mean) ** 2))
    return stats.norm.logpdf(x, mean, sigma).sum(axis=(1, 2, 3))


def divergence(model, x, z):
    """log q(z|x) - log p(z) of each image, by scipy."""
    mean, logvar = (np.float64(a) for a in model.encode(x))
    log_q = stats.norm.logpdf(z, mean, np.sqrt(np.exp(logvar)))
    return (log_q - stats.norm.logpdf(z)).sum(axis=1)


def mmd_by_loops(x, y):
    """The biased squared MMD of two samples, pair by pair."""

    def mean_kernel(a, b):
        distances = [np.sum((p - q) ** 2) for p in a for q in b]
        return np.mean(np.exp(-np.array(distances) / x.shape[1]))

    return mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y)


def normal_kernel_mean(dim, shift=0.0):
    """E k(a, b) for a ~ N(0, I), b ~ N(shift, I): a - b is normal, variance 2."""
    return (1 + 4 / dim) ** (-dim / 2) * np.exp(-(shift**2) / (1 + 4 / dim))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_log_normal_pdf_against_scipy(nb, rng, axis):
    sample, mean, logvar = rng.normal(scale=2, size=(3, 5, 4, 3)).astype(np.float32)
    expected = stats.norm.logpdf(sample, mean, np.exp(logvar / 2)).sum(axis=axis)
    computed = nb.log_normal_pdf(sample, mean, logvar, raxis=axis)
    np.testing.assert_allclose(computed, expected, rtol=1e-4)


def test_log_normal_pdf_of_the_prior(nb, rng):
    z = rng.normal(size=(7, 4)).astype(np.float32)
    expected = stats.multivariate_normal.logpdf(z, np.zeros(4))
    np.testing.assert_allclose(nb.log_normal_pdf(z, 0.0, 0.0), expected, rtol=1e-5)


def test_log_bernoulli_pdf_against_scipy(nb, rng, x):
    logits = rng.normal(scale=3, size=x.shape).astype(np.float32)
    computed = nb.log_bernoulli_pdf(x, logits)
    np.testing.assert_allclose(computed, bernoulli(x, logits), rtol=1e-4)


def test_log_bernoulli_pdf_of_grey_pixels(nb, rng):
    grey = rng.uniform(size=(4, 5, 5, 3)).astype(np.float32)
    logits = rng.normal(scale=3, size=grey.shape).astype(np.float32)
    p = expit(np.float64(logits))
    expected = np.sum(grey * np.log(p) + (1 - grey) * np.log(1 - p), axis=(1, 2, 3))
    np.testing.assert_allclose(nb.log_bernoulli_pdf(grey, logits), expected, rtol=1e-4)


def test_log_bernoulli_pdf_stays_finite_far_out(nb):
    computed = nb.log_bernoulli_pdf(
        np.ones((1, 2, 2, 1), np.float32), np.full((1, 2, 2, 1), -200, np.float32)
    )
    np.testing.assert_allclose(computed, [-800], rtol=1e-5)


def test_elbo_terms_against_scipy(nb, fixed, x):
    model, z = fixed
    logpx_z, logpz, logqz_x = nb.elbo_terms(model, x)
    np.testing.assert_allclose(logpx_z, bernoulli(x, model.decode(z)), rtol=1e-4)
    np.testing.assert_allclose(logpz, stats.norm.logpdf(z).sum(axis=1), rtol=1e-4)
    np.testing.assert_allclose(
        logqz_x - logpz, divergence(model, x, z), rtol=1e-3, atol=1e-4
    )


def test_compute_loss_against_numpy(nb, fixed, x):
    model, z = fixed
    elbo = bernoulli(x, model.decode(z)) - divergence(model, x, z)
    loss = nb.compute_loss(model, x)
    assert loss.shape == ()
    np.testing.assert_allclose(loss, -elbo.mean(), rtol=1e-4)


def test_kl_closed_form_against_monte_carlo(nb, make_model, x):
    model, n = make_model(), 4000
    repeated = np.repeat(x[:1], n, axis=0)
    _, logpz, logqz_x = nb.elbo_terms(model, repeated)
    draws = (logqz_x - logpz).numpy()
    mean, logvar = (a.numpy()[0] for a in model.encode(x[:1]))
    exact = 0.5 * np.sum(mean**2 + np.exp(logvar) - logvar - 1)
    assert exact > 0.1  # else the comparison would say nothing
    assert abs(draws.mean() - exact) < 5 * draws.std() / np.sqrt(n)


def test_check_kl_estimate_prints_both_kl(nb, make_model, x, capsys):
    model = make_model()
    images = np.concatenate([x] * 200)  # more than one batch, the last one ragged
    nb.check_kl_estimate(model, images)
    printed = {
        match[1]: float(match[2])
        for match in re.finditer(
            r"^(.+?)  +(-?\d+\.\d+)", capsys.readouterr().out, re.MULTILINE
        )
    }
    mean, logvar = (a.numpy() for a in model.encode(x))
    exact = 0.5 * np.mean(np.sum(mean**2 + np.exp(logvar) - logvar - 1, axis=1))
    assert printed["KL, closed form"] == pytest.approx(exact, abs=2e-3)
    assert printed["KL, Monte Carlo"] == pytest.approx(exact, rel=0.25)


def test_compute_kernel_against_a_double_loop(nb, rng):
    a, b = (rng.normal(size=(n, 5)).astype(np.float32) for n in (4, 7))
    expected = [[np.exp(-np.sum((p - q) ** 2) / 5) for q in b] for p in a]
    np.testing.assert_allclose(nb.compute_kernel(a, b), expected, rtol=1e-4)


def test_compute_mmd_against_a_double_loop(nb, rng):
    a = rng.normal(size=(30, 4)).astype(np.float32)
    b = rng.normal(loc=0.7, scale=1.5, size=(20, 4)).astype(np.float32)
    mmd = nb.compute_mmd(a, b)
    assert mmd.shape == ()
    np.testing.assert_allclose(mmd, mmd_by_loops(a, b), rtol=1e-3)
    np.testing.assert_allclose(mmd, nb.compute_mmd(b, a), rtol=1e-5)


@settings(max_examples=30, deadline=None)
@given(a=arrays(np.float32, (6, 3), elements=st.floats(-4, 4, width=32)))
def test_compute_mmd_is_zero_for_equal_samples_and_never_negative(nb, a):
    assert abs(nb.compute_mmd(a, a)) < 1e-5
    assert nb.compute_mmd(a, a[::-1] * 0.5 + 0.1) > -1e-4


def test_compute_mmd_of_equal_laws_is_at_its_floor(nb, rng):
    n, m, dim = 200, 300, 6
    draws = [
        nb.compute_mmd(
            rng.normal(size=(n, dim)).astype(np.float32),
            rng.normal(size=(m, dim)).astype(np.float32),
        )
        for _ in range(40)
    ]
    # Only the diagonals, where the kernel is 1, do not cancel in the mean.
    floor = (1 / n + 1 / m) * (1 - normal_kernel_mean(dim))
    assert abs(np.mean(draws) - floor) < 5 * np.std(draws) / np.sqrt(len(draws))


def test_compute_mmd_has_power_against_a_shift(nb, rng):
    n, dim, shift = 1500, 6, 0.4
    a, b = rng.normal(size=(2, n, dim)).astype(np.float32)
    shifted = b.copy()
    shifted[:, 0] += shift * np.sqrt(dim)
    # The shift's length is sqrt(dim) * shift, and the kernel divides by dim.
    expected = 2 * (normal_kernel_mean(dim) - normal_kernel_mean(dim, shift))
    floor = nb.compute_mmd(a, b)
    assert nb.compute_mmd(a, shifted) > 10 * floor
    assert float(nb.compute_mmd(a, shifted) - floor) == pytest.approx(expected, rel=0.2)


def test_compute_mmd_of_many_codes_goes_by_blocks(nb, rng):
    n, m = nb.EVAL_BATCH_SIZE + 37, 2 * nb.EVAL_BATCH_SIZE + 5
    a = rng.normal(size=(n, 4)).astype(np.float32)
    b = rng.normal(loc=0.5, size=(m, 4)).astype(np.float32)

    def mean(x, y):
        return np.exp(-distance.cdist(x, y, "sqeuclidean") / 4).mean()

    expected = mean(a, a) + mean(b, b) - 2 * mean(a, b)
    np.testing.assert_allclose(nb.compute_mmd(a, b), expected, rtol=1e-3)


@pytest.mark.parametrize("dim", [1, 3, 20])
def test_compute_mmd_to_prior_against_integrals(nb, rng, dim):
    z = rng.normal(loc=0.4, scale=1.3, size=(7, dim)).astype(np.float32)
    # Squared distances to a normal draw follow a noncentral chi-squared law.
    to_prior = [
        stats.ncx2(dim, np.sum(code**2, dtype=float)).expect(lambda r: np.exp(-r / dim))
        for code in z
    ]
    within_prior = stats.chi2(dim).expect(lambda r: np.exp(-2 * r / dim))
    within = np.exp(-distance.cdist(z, z, "sqeuclidean") / dim).mean()
    expected = within + within_prior - 2 * np.mean(to_prior)
    np.testing.assert_allclose(nb.compute_mmd_to_prior(z), expected, atol=2e-5)


def test_compute_mmd_to_prior_is_the_limit_of_many_draws(nb, rng):
    z = rng.normal(loc=0.3, size=(40, 5)).astype(np.float32)
    draws = rng.normal(size=(20_000, 5)).astype(np.float32)
    limit = nb.compute_mmd_to_prior(z)
    np.testing.assert_allclose(nb.compute_mmd(z, draws), limit, atol=2e-3)


def test_compute_mmd_loss_is_reconstruction_plus_weighted_mmd(nb, fixed, x):
    model, z = fixed
    reconstruction = -calibrated(x, model.decode(z)).mean()
    draws = np.random.default_rng(3).normal(size=(20_000, z.shape[1]))
    mmd = float(nb.compute_mmd(z, draws.astype(np.float32)))
    loss = nb.compute_mmd_loss(model, x, weight=1e6)
    assert loss.shape == ()
    assert float(loss) - reconstruction == pytest.approx(1e6 * mmd, rel=0.02)
    default = float(nb.compute_mmd_loss(model, x)) - reconstruction
    share = default / (float(loss) - reconstruction)
    assert share == pytest.approx(nb.MMD_WEIGHT / 1e6, rel=1e-2)


def test_compute_mmd_loss_pulls_the_codes_to_the_prior(nb, make_model, x):
    model = make_model()
    model.decode = lambda z: nb.tf.zeros(x.shape)  # leaves the MMD as the only pull
    with nb.tf.GradientTape() as tape:
        loss = nb.compute_mmd_loss(model, x)
    for gradient in tape.gradient(loss, model.encoder.trainable_variables):
        assert np.any(gradient.numpy() != 0)


def test_log_calibrated_pdf_against_scipy(nb, rng):
    x = rng.uniform(size=(4, 5, 5, 3)).astype(np.float32)
    logits = rng.normal(size=x.shape).astype(np.float32)
    computed = nb.log_calibrated_pdf(x, logits)
    np.testing.assert_allclose(computed, calibrated(x, logits), rtol=1e-3)
    # That standard deviation is the one of highest likelihood.
    for factor in (0.9, 1.1):
        assert np.sum(computed) > calibrated(x, logits, factor).sum()


def test_compute_calibrated_loss_against_numpy(nb, fixed, x):
    model, z = fixed
    elbo = calibrated(x, model.decode(z)) - divergence(model, x, z)
    loss = nb.compute_calibrated_loss(model, x)
    assert loss.shape == ()
    np.testing.assert_allclose(loss, -elbo.mean(), rtol=1e-4)


@pytest.fixture
def one_pixel(nb):
    """A model so small that its likelihood is one integral over one latent number.

    p(x = 1 | z) = sigmoid(2 z - 1), and q(z|x) = N(x - 0.3, 0.8 ** 2).
    """
    tf = nb.tf

    def encode(x):
        mean = tf.reshape(x, (-1, 1)) - 0.3
        return mean, tf.zeros_like(mean) + 2 * np.log(0.8)

    def reparameterize(mean, logvar):
        return mean + tf.exp(logvar / 2) * tf.random.normal(tf.shape(mean))

    def decode(z):
        return tf.reshape(2 * z - 1, (-1, 1, 1, 1))

    tf.random.set_seed(0)
    return types.SimpleNamespace(
        encode=encode, reparameterize=reparameterize, decode=decode
    )


def joint_density(z, x):
    """p(x, z) of the `one_pixel` model."""
    return stats.norm.pdf(z) * (expit(2 * z - 1) if x else expit(1 - 2 * z))


def test_importance_weighted_bound_reaches_the_likelihood(nb, one_pixel):
    x = np.tile([0.0, 1.0, 1.0], 100)
    images = x.reshape(-1, 1, 1, 1).astype(np.float32)
    bounds = nb.importance_weighted_bound(one_pixel, images, draws=2000, batch_size=70)
    assert bounds.shape == (300,)
    for value in (0, 1):
        exact = np.log(integrate.quad(joint_density, -9, 9, args=(value,))[0])
        assert bounds[x == value].mean() == pytest.approx(exact, abs=0.01)


def test_importance_weighted_bound_of_one_draw_is_the_elbo(nb, one_pixel):
    n = 4000
    images = np.ones((n, 1, 1, 1), np.float32)
    bounds = nb.importance_weighted_bound(one_pixel, images, draws=1, batch_size=n)
    q = stats.norm(0.7, 0.8)

    def integrand(z):
        return q.pdf(z) * (np.log(joint_density(z, 1)) - q.logpdf(z))

    elbo = integrate.quad(integrand, -6, 8)[0]
    assert abs(bounds.mean() - elbo) < 5 * bounds.std() / np.sqrt(n)


def test_importance_weighted_bound_grows_with_the_draws(nb, make_model, x):
    model, images = make_model(), np.concatenate([x] * 20)
    means = [
        nb.importance_weighted_bound(model, images, draws, batch_size=60).mean()
        for draws in (1, 5, 50)
    ]
    assert means[0] < means[1] < means[2]
