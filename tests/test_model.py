"""CVAE: its shapes and layers, encoder and decoder, the noise."""

import types
from unittest import mock

import numpy as np
import pytest
from scipy.special import expit


@pytest.mark.parametrize("side", [1, 4])
@pytest.mark.parametrize(("strides", "num_convolutions"), [(1, 1), (2, 3), (3, 2)])
@pytest.mark.parametrize("rest", [{}, {"hidden_units": (5, 4)}, {"map_code": True}])
def test_CVAE_shapes(nb, side, strides, num_convolutions, rest):
    size = side * strides**num_convolutions
    dim = 2 * side**2
    model = nb.CVAE(size, 3, dim, num_convolutions, strides, filters=2, **rest)
    mean, logvar = model.encode(np.zeros((2, size, size, 3), np.float32))
    assert mean.shape == logvar.shape == (2, dim)
    assert model.decode(mean).shape == model.sample(mean).shape == (2, size, size, 3)
    first = next(a for a in model.decoder.layers if "transpose" in a.name)
    assert first.input.shape[1] == first.input.shape[2] == side


def test_CVAE_layers_follow_the_arguments(nb):
    model = nb.CVAE(24, 3, 5, 3, 2, filters=4, hidden_units=(7, 6))
    convolutions = [(4, 4, 3, 4), (4, 4, 4, 8), (4, 4, 8, 16)]
    inner = 3 * 3 * 16
    for network, expected in [
        (model.encoder, [*convolutions, (inner, 7), (7, 6), (6, 2 * 5)]),
        (model.decoder, [(5, 6), (6, 7), (7, inner), *convolutions[::-1]]),
    ]:
        layers = [layer for layer in network.layers if layer.weights]
        assert [layer.kernel.shape for layer in layers] == expected
        names = [layer.activation.__name__ for layer in layers]
        assert names == ["gelu"] * 5 + ["linear"] and layers[-1] is network.layers[-1]


def test_map_code_starts_where_the_image_is(nb, rng):
    model = nb.CVAE(32, 1, latent_dim=8 * 8 * 3, map_code=True)
    row, column = place = (2, 5)
    z = np.zeros((2, 8, 8, 3), np.float32)
    z[1, row, column, 1] = 1
    images = np.repeat(rng.uniform(size=(1, 32, 32, 1)).astype(np.float32), 2, axis=0)
    images[1, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 1
    decoded = model.decode(z.reshape(2, -1)).numpy().reshape(2, 8, 4, 8, 4)
    codes = [code.numpy().reshape(2, 8, 8, 3) for code in model.encode(images)]
    for before, after in (decoded.swapaxes(2, 3), *codes):
        changed = np.argwhere((before != after).reshape(8, 8, -1).any(axis=2))
        distances = np.abs(changed - place).max(axis=1)
        assert distances.min() == 0 and distances.max() <= 2


@pytest.mark.parametrize(("size", "n", "dim"), [(0, 2, 4), (28, 3, 9), (8, 2, 6)])
def test_CVAE_rejects_sizes_that_do_not_divide(nb, size, n, dim):
    problem = f"img_size={size} must be a multiple .* latent_dim={dim} of"
    with pytest.raises(ValueError, match=problem):
        nb.CVAE(size, 1, dim, num_convolutions=n, map_code=True)


def test_encode_returns_mean_then_logvar_within_bounds(nb, make_model, rng):
    model = make_model()
    low, high = nb.LOGVAR_BOUNDS
    x = rng.uniform(size=(5, 8, 8, 1)).astype(np.float32)
    mean, logvar = model.encode(x)
    raw = model.encoder(x).numpy()
    raw[:, 3:] = raw[:, 3:].clip(low, high)
    np.testing.assert_array_equal(np.hstack([mean, logvar]), raw)
    assert np.ptp(mean, axis=0).min() > 0  # the codes depend on the images
    model.encoder.layers[-1].bias.assign([1e3, -1e3, 0, 1e3, -1e3, 0])
    mean, logvar = model.encode(x)
    assert np.all(mean[:, 0] > 900) and np.all(mean[:, 1] < -900)
    assert np.all(logvar[:, 0] == high) and np.all(logvar[:, 1] == low)


def test_reparameterize_draws_have_the_given_mean_and_variance(make_model):
    n = 20_000
    mean = np.float32([0, -2, 3])
    logvar = np.float32([0, 1.5, -2])
    rows = np.ones((n, 1), np.float32)
    z = make_model().reparameterize(rows * mean, rows * logvar).numpy()
    variance = np.exp(logvar)
    assert np.all(np.abs(z.mean(axis=0) - mean) < 5 * np.sqrt(variance / n))
    assert np.all(np.abs(z.var(axis=0) / variance - 1) < 5 * np.sqrt(2 / n))


def test_weights_and_noise_follow_the_seed(nb):
    one, same, other = (nb.CVAE(8, 1, 3, filters=2, seed=seed) for seed in (5, 5, 6))
    zeros = np.zeros((4, 3), np.float32)
    draws = [model.reparameterize(zeros, zeros).numpy() for model in (one, same, other)]
    for a, b, c in (draws, [model.get_weights()[0] for model in (one, same, other)]):
        np.testing.assert_array_equal(a, b)
        assert not np.allclose(a, c)
    assert not np.allclose(draws[0], one.reparameterize(zeros, zeros))  # fresh noise


def test_every_replica_draws_its_own_noise(nb, mirrored, monkeypatch):
    strategy = mirrored(2)
    with strategy.scope():
        model = nb.CVAE(8, 1, 3, filters=2)
        zeros = nb.tf.zeros((4, 3))
        draws = [model.reparameterize(zeros, zeros)]  # for all replicas
    draw = nb.tf.function(lambda: strategy.run(model.reparameterize, (zeros, zeros)))
    draws += [*draw().values, *draw().values]
    for number in nb.tf.constant([0, 1]):  # all that XLA, with one CPU device, needs
        context = types.SimpleNamespace(replica_id_in_sync_group=number)
        get_context = mock.Mock(return_value=context)
        monkeypatch.setattr(nb.tf.distribute, "get_replica_context", get_context)
        model = nb.CVAE(8, 1, 3, filters=2)
        draw = nb.tf.function(model.reparameterize, jit_compile=True)
        draws.append(draw(zeros, zeros))
    assert len(np.unique(draws)) == 7 * zeros.shape.num_elements()


def test_decode_and_sample_give_logits_and_their_sigmoid(make_model, rng):
    model = make_model()
    z = rng.normal(size=(4, 3)).astype(np.float32)
    logits = model.decode(z).numpy()
    assert logits.min() < -1 and np.ptp(logits) > 2
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
