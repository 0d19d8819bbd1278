"""Densities, ELBO, MMD and the other losses, against scipy, numpy and closed forms."""

import numpy as np
import pytest
from scipy import stats
from scipy.spatial import distance
from scipy.special import expit


@pytest.fixture
def x(rng):
    """Six binary images of the small model's shape."""
    return rng.integers(0, 2, size=(6, 8, 8, 1)).astype(np.float32)


def bernoulli(x, logits):
    """log p(x|z) of each image; minus the cross-entropy where a pixel is grey."""
    p = expit(np.float64(logits))
    return np.sum(x * np.log(p) + (1 - x) * np.log(1 - p), axis=(1, 2, 3))


def calibrated(x, logits):
    """Gaussian log p(x|z) of each image, with the error's own standard deviation."""
    mean = expit(np.float64(logits))
    sigma = np.sqrt(np.mean((x - mean) ** 2))
    return stats.norm.logpdf(x, mean, sigma).sum(axis=(1, 2, 3))


LIKELIHOODS = {"log_bernoulli_pdf": bernoulli, "log_calibrated_pdf": calibrated}


def mmd_to_prior(z):
    """The unbiased squared MMD of codes against all of N(0, I), by integrals."""
    dim = z.shape[1]
    pairs = np.exp(-distance.pdist(z, "sqeuclidean") / dim)  # none with itself
    within_codes = pairs.mean() if len(pairs) else 0
    # Squared distances to a normal draw follow a noncentral chi-squared law.
    laws = [stats.ncx2(dim, np.sum(code**2, dtype=float)) for code in z]
    to_prior = [law.expect(lambda r: np.exp(-r / dim)) for law in laws]
    within_prior = stats.chi2(dim).expect(lambda r: np.exp(-2 * r / dim))
    return within_codes + within_prior - 2 * np.mean(to_prior)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_log_normal_pdf_against_scipy(nb, rng, axis):
    sample, mean, logvar = rng.normal(scale=2, size=(3, 5, 4, 3)).astype(np.float32)
    expected = stats.norm.logpdf(sample, mean, np.exp(logvar / 2)).sum(axis=axis)
    computed = nb.log_normal_pdf(sample, mean, logvar, raxis=axis)
    np.testing.assert_allclose(computed, expected, rtol=1e-4)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("levels", [1, 255])
def test_likelihoods_against_scipy(nb, rng, likelihood, levels):
    x = (rng.integers(0, levels + 1, size=(4, 5, 5, 3)) / levels).astype(np.float32)
    logits = rng.normal(scale=3, size=x.shape).astype(np.float32)
    computed = getattr(nb, likelihood)(x, logits)
    expected = LIKELIHOODS[likelihood](x, logits)
    np.testing.assert_allclose(computed, expected, rtol=1e-3)


def test_log_calibrated_pdf_of_a_perfect_reconstruction(nb, rng):
    logits = nb.tf.constant(rng.normal(size=(4, 5, 5, 3)), nb.tf.float32)
    x = nb.tf.sigmoid(logits)
    with nb.tf.GradientTape() as tape:
        tape.watch(logits)
        computed = nb.log_calibrated_pdf(x, logits)
    # As sharp as levels of 1 / 255 allow: sigma is that of one level's uniform law.
    sigma = stats.uniform(scale=1 / 255).std()
    np.testing.assert_allclose(computed, 75 * stats.norm.logpdf(0, 0, sigma), rtol=1e-4)
    assert np.all(np.isfinite(tape.gradient(computed, logits)))


def test_kl_divergence_against_the_integral(nb, rng):
    def integral(mean, logvar):
        q = stats.norm(mean, np.exp(logvar / 2))
        return q.expect(lambda z: q.logpdf(z) - stats.norm.logpdf(z))

    mean, logvar = rng.normal(size=(2, 5, 3)).astype(np.float32)
    expected = np.vectorize(integral)(mean, logvar).sum(axis=1)
    np.testing.assert_allclose(nb.kl_divergence(mean, logvar), expected, rtol=1e-4)


@pytest.mark.parametrize("likelihood", [None, *LIKELIHOODS])
def test_losses_against_scipy(nb, make_model, rng, x, likelihood):
    model = make_model()
    z = rng.normal(size=(6, 3)).astype(np.float32)
    model.reparameterize = lambda mean, logvar: z  # the draw is known
    score = LIKELIHOODS[likelihood or "log_bernoulli_pdf"](x, model.decode(z)).mean()
    options = {"log_likelihood": getattr(nb, likelihood)} if likelihood else {}
    mean, logvar = (np.float64(a) for a in model.encode(x))
    log_q = stats.norm.logpdf(z, mean, np.exp(logvar / 2)).sum(axis=1)
    divergence = np.mean(log_q - stats.norm.logpdf(z).sum(axis=1))
    loss = nb.compute_loss(model, x, **options)
    np.testing.assert_allclose(loss, divergence - score, rtol=1e-4)
    mmd = nb.compute_mmd_to_prior(z).numpy()  # which has a test of its own
    for weight, given in [(nb.MMD_WEIGHT, {}), (1e6, {"weight": 1e6})]:
        loss = nb.compute_mmd_loss(model, x, **options, **given)
        np.testing.assert_allclose(loss, weight * mmd - score, rtol=1e-3)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("name", ["compute_loss", "compute_mmd_loss"])
@pytest.mark.parametrize("push", [60, 1e3, -1e3])
@pytest.mark.parametrize("network", ["encoder", "decoder"])
def test_losses_stay_finite(nb, make_model, x, network, push, name, likelihood):
    model = make_model()
    bias = getattr(model, network).layers[-1].bias
    # Half of the encoder's last layer are means, which stay; logits go further.
    bias.assign_add([0] * 3 + [push] * 3 if network == "encoder" else [10 * push])
    log_likelihood = getattr(nb, likelihood)
    with nb.tf.GradientTape() as tape:
        loss = getattr(nb, name)(model, x, log_likelihood=log_likelihood)
    for value in (loss, *tape.gradient(loss, model.trainable_variables)):
        assert np.all(np.isfinite(value))


def test_kernel_and_mmd_against_scipy(nb, rng):
    def kernel(p, q):
        return np.exp(-distance.cdist(p, q, "sqeuclidean") / 4)

    a = rng.normal(size=(300, 4)).astype(np.float32)
    b = rng.normal(loc=0.7, scale=1.5, size=(200, 4)).astype(np.float32)
    np.testing.assert_allclose(nb.compute_kernel(a, b), kernel(a, b), atol=1e-5)
    expected = kernel(a, a).mean() + kernel(b, b).mean() - 2 * kernel(a, b).mean()
    assert expected > 0.01
    # Also in a graph that does not know the sizes, as in a training.
    signature = [nb.tf.TensorSpec([None, 4])] * 2
    graph = nb.tf.function(nb.compute_mmd, input_signature=signature)
    for compute_mmd in (nb.compute_mmd, graph):
        np.testing.assert_allclose(compute_mmd(a, b), expected, rtol=1e-3)
        np.testing.assert_allclose(compute_mmd(a, a[::-1]), 0, atol=1e-6)


@pytest.mark.parametrize(("n", "dim"), [(7, 1), (7, 3), (7, 20), (1, 3)])
def test_compute_mmd_to_prior_against_integrals(nb, rng, n, dim):
    z = rng.normal(loc=0.4, scale=1.3, size=(n, dim)).astype(np.float32)
    np.testing.assert_allclose(nb.compute_mmd_to_prior(z), mmd_to_prior(z), atol=2e-5)
