"""CVAE: its shapes and layers, encoder and decoder, the noise."""

import numpy as np
import pytest
from scipy.special import expit


@pytest.mark.parametrize("side", [1, 4])
@pytest.mark.parametrize(("strides", "num_convolutions"), [(1, 1), (2, 3), (3, 2)])
@pytest.mark.parametrize("rest", [{}, {"kernel_size": 2, "hidden_units": (5, 4)}])
def test_CVAE_shapes(nb, side, strides, num_convolutions, rest):
    size = side * strides**num_convolutions
    model = nb.CVAE(size, 3, 5, num_convolutions, strides, filters=2, **rest)
    mean, logvar = model.encode(np.zeros((2, size, size, 3), np.float32))
    assert mean.shape == logvar.shape == (2, 5)
    assert model.decode(mean).shape == model.sample(mean).shape == (2, size, size, 3)
    first = next(a for a in model.decoder.layers if "transpose" in a.name)
    assert first.input.shape[1] == first.input.shape[2] == side


def test_CVAE_layers_follow_the_arguments(nb):
    model = nb.CVAE(24, 3, 5, 3, 2, 4, 5, hidden_units=(7, 6), activation="tanh")
    convolutions, inner = [(5, 5, 3, 4), (5, 5, 4, 8), (5, 5, 8, 16)], 3 * 3 * 16
    for network, expected in [
        (model.encoder, [*convolutions, (inner, 7), (7, 6), (6, 2 * 5)]),
        (model.decoder, [(5, 6), (6, 7), (7, inner), *convolutions[::-1]]),
    ]:
        layers = [layer for layer in network.layers if layer.weights]
        assert [layer.kernel.shape for layer in layers] == expected
        names = [layer.activation.__name__ for layer in layers]
        assert names == ["tanh"] * 5 + ["linear"] and layers[-1] is network.layers[-1]


@pytest.mark.parametrize(("size", "num_convolutions"), [(30, 2), (28, 3), (0, 2)])
def test_CVAE_rejects_sizes_that_do_not_divide(nb, size, num_convolutions):
    with pytest.raises(ValueError, match="img_size must be a multiple of strides"):
        nb.CVAE(size, 1, 2, num_convolutions)


def test_encode_returns_mean_then_logvar_within_bounds(nb, make_model, rng):
    model, (low, high) = make_model(), nb.LOGVAR_BOUNDS
    x = rng.uniform(size=(5, 8, 8, 1)).astype(np.float32)
    mean, logvar = model.encode(x)
    np.testing.assert_array_equal(np.hstack([mean, logvar]), model.encoder(x))
    assert np.ptp(mean, axis=0).min() > 0  # the codes depend on the images
    model.encoder.layers[-1].bias.assign([1e3, -1e3, 0, 1e3, -1e3, 0])
    mean, logvar = model.encode(x)
    assert np.all(mean[:, 0] > 900) and np.all(mean[:, 1] < -900)
    assert np.all(logvar[:, 0] == high) and np.all(logvar[:, 1] == low)


def test_reparameterize_draws_have_the_given_mean_and_variance(make_model):
    n, mean, logvar = 20_000, np.float32([0, -2, 3]), np.float32([0, 1.5, -2])
    rows = np.ones((n, 1), np.float32)
    z = make_model().reparameterize(rows * mean, rows * logvar).numpy()
    variance = np.exp(logvar)
    assert np.all(np.abs(z.mean(axis=0) - mean) < 5 * np.sqrt(variance / n))
    assert np.all(np.abs(z.var(axis=0) / variance - 1) < 5 * np.sqrt(2 / n))
    correlation = np.corrcoef(z.T) - np.eye(3)  # independent dimensions
    assert np.abs(correlation).max() < 5 / np.sqrt(n)


def test_weights_and_noise_follow_the_seed(nb):
    one, same, other = (nb.CVAE(8, 1, 3, filters=2, seed=seed) for seed in (5, 5, 6))
    zeros = np.zeros((4, 3), np.float32)
    draws = [model.reparameterize(zeros, zeros).numpy() for model in (one, same, other)]
    for a, b, c in (draws, [model.get_weights()[0] for model in (one, same, other)]):
        np.testing.assert_array_equal(a, b)
        assert not np.allclose(a, c)
    assert not np.allclose(draws[0], one.reparameterize(zeros, zeros))  # fresh noise


def test_reparameterize_passes_gradients(nb, make_model, rng):
    mean, logvar = (nb.tf.constant(a, "float32") for a in rng.normal(size=(2, 6, 3)))
    with nb.tf.GradientTape() as tape:
        tape.watch([mean, logvar])
        z = make_model().reparameterize(mean, logvar)
    by_mean, by_logvar = tape.gradient(z, [mean, logvar])
    np.testing.assert_allclose(by_mean, np.ones((6, 3)))
    # z = mean + exp(logvar / 2) eps, so dz / dlogvar = (z - mean) / 2.
    np.testing.assert_allclose(by_logvar, (z - mean) / 2, rtol=1e-4, atol=1e-6)


def test_decode_and_sample_give_logits_and_their_sigmoid(make_model, rng):
    model = make_model()
    z = rng.normal(size=(4, 3)).astype(np.float32)
    logits = model.decode(z).numpy()
    assert logits.min() < 0 and logits.max() > 1
    for images in (model.decode(z, apply_sigmoid=True), model.sample(z)):
        np.testing.assert_allclose(images, expit(logits), rtol=1e-5)


def test_sample_draws_from_the_prior(make_model):
    model = make_model()
    assert model.sample().shape[1:] == (8, 8, 1)
    model.decode = lambda z, apply_sigmoid=False: z  # shows the codes themselves
    draws = np.concatenate([model.sample() for _ in range(50)])
    n = len(draws)
    assert len(np.unique(draws[:, 0])) == n  # no draw comes twice
    assert np.abs(draws.mean(axis=0)).max() < 5 / np.sqrt(n)
    assert np.abs(draws.var(axis=0) - 1).max() < 5 * np.sqrt(2 / n)
