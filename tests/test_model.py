"""CVAE: its shapes, its encoder and decoder, the noise, and bad arguments."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit


def layers_of(nb, network, kind):
    """The layers of one Keras class in a network, in order."""
    return [
        layer
        for layer in network.layers
        if type(layer) is getattr(nb.tf.keras.layers, kind)
    ]


@settings(max_examples=12, deadline=None)
@given(
    side=st.integers(1, 4),
    strides=st.integers(1, 3),
    num_convolutions=st.integers(1, 3),
    num_channels=st.integers(1, 4),
    latent_dim=st.integers(1, 5),
    kernel_size=st.integers(1, 5),
    hidden_units=st.lists(st.integers(1, 6), max_size=2),
)
def test_CVAE_shapes(
    nb, side, strides, num_convolutions, num_channels, latent_dim, kernel_size, **rest
):
    img_size = side * strides**num_convolutions
    model = nb.CVAE(
        img_size=img_size,
        num_channels=num_channels,
        latent_dim=latent_dim,
        num_convolutions=num_convolutions,
        strides=strides,
        filters=2,
        kernel_size=kernel_size,
        **rest,
    )
    image_shape = (2, img_size, img_size, num_channels)
    mean, logvar = model.encode(np.zeros(image_shape, np.float32))
    assert mean.shape == logvar.shape == (2, latent_dim)
    z = np.zeros((2, latent_dim), np.float32)
    assert model.decode(z).shape == model.sample(z).shape == image_shape
    deconvolutions = layers_of(nb, model.decoder, "Conv2DTranspose")
    first, last = deconvolutions[0], deconvolutions[-1]
    assert first.input.shape[1] == first.input.shape[2] == side
    assert model.decoder.layers[-1] is last
    assert last.filters == num_channels
    assert last.activation is nb.tf.keras.activations.linear


def test_CVAE_layers_follow_the_arguments(nb):
    model = nb.CVAE(
        img_size=24,
        num_channels=3,
        latent_dim=5,
        num_convolutions=3,
        filters=4,
        kernel_size=5,
        hidden_units=(7, 6),
        activation="tanh",
    )
    convolutions = layers_of(nb, model.encoder, "Conv2D")
    assert [layer.filters for layer in convolutions] == [4, 8, 16]
    deconvolutions = layers_of(nb, model.decoder, "Conv2DTranspose")
    assert [layer.filters for layer in deconvolutions] == [8, 4, 3]
    for layer in convolutions + deconvolutions:
        assert layer.kernel_size == (5, 5) and layer.strides == (2, 2)
    dense = layers_of(nb, model.encoder, "Dense")
    assert [layer.units for layer in dense] == [7, 6, 2 * 5]
    hidden = layers_of(nb, model.decoder, "Dense")
    assert [layer.units for layer in hidden] == [6, 7, 3 * 3 * 16]
    inner = convolutions + dense[:-1] + hidden + deconvolutions[:-1]
    assert {layer.activation.__name__ for layer in inner} == {"tanh"}
    assert dense[-1].activation is nb.tf.keras.activations.linear


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("img_size", 30),  # not a multiple of 2 ** 2
        ("img_size", 0),
        ("img_size", 28.0),
        ("num_channels", 0),
        ("num_channels", True),
        ("latent_dim", 0),
        ("latent_dim", -1),
        ("latent_dim", 2.5),
        ("latent_dim", None),
        ("num_convolutions", 0),
        ("num_convolutions", 3),  # 28 is no multiple of 2 ** 3
        ("strides", 0),
        ("strides", 3),
        ("filters", 0),
        ("kernel_size", "3"),
        ("hidden_units", (8, 0)),
        ("hidden_units", (8, 2.5)),
    ],
)
def test_CVAE_rejects_bad_arguments(nb, name, value):
    arguments = dict(img_size=28, num_channels=1, latent_dim=2, num_convolutions=2)
    with pytest.raises(ValueError, match=name):
        nb.CVAE(**(arguments | {name: value}))


def test_encode_returns_mean_then_logvar(make_model, rng):
    model = make_model()
    x = rng.uniform(size=(5, 8, 8, 1)).astype(np.float32)
    mean, logvar = model.encode(x)
    np.testing.assert_array_equal(np.hstack([mean, logvar]), model.encoder(x))
    assert np.ptp(mean, axis=0).min() > 0  # the codes depend on the images


def test_reparameterize_draws_have_the_given_mean_and_variance(make_model):
    n = 20_000
    mean = np.array([[0.0, -2.0, 3.0]], np.float32)
    logvar = np.array([[0.0, 1.5, -2.0]], np.float32)
    rows = np.ones((n, 1), np.float32)
    z = make_model().reparameterize(rows * mean, rows * logvar).numpy()
    variance = np.exp(logvar[0])
    assert np.all(np.abs(z.mean(axis=0) - mean[0]) < 5 * np.sqrt(variance / n))
    assert np.all(np.abs(z.var(axis=0) / variance - 1) < 5 * np.sqrt(2 / n))
    correlation = np.corrcoef(z.T) - np.eye(3)  # independent dimensions
    assert np.abs(correlation).max() < 5 / np.sqrt(n)


def test_reparameterize_noise_is_fresh_and_seeded(make_model):
    zeros = np.zeros((4, 3), np.float32)
    one, same, other = make_model(seed=5), make_model(seed=5), make_model(seed=6)
    first = one.reparameterize(zeros, zeros).numpy()
    np.testing.assert_array_equal(first, same.reparameterize(zeros, zeros))
    assert not np.allclose(first, one.reparameterize(zeros, zeros))
    assert not np.allclose(first, other.reparameterize(zeros, zeros))


def test_reparameterize_passes_gradients(nb, make_model, rng):
    model, tf = make_model(), nb.tf
    mean, logvar = (tf.constant(a, tf.float32) for a in rng.normal(size=(2, 6, 3)))
    with tf.GradientTape() as tape:
        tape.watch([mean, logvar])
        z = model.reparameterize(mean, logvar)
    by_mean, by_logvar = tape.gradient(z, [mean, logvar])
    np.testing.assert_allclose(by_mean, np.ones((6, 3)))
    # z = mean + exp(logvar / 2) eps, so dz / dlogvar = (z - mean) / 2.
    np.testing.assert_allclose(by_logvar, (z - mean) / 2, rtol=1e-4, atol=1e-6)


def test_gradients_reach_every_encoder_weight(nb, make_model, rng):
    model = make_model()
    x = rng.uniform(size=(4, 8, 8, 1)).astype(np.float32)
    with nb.tf.GradientTape() as tape:
        loss = nb.tf.reduce_sum(model(x) ** 2)
    for gradient in tape.gradient(loss, model.encoder.trainable_variables):
        assert np.any(gradient.numpy() != 0)


def test_decode_gives_logits_and_their_sigmoid(make_model, rng):
    model = make_model()
    z = rng.normal(size=(4, 3)).astype(np.float32)
    logits = model.decode(z).numpy()
    assert logits.min() < 0 and logits.max() > 1
    probabilities = model.decode(z, apply_sigmoid=True)
    np.testing.assert_allclose(probabilities, expit(logits), rtol=1e-5)


def test_sample_decodes_given_codes_to_images(make_model, rng):
    model = make_model()
    z = rng.normal(size=(4, 3)).astype(np.float32)
    np.testing.assert_allclose(model.sample(z), expit(model.decode(z)), rtol=1e-5)


def test_sample_draws_from_the_prior(nb, make_model):
    model = make_model()
    images = model.sample().numpy()
    assert images.shape[1:] == (8, 8, 1)
    assert images.min() >= 0 and images.max() <= 1
    model.decode = lambda z, apply_sigmoid=False: z  # shows the codes themselves
    draws = np.concatenate([model.sample() for _ in range(50)])
    n = len(draws)
    assert draws.shape[1] == 3
    assert len(np.unique(draws[:, 0])) == n  # no draw comes twice
    assert np.abs(draws.mean(axis=0)).max() < 5 / np.sqrt(n)
    assert np.abs(draws.var(axis=0) - 1).max() < 5 * np.sqrt(2 / n)


def test_call_is_decode_of_a_draw(make_model, rng):
    model = make_model()
    x = rng.uniform(size=(3, 8, 8, 1)).astype(np.float32)
    code = rng.normal(size=(3, 3)).astype(np.float32)
    model.reparameterize = lambda mean, logvar: code
    np.testing.assert_allclose(model(x), model.decode(code), rtol=1e-5)
