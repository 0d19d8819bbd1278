"""Densities, ELBO, MMD and the other losses, against scipy, numpy and closed forms."""

import numpy as np
import pytest
from conftest import close, make_blobs, make_model
from scipy import stats
from scipy.spatial.distance import cdist, pdist
from scipy.special import expit


def bernoulli(x, logits):
    """ln p(x|z) of each image; minus the cross-entropy where a pixel is grey."""
    p = expit(np.float64(logits))
    return np.sum(x * np.log(p) + (1 - x) * np.log(1 - p), axis=(1, 2, 3))


def calibrated(x, logits):
    """Gaussian ln p(x|z) of each image, as sharp as error and rounding allow."""
    mean = expit(np.float64(logits))
    variance = np.mean((x - mean) ** 2) + stats.uniform(scale=1 / 255).var()
    return stats.norm.logpdf(x, mean, np.sqrt(variance)).sum(axis=(1, 2, 3))


LIKELIHOODS = {"CVAE": bernoulli, "CalibratedCVAE": calibrated}


def mmd_to_prior(z):
    """The unbiased squared MMD of codes against all of N(0, I), by integrals."""
    dim = z.shape[1]
    # Squared distances to a normal draw follow a noncentral chi-squared law.
    laws = [stats.ncx2(dim, np.sum(code**2, dtype=float)) for code in z]
    to_prior = [law.expect(lambda r: np.exp(-r / dim)) for law in laws]
    within_prior = stats.chi2(dim).expect(lambda r: np.exp(-2 * r / dim))
    pairs = np.exp(-pdist(z, "sqeuclidean") / dim)  # none with itself
    return pairs.mean() + within_prior - 2 * np.mean(to_prior)


def test_log_normal_pdf_against_scipy(nb, rng):
    sample, mean, logvar = rng.normal(scale=2, size=(3, 5, 4, 3)).astype(np.float32)
    expected = stats.norm.logpdf(sample, mean, np.exp(logvar / 2))
    close(nb.log_normal_pdf(sample, mean, logvar), expected.sum(axis=1), rtol=1e-4)
    close(nb.log_normal_pdf(sample, mean, logvar, 2), expected.sum(axis=2), rtol=1e-4)


@pytest.mark.parametrize("kind", LIKELIHOODS)
def test_likelihoods_and_losses_against_scipy(nb, rng, monkeypatch, kind):
    model = make_model(nb, kind)
    x, _ = make_blobs(6)
    z = rng.normal(size=(6, 3)).astype(np.float32)
    logits = model.decode(z)
    for images in (np.round(x), expit(logits), x):  # the second is a perfect copy
        score = LIKELIHOODS[kind](images, logits)
        close(model.log_likelihood(images, logits), score, rtol=1e-3)
    model.reparameterize = lambda mean, logvar: z  # the draw is known
    mean, logvar = model.encode(x)
    log_q = stats.norm.logpdf(z, mean, np.exp(logvar / 2)).sum(axis=1)
    kl = np.mean(log_q - stats.norm.logpdf(z).sum(axis=1))
    mmd = mmd_to_prior(z)
    monkeypatch.setattr(nb, "MMD_WEIGHT", 77.0)  # a changed constant takes effect
    for loss, regularizer in [
        (nb.compute_loss(model, x), kl),
        (nb.make_weighted_kl_loss(0.1)(model, x), 0.1 * kl),
        (nb.compute_mmd_loss(model, x), 77 * mmd),
        (nb.compute_mmd_loss(model, x, 1e4), 1e4 * mmd),
    ]:
        close(loss, regularizer - np.mean(score), rtol=1e-3)


@pytest.mark.parametrize("kind", LIKELIHOODS)
@pytest.mark.parametrize("push", [1e4, -1e4])
@pytest.mark.parametrize("network", ["encoder", "decoder"])
@pytest.mark.parametrize("n", [6, 1])  # the last batch of a test may have one image
def test_losses_stay_finite(nb, network, push, kind, n):
    model = make_model(nb, kind)
    bias = getattr(model, network).layers[-1].bias
    bias.assign_add(push * np.ones(bias.shape))
    for loss_fn in (nb.compute_loss, nb.compute_mmd_loss):
        with nb.tf.GradientTape() as tape:
            loss = loss_fn(model, make_blobs(n)[0])
        gradients = tape.gradient(loss, model.trainable_variables)
        assert all(np.all(np.isfinite(value)) for value in (loss, *gradients))


def test_kernel_and_mmd_against_scipy(nb, rng):
    a = rng.normal(size=(300, 4)).astype(np.float32)
    b = rng.normal(loc=0.7, scale=1.5, size=(200, 4)).astype(np.float32)
    pairs = (a, a), (b, b), (a, b)
    aa, bb, ab = (np.exp(-cdist(*pair, "sqeuclidean") / 4) for pair in pairs)
    close(nb.compute_kernel(a, b), ab, atol=1e-5)
    close(nb.compute_mmd(a, b), aa.mean() + bb.mean() - 2 * ab.mean(), rtol=1e-3)


def test_compute_mmd_ratio_against_many_draws(nb, rng, monkeypatch):
    values = []
    for seed, (a, b) in enumerate(rng.normal(size=(80, 2, 60, 4)).astype(np.float32)):
        monkeypatch.setattr(nb, "SEED", seed)  # of the prior's draws
        ratios = nb.compute_mmd_ratio(a), nb.compute_mmd_ratio(a + 1)
        values.append([*ratios, nb.compute_mmd(a, b), nb.compute_mmd(a + 1, b)])
    prior_ratio, ratio, prior_mmd, mmd = np.mean(values, axis=0)
    assert prior_ratio == pytest.approx(1, rel=0.15)
    assert ratio == pytest.approx(mmd / prior_mmd, rel=0.15)
